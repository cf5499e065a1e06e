"""The page in a browser: it loads without a complaint, is legible, and tokens answer."""

from __future__ import annotations

import pytest
from chromium import Browser, find_chromium
from made_up_run import write_run

from vfunc.report.page.page import write_page

PANEL = "document.querySelector('.panel').innerText"
TOKEN = ".text .tok[data-at='{}']"


@pytest.fixture(scope="module")
def browser():
    program = find_chromium()
    if program is None:
        pytest.skip("there is no Chromium to look at the page with")
    try:
        made = Browser(program)
    except (OSError, RuntimeError) as error:
        pytest.skip(f"{program} does not start here: {error}")
    yield made
    made.close()


def test_the_page_in_a_browser(browser, tmp_path):
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / ("b" * 80), modality="vision")]
    page = tmp_path / "report.html"
    write_page(runs, page)
    faces = set()
    for width in (1280, 390):
        for theme in ("light", "dark"):
            browser.open(page, width, theme)
            wide, shown = browser.value("[document.documentElement.scrollWidth, innerWidth]")
            assert wide <= shown == width  # nothing sticks out
            size = browser.value(
                "Math.min(...[...document.querySelectorAll('svg text')]"
                ".map(e => e.getBoundingClientRect().height))"
            )
            assert size >= 10  # pixels: a chart's text does not shrink with the page
            faces.add(browser.value("getComputedStyle(document.body).backgroundColor"))

            browser.point_at(TOKEN.format(3))  # the mouse
            said = browser.value(PANEL)
            assert "known to be wrong" in said and "second" in said and "oracle's target" in said
            assert "75.0 %" in said and r"\x00\x1b[2J" in said
            assert "value by deflated" in said and "−0.100" in said  # side by side
            sides = browser.value(
                "[...document.querySelectorAll('.pair .text')].map(e => e.getBoundingClientRect().x)"
            )
            assert (sides[0] < sides[1]) == (width == 1280)
            twin = browser.value("document.querySelector('.twin').dataset.at")
            assert twin == "3"
            browser.value(f'document.querySelector("{TOKEN.format(0)}").focus()')  # the keyboard
            assert "Not predicted" in browser.value(PANEL)
            browser.press("ArrowRight")
            assert "alert('x')" in browser.value(PANEL)
            assert browser.value("document.activeElement.dataset.at") == "1"
            face = (
                f"""getComputedStyle(document.querySelector("{TOKEN.format(1)}")).backgroundColor"""
            )
            before = browser.value(face)
            browser.value("document.querySelectorAll('.modes button')[3].click()")  # the gain
            assert browser.value(face) != before
    assert len(faces) == 2
    assert browser.errors == []
    # one that would complain is heard
    page.write_text(page.read_text().replace('"use strict";', "missing();"))
    browser.open(page, 390, "light")
    assert browser.errors
