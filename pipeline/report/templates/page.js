"use strict";
// A link to a folded section opens it.
const open = () => {
  const fold = location.hash && document.getElementById(location.hash.slice(1));
  if (fold?.tagName === "DETAILS") fold.open = true;
};
addEventListener("hashchange", open);
open();
// Browsers without ::details-content print closed folds only if they are opened first.
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open]):not(.unprinted)")];
  for (const fold of opened) fold.open = true;
});
addEventListener("afterprint", () => { for (const fold of opened) fold.open = false; });
