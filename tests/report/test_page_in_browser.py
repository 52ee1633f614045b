"""The page as a reader has it: in Chromium, offline, by keyboard, on a phone, on paper."""

from __future__ import annotations

import re


def test_opening_and_using_the_page_sends_no_request(new_page, built):
    page = new_page()
    asked, errors = [], []
    page.on("request", lambda r: asked.append(r.url))
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.goto(built.as_uri())
    page.locator("img").last.scroll_into_view_if_needed()
    page.locator("button[data-dialog]").first.click()
    page.wait_for_timeout(200)
    outside = [u for u in asked if not u.startswith(("file:", "data:"))]
    assert outside == []
    assert [u for u in asked if u.startswith("file:")] == [built.as_uri()]
    assert errors == []


def test_the_file_names_no_address_of_the_web(built):
    text = built.read_text(encoding="utf-8")
    assert re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?:https?:)?//""", text) == []


def test_the_page_stays_small(built):
    assert built.stat().st_size < 15e6


def test_every_picture_loads_and_has_a_text_for_those_who_cannot_see_it(page):
    broken = page.evaluate(
        """async () => { const out = [];
        for (const i of document.images) { i.loading = 'eager'; await i.decode().catch(() => 0);
          if (!i.naturalWidth || !i.alt) out.push(i.outerHTML.slice(0, 80)); }
        return out; }"""
    )
    assert page.locator("img").count() > 20
    assert broken == []


def test_the_page_itself_never_scrolls_sideways_on_a_phone(new_page, built):
    page = new_page(390, 844)
    page.goto(built.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    wide = page.locator(".scroll").evaluate_all(
        "boxes => boxes.filter((b) => b.scrollWidth > b.clientWidth).length"
    )
    assert wide > 0  # wide tables scroll inside their own box


def test_a_confusion_cell_opens_its_images_by_keyboard_and_closes_with_escape(page):
    button = page.locator("button[data-dialog]").first
    button.focus()
    page.keyboard.press("Enter")
    dialog = page.locator("dialog[open]")
    assert dialog.count() == 1
    assert dialog.locator("img").count() >= 1
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    assert button.evaluate("b => b === document.activeElement")  # focus comes back


def test_the_page_begins_with_what_was_asked_what_came_out_and_how_sure(page):
    first = page.locator("main section").first
    assert first.get_attribute("id") == "summary"
    starts = first.locator("ul").first.locator("b").all_inner_texts()
    assert starts[:2] == ["Asked.", "Done."]
    assert starts[-2:] == ["How sure.", "Beware."]
    assert {"set one.", "set two."} < set(starts)


def test_every_control_is_reached_with_the_tab_key(page):
    unreachable = page.locator("button, summary, nav a").evaluate_all(
        "all => all.filter((e) => e.tabIndex < 0).length"
    )
    assert unreachable == 0
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"


def test_what_validation_chose_is_written_out_and_hints_are_shown_to_the_keyboard_too(page):
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    table = page.locator("table", has_text="chosen on the validation part").first
    cells = table.locator("tbody tr td:last-child").all_inner_texts()
    assert cells.count("C = 0.1 (0.800) · C = 0.1 (0.800)") > 10
    hints = page.locator("td[title]")
    assert hints.evaluate_all("all => all.filter((e) => e.tabIndex < 0).length") == 0
    hint = table.locator("td[title]").first
    said = "e => getComputedStyle(e, '::after').content"
    assert hint.evaluate(said) == "none"
    hint.focus()
    assert "loss is not finite" in hint.evaluate(said)


def test_a_table_sorts_by_number_both_ways_with_the_keyboard(page):
    table = page.locator("table.sortable", has_text="Pairs of copies").first
    values = "rows => rows.map((r) => Number(r.cells[1].textContent))"
    button = table.locator("thead th").nth(1).locator("button")
    button.focus()
    page.keyboard.press("Enter")
    up = table.locator("tbody tr").evaluate_all(values)
    page.keyboard.press("Enter")
    down = table.locator("tbody tr").evaluate_all(values)
    assert up == sorted(up)
    assert down == sorted(up, reverse=True)
    assert table.locator("th[aria-sort=descending]").count() == 1


def test_every_link_of_the_nav_leads_somewhere(page):
    lost = page.locator("nav a").evaluate_all(
        "all => all.filter((a) => !document.getElementById(a.hash.slice(1))).map((a) => a.hash)"
    )
    assert lost == []


def test_ids_are_unique_although_names_are_alike(page):
    twice = page.evaluate(
        """() => { const ids = [...document.querySelectorAll('[id]')].map((e) => e.id);
        return ids.filter((id, i) => ids.indexOf(id) !== i); }"""
    )
    assert twice == []


def test_every_plot_is_followed_by_its_table(page):
    figures = page.locator("figure")
    assert figures.count() >= 10
    without = figures.evaluate_all(
        "all => all.filter((f) => !f.querySelector('svg[aria-label]') ||"
        " !f.querySelector('details table')).length"
    )
    assert without == 0


def test_lines_of_a_plot_differ_without_colour(page):
    """Each pair of marked lines in a plot differs in dash or marker, not only in colour."""
    same = page.locator("figure svg").evaluate_all(
        """all => all.flatMap((svg) => {
          const looks = [...svg.querySelectorAll('polyline:not(.rule)')]
            .map((p) => p.getAttribute('stroke-dasharray') + p.getAttribute('stroke-width'));
          return looks.filter((look, i) => looks.indexOf(look) !== i); })"""
    )
    assert same == []


def test_synthetic_data_is_labelled_on_top_and_in_every_section(page):
    assert "Synthetic data" in page.locator("header").inner_text()
    parts = page.locator("section.dataset > section")
    marked = page.locator("section.dataset > section > .banner", has_text="Synthetic data")
    assert parts.count() > 10
    assert marked.count() == parts.count()


def test_print_opens_the_tables_and_drops_the_nav(page):
    page.emulate_media(media="print")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator("nav").is_hidden()
    assert page.locator("details:not([open]):not([data-screen-only])").count() == 0
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.locator("details:not([open])").count() > 0
    assert page.pdf(format="A4").startswith(b"%PDF")
