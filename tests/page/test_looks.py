"""How the page looks: widths, colours, alignment, tables that are cut."""

import re
from collections.abc import Mapping

import pytest

from tests.page.conftest import OpenPage, WithWebsocket
from tests.page.federation import Federation
from tests.page.reading import PHONE, PLOTS, busy, shows
from wire_contract.limits import NAME_CHARACTERS_MAX

SHIFTED = """new Promise((told) => new PerformanceObserver((list) =>
  told(list.getEntries().reduce((sum, entry) => sum + entry.value, 0))).observe({type: 'layout-shift', buffered: true})
  || setTimeout(() => told(0), 500))"""


@pytest.mark.parametrize(
    "form", [{}, PHONE, {"width": 320, "height": 600, "phone": True}], ids=["desk", "phone", "small"]
)
def test_it_fits_the_width_and_does_not_jump(
    toy: Federation, websocket: WithWebsocket, open_page: OpenPage, form: Mapping[str, object]
) -> None:
    toy.teach([0.5, 0.75], devices=("w" * NAME_CHARACTERS_MAX, "watch-2"))
    toy.present("v" * NAME_CHARACTERS_MAX, online=True)
    toy.tell()
    page = open_page(websocket.config(), **form)
    page.eventually(f"{PLOTS} === 3")
    page.eventually(shows("#online", "1"))
    assert page.run("document.documentElement.scrollWidth - innerWidth") <= 0
    sizes = "[...document.querySelectorAll('svg text')].map((text) => parseFloat(getComputedStyle(text).fontSize))"
    assert min(page.run(sizes)) >= 12
    assert page.run(
        "[...document.querySelectorAll('.plot svg')].every((svg) => svg.clientWidth <= svg.parentNode.clientWidth)"
    )
    assert page.run(SHIFTED) < 0.1, "what web pages may shift at most and still be called stable"


def luminance(color: str) -> float:
    """Of `rgb(r, g, b)`, 0 to 1, as WCAG 2.1 defines relative luminance."""
    shares = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    red, green, blue = (share / 12.92 if share <= 0.03928 else ((share + 0.055) / 1.055) ** 2.4 for share in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("dark", [False, True])
def test_light_and_dark_are_both_readable(
    toy: Federation, websocket: WithWebsocket, open_page: OpenPage, *, dark: bool
) -> None:
    busy(toy)
    page = open_page(websocket.config(), dark=dark)
    page.eventually(f"{PLOTS} === 3")
    paper = luminance(page.run("getComputedStyle(document.body).backgroundColor"))
    assert paper < 0.1 if dark else paper > 0.8
    card = luminance(page.run("getComputedStyle(document.querySelector('.card')).backgroundColor"))
    texts = ", ".join(f"main {part}" for part in ("h2", ".note", ".value", "td", "th", "dt", "dd"))
    colors = page.run(f"[...document.querySelectorAll('{texts}')].map((text) => getComputedStyle(text).color)")
    contrasts = [(max(ink, card) + 0.05) / (min(ink, card) + 0.05) for ink in map(luminance, colors)]
    assert min(contrasts) >= 4.5, "contrast of text, as WCAG asks for"


def test_figures_stand_on_one_line_and_both_curves_have_one_range(
    toy: Federation, websocket: WithWebsocket, open_page: OpenPage
) -> None:
    toy.evaluate(0.1)  # version 0, which only the plot over versions shows
    toy.teach([0.8, 0.85])
    page = open_page(websocket.config())
    page.eventually(f"{PLOTS} === 3")
    # Where letters stand: a box of no height at the end of the text.
    baselines = """[...document.querySelectorAll('.figure .value')].map((value) => {
      const mark = document.createElement('span');
      mark.style.cssText = 'display: inline-block; width: 0; height: 0';
      value.append(mark);
      const { bottom } = mark.getBoundingClientRect();
      mark.remove();
      return bottom;
    })"""
    found = page.run(baselines)
    assert max(found) - min(found) < 2, found
    percents = "[...document.querySelectorAll('#{} text')].map((t) => t.textContent).filter((t) => t.includes('%'))"
    assert page.run(percents.format("by-version")) == page.run(percents.format("by-time"))


@pytest.mark.parametrize(("form", "is_cut"), [({}, False), (PHONE, True)], ids=["desk", "phone"])
def test_a_table_that_is_cut_says_so(
    toy: Federation, websocket: WithWebsocket, open_page: OpenPage, form: Mapping[str, object], *, is_cut: bool
) -> None:
    busy(toy)
    page = open_page(websocket.config(), **form)
    page.eventually("document.querySelectorAll('#devices tr').length >= 4")
    page.eventually(f"document.querySelector('#devices-hint').hidden === {str(not is_cut).lower()}")
    cut = page.run("(({scrollWidth, clientWidth}) => scrollWidth > clientWidth)(document.querySelector('.scroll'))")
    assert cut is is_cut
