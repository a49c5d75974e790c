"""The report as a reader meets it: opened in a real browser, sorted, unfolded, printed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_builders import bare_report, full_report, report_of

from segdeploy.benchmarks.report.compare import compare_reports
from segdeploy.benchmarks.report.compare_page import write_comparison
from segdeploy.benchmarks.report.files import write_report

if sys.platform == "win32":
    pytest.skip("the browser is driven over POSIX pipes", allow_module_level=True)

from devtools import Browser, browser_path

PROGRAM = browser_path()
pytestmark = pytest.mark.skipif(
    PROGRAM is None,
    reason="no Chromium here: apt-get install chromium, or SEGDEPLOY_BROWSER=/path/to/chrome",
)

PHONE, SCREEN = 390, 1200
PAPER = 718
"""CSS pixels between the margins of A4."""

DATA = "data:"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages of a whole report, of one that measured nothing, and of a comparison."""
    root = tmp_path_factory.mktemp("pages")
    report, later = full_report(), full_report()
    later["environment"]["cpu"] = "Another CPU"
    write_report(report_of(report), root / "full")
    write_report(report_of(bare_report()), root / "bare")
    compared = compare_reports(report_of(report), report_of(later))
    write_comparison(compared, root / "compared")
    return root


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert PROGRAM is not None
    with Browser(PROGRAM, tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(params=["full/report.html", "bare/report.html", "compared/compare.html"])
def page(request: pytest.FixtureRequest, folder: Path) -> Path:
    found: Path = folder / request.param
    return found


def test_it_opens_without_complaints_and_asks_the_network_for_nothing(
    browser: Browser, page: Path
) -> None:
    browser.media()
    browser.open(page)
    browser.run("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert browser.complaints == []
    asked = [address for address in browser.requests if not address.startswith(DATA)]
    assert asked == [page.resolve().as_uri()]
    assert browser.run("document.querySelector('h1').textContent.length") > 0


def test_the_browser_would_have_noticed_a_request_and_an_error(
    browser: Browser, tmp_path: Path
) -> None:
    """What the test before relies on."""
    broken = tmp_path / "broken.html"
    broken.write_text("<img src='elsewhere.png'><script>missing()</script>")
    browser.open(broken)
    assert (tmp_path / "elsewhere.png").resolve().as_uri() in browser.requests
    assert any("missing is not defined" in complaint for complaint in browser.complaints)


def column(browser: Browser, index: int) -> list[str]:
    found: list[str] = browser.run(
        f"[...document.querySelector('table.sort').tBodies[0].rows].map(r => r.cells[{index}]"
        ".textContent.trim())"
    )
    return found


def test_a_click_on_a_heading_sorts_the_table_and_another_turns_it(
    browser: Browser, folder: Path
) -> None:
    browser.media()
    browser.open(folder / "full" / "report.html")
    before = column(browser, 2)
    browser.click("table.sort thead button", 2)
    up = column(browser, 2)
    browser.click("table.sort thead button", 2)
    down = column(browser, 2)
    assert before == ["80.00", "80.00", "80.00", "79.97"]
    assert up == ["79.97", "80.00", "80.00", "80.00"]
    assert down == ["80.00", "80.00", "80.00", "79.97"]
    sorted_by = "document.querySelector('[aria-sort]').getAttribute('aria-sort')"
    assert browser.run(sorted_by) == "descending"


def test_every_picture_loads(browser: Browser, folder: Path) -> None:
    browser.open(folder / "full" / "report.html")
    sizes = browser.run("[...document.images].map(i => [i.complete, i.naturalWidth])")
    assert sizes == [[True, 8]] * (2 * 5)


def test_a_bar_of_the_layer_chart_unfolds_its_histogram(browser: Browser, folder: Path) -> None:
    browser.media()
    browser.open(folder / "full" / "report.html")
    seen = "document.getElementById('layer-1').checkVisibility()"
    assert browser.run(seen) is False
    browser.click("svg.wide a[href='#layer-1'] path")
    browser.run("new Promise(done => setTimeout(done, 100))")
    assert browser.run(seen) is True
    assert browser.run("location.hash") == "#layer-1"


@pytest.mark.parametrize(
    ("media", "width"), [("", SCREEN), ("", PHONE), ("", 320), ("print", PAPER)]
)
def test_nothing_sticks_out_on_the_right(
    browser: Browser, page: Path, media: str, width: int
) -> None:
    browser.media(media)
    browser.open(page, width=width)
    browser.run("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert browser.run("document.documentElement.scrollWidth") <= width
    if media == "print":  # paper does not scroll: what is cut off is lost
        inside = "[...document.querySelectorAll('.scroll')].map(s => s.scrollWidth - s.clientWidth)"
        assert max(browser.run(inside), default=0) <= 1


def test_one_drawing_of_each_chart_is_shown_at_any_width(browser: Browser, folder: Path) -> None:
    shown = (
        "[...document.querySelectorAll('svg.chart')].filter(c => c.checkVisibility())"
        ".map(c => c.classList.contains('narrow'))"
    )
    for media, width, narrow in (("", SCREEN, False), ("", PHONE, True), ("print", PAPER, False)):
        browser.media(media)
        browser.open(folder / "full" / "report.html", width=width)
        assert browser.run(shown) == [narrow] * 4


def test_light_and_dark_differ_and_both_can_be_read(browser: Browser, folder: Path) -> None:
    found: dict[bool, Any] = {}
    for dark in (False, True):
        browser.media(dark=dark)
        browser.open(folder / "full" / "report.html")
        for place in ("body", "svg.wide text"):
            ink = browser.run(
                f"(s => s.fill !== 'rgb(0, 0, 0)' ? s.fill : s.color)"
                f"(getComputedStyle(document.querySelector('{place}')))"
            )
            paper = browser.run("getComputedStyle(document.body).backgroundColor")
            assert contrast(ink, paper) >= 4.5, (place, dark, ink, paper)
            found[dark] = paper
    assert found[False] != found[True]


def contrast(one: str, other: str) -> float:
    """WCAG's ratio of two colours as ``rgb(r, g, b)``; small text needs 4.5."""

    def luminance(colour: str) -> float:
        parts = [int(p) / 255 for p in colour.removeprefix("rgb(").removesuffix(")").split(",")]
        red, green, blue = (
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_it_prints(browser: Browser, folder: Path) -> None:
    browser.media()
    browser.open(folder / "full" / "report.html")
    printed = browser.pdf()
    assert printed.startswith(b"%PDF-")
    assert len(printed) > 20_000
    unfolded = "[...document.querySelectorAll('details')].every(part => part.open)"
    assert browser.run(unfolded), "print shows what the screen folds away"
