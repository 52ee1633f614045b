"""Masks corrected by hand: a page in the browser, one small file for each image that was looked at,
and the variant `reviewed` of the masks made of them."""
