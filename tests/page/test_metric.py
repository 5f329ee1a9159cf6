"""The page with main metrics other than accuracy: names, directions, digits, axes."""

import json
import math
from collections.abc import Iterator, Mapping

import pytest

from operations.watch.server import PageServer
from operations.watch.settings import PageConfig
from simulators.reporting import metric_text
from tests.page.browser import Browser, Page
from tests.page.conftest import OpenPage, WithWebsocket
from tests.page.federation import Federation
from tests.page.reading import PHONE, PLOTS, is_state, shows
from wire_contract.limits import METRIC_MAX, NAME_CHARACTERS_MAX
from wire_contract.main_metric import SHARE_WORDS, MainMetric

MAE = MainMetric("mae", higher_is_better=False)
PERPLEXITY = MainMetric("perplexity", higher_is_better=False)
MACRO_F1 = MainMetric("macro_f1", higher_is_better=True)
NUMBERS = (0, 1, 0.213, 0.9996, 12.34, 99.96, 123.4, 999.7, 1830.2, 65_432.1, 999_999.4, 1e6, 5.18e21, 0.001, 0.00099)
Y_TICKS = "[...document.querySelectorAll('#by-version text[text-anchor=end]')].map((text) => text.textContent)"


@pytest.fixture(scope="module")
def metric(browser: Browser) -> Iterator[Page]:
    """A page with the module at hand, that looks for a broker in vain."""
    with PageServer(PageConfig(websocket="ws://127.0.0.1:9/", root="nobody", task=None), port=0) as server:
        page = browser.open(server.url)
        page.run("import('/metric.js').then((found) => { window.metric = found; })")
        yield page
        page.close()


def test_page_and_reports_have_the_same_rules(metric: Page) -> None:
    names = [
        *SHARE_WORDS,
        *metric_text.ACRONYMS,
        "macro_f1",
        "MAE",
        "mean IoU",
        "mae_left knee",
        "inaccuracy",
        "é",
        "r2",
    ]
    for name in names:
        main = MainMetric(name, higher_is_better=True)
        told = f"{{name: {json.dumps(name)}, higherIsBetter: true}}"
        assert metric.run(f"metric.isShare({told}, [0, 1])") == main.is_share, name
        assert metric.run(f"metric.words({told})") == metric_text.words(main)
        assert metric.run(f"metric.title({told})") == metric_text.title(main)
    assert metric.run("metric.METRIC_MAX") == METRIC_MAX
    for number in (*NUMBERS, *(-number for number in NUMBERS[1:])):
        assert metric.run(f"metric.valueText({number!r}, false)") == metric_text.value_text(number, as_share=False)
    assert metric.run("metric.valueText(0.8824, true)").replace("\u00a0", " ") == "88.2 %"


@pytest.mark.parametrize(
    ("ticks", "texts"),
    [
        ([0, 0.1, 0.2], ["0.0", "0.1", "0.2"]),
        ([0.2125, 0.213, 0.2135], ["0.2125", "0.2130", "0.2135"]),
        ([-5, 0, 5], ["-5", "0", "5"]),
        ([0, 500, 1000], ["0", "500", "1000"]),
        ([0, 20_000, 40_000], ["0", "20k", "40k"]),
        ([18_302, 18_304], ["18.302k", "18.304k"]),
        ([0, 2e6, 4e6], ["0", "2M", "4M"]),
        ([0, 2e21, 4e21], ["0", "2.0e21", "4.0e21"]),
        ([0, 2e-5, 4e-5], ["0", "2.0e-5", "4.0e-5"]),
    ],
)
def test_ticks_are_told_apart(metric: Page, ticks: list[float], texts: list[str]) -> None:
    assert metric.run(f"metric.tickTexts({json.dumps(ticks)}, false)") == texts


@pytest.mark.parametrize(
    "values",
    [[0.213], [0.0], [-0.5, 0.5], [0.2, 0.21], [1830.0, 30.0], [METRIC_MAX, -METRIC_MAX], [1e-9, 2e-9], [-3.0]],
)
def test_an_axis_holds_whatever_comes(metric: Page, values: list[float]) -> None:
    low, high = metric.run(f"metric.axisRange({json.dumps(values)}, false)")
    assert math.isfinite(low)
    assert math.isfinite(high)
    assert low < high
    assert all(low <= value <= high for value in values)
    assert low == 0 or low < min(values)


def test_an_error_is_shown_by_its_name_and_lower_is_better(
    toy: Federation, websocket: WithWebsocket, open_page: OpenPage
) -> None:
    toy.main = MAE
    toy.teach([0.9, 0.5, 0.2, 0.213])
    page = open_page(websocket.config())
    page.eventually(is_state("live"))
    page.eventually(f"{PLOTS} === 3")
    page.eventually(shows("#metric", "0.213"))
    assert page.run(shows("#metric-note", "version 4 · best 0.200 at version 3 · lower is better"))
    assert page.text("#metric-title") == "MAE"
    assert (page.text("#by-version-title"), page.text("#by-time-title")) == ("MAE over versions", "MAE over time")
    label = page.run("document.querySelector('#by-version svg').getAttribute('aria-label')")
    assert label == "MAE over versions 1 to 4, newest 0.213"
    assert page.run("document.title") == "0.213 · toy"
    ticks = page.run(Y_TICKS)
    assert ticks[0] == "0.0"
    assert not any("%" in tick for tick in ticks)
    assert not page.complaints


def test_a_score_out_of_other_shares_is_in_percent(
    toy: Federation, websocket: WithWebsocket, open_page: OpenPage
) -> None:
    toy.main = MACRO_F1
    toy.teach([0.5, 0.75])
    page = open_page(websocket.config())
    page.eventually(shows("#metric", "75.0 %"))
    assert page.text("#metric-title") == "Macro F1"
    assert page.run(shows("#metric-note", "best 75.0 % at version 2 · higher is better"))


@pytest.mark.parametrize("form", [{}, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize(
    "told",
    [
        (PERPLEXITY, [1.2e6, 1_830.0]),
        (MainMetric("w" * NAME_CHARACTERS_MAX, higher_is_better=False), [METRIC_MAX, -METRIC_MAX]),
        (MainMetric("<b onclick=alert()>", higher_is_better=True), [1e-9, 2e-9]),
    ],
    ids=["perplexity", "hostile", "markup"],
)
def test_it_fits_whatever_evaluators_say(
    toy: Federation,
    websocket: WithWebsocket,
    open_page: OpenPage,
    form: Mapping[str, object],
    told: tuple[MainMetric, list[float]],
) -> None:
    main, values = told
    toy.main = main
    toy.teach(values)
    page = open_page(websocket.config(), **form)
    page.eventually(f"{PLOTS} === 3")
    assert page.run("document.documentElement.scrollWidth - innerWidth") <= 0
    assert page.text("#metric-title") == metric_text.title(main)
    parts = "document.querySelectorAll('#by-version svg, #by-version text')"
    left = f"Math.min(...[...{parts}].map((part) => part.getBoundingClientRect().left))"
    assert page.run(f"{left} >= document.querySelector('#by-version').getBoundingClientRect().left - 1")
    assert not page.run("document.querySelector('#by-version svg').outerHTML.match(/NaN|Infinity/)")
    assert not page.complaints


def test_the_curve_is_by_the_metric_of_the_newest_version(
    toy: Federation, websocket: WithWebsocket, open_page: OpenPage
) -> None:
    toy.teach([0.5])
    page = open_page(websocket.config())
    page.eventually(shows("#metric", "50.0 %"))
    toy.main = MAE
    toy.teach([0.25, 0.125])
    page.eventually(shows("#metric", "0.125"))
    page.eventually(shows("#by-version-note", "2 versions evaluated, 2 to 3."))
    assert page.text("#metric-title") == "MAE"
