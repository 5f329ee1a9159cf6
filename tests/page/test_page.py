"""What a person sees, over mosquitto."""

import re
import socket
from collections.abc import Mapping

import pytest
from msgspec import structs

from simulators.watch.settings import PageConfig
from tests.aggregator.synthetic import TASK
from tests.conftest import MakeMosquitto
from tests.page.browser import Page
from tests.page.conftest import OpenPage, WithWebsocket
from tests.page.federation import ROOT, Federation
from tests.waiting import eventually
from wire_contract.codec import encode
from wire_contract.limits import NAME_CHARACTERS_MAX
from wire_contract.messages import AggregatorStatus, Presence
from wire_contract.signing import SigningKey, sign
from wire_contract.topics import build

PHONE: Mapping[str, object] = {"width": 390, "height": 844, "phone": True}
NOTHING = "\N{EN DASH}"
PLOTS = "document.querySelectorAll('.plot svg').length"
SHIFTED = """new Promise((told) => new PerformanceObserver((list) =>
  told(list.getEntries().reduce((sum, entry) => sum + entry.value, 0))).observe({type: 'layout-shift', buffered: true})
  || setTimeout(() => told(0), 500))"""


def is_state(state: str) -> str:
    return f"document.querySelector('#situation').dataset.state === '{state}'"


def shows(selector: str, text: str) -> str:
    """Spaces that do not break are spaces here."""
    return f"document.querySelector('{selector}').innerText.replaceAll('\\u00a0', ' ').includes({text!r})"


def rows(page: Page) -> dict[str, list[str]]:
    """The table of devices, by device."""
    cells = "[...document.querySelectorAll('#devices tr')].map((row) => [...row.cells].map((cell) => cell.innerText))"
    return {first: rest for first, *rest in page.run(cells)}


def seen(row: list[str]) -> list[str]:
    """State, staleness, merged updates and newest outcome; not how long ago."""
    return [*row[:3], row[4]]


def busy(toy: Federation) -> None:
    """Four versions by two devices, a third that hands in old work, a fourth that says nothing."""
    toy.teach([0.5])
    old = toy.base
    toy.teach([0.625, 0.75, 0.5, 0.6875, 0.875, 0.8125])
    for device in ("watch-1", "watch-2", "watch-4"):
        toy.present(device, online=device != "watch-2")
    toy.send("watch-3", base=old)
    toy.send("watch-3", base=(toy.base[0], bytes(32)))
    toy.tell()


def test_a_page_that_comes_late_shows_the_whole_history(
    toy: Federation, websocket: WithWebsocket, open_page: OpenPage
) -> None:
    busy(toy)
    page = open_page(websocket.config())
    page.eventually(is_state("live"))
    page.eventually(f"{PLOTS} === 3")
    assert page.text("#task") == TASK
    page.eventually(shows("#accuracy", "81.3 %"))
    assert page.run(shows("#accuracy-note", "version 7 · best 87.5 % at version 6"))
    assert page.text("#version") == "7"
    assert (page.text("#count-merged"), page.text("#count-duplicate"), page.text("#count-refused")) == ("15", "0", "1")
    told = toy.service._told
    assert told is not None
    assert told.summary is not None
    assert page.text("#rate") == str(told.summary.updates_per_minute)  # all 15, unless the last minute was too short
    assert page.text("#online") == "2"
    assert page.run("document.querySelectorAll('#by-version circle.dot').length") == 7
    labels = "[...document.querySelectorAll('.plot svg')].map((svg) => svg.getAttribute('aria-label'))"
    by_version, by_time, staleness = page.run(labels)
    assert "versions 1 to 7, newest 81.3" in by_version
    assert "newest 81.3" in by_time
    assert "15 updates" in staleness
    listed = rows(page)
    assert seen(listed["watch-1"]) == ["online", "0", "7", "merged"]
    assert seen(listed["watch-2"]) == ["offline", "0", "7", "merged"]
    assert seen(listed["watch-3"]) == ["unknown", "6", "1", "refused"]
    assert seen(listed["watch-4"]) == ["online", NOTHING, NOTHING, "none yet"]
    assert "stale" in page.run("document.querySelector('#devices tr:nth-child(3) td:nth-child(3)').className")
    axes = page.run("[...document.querySelectorAll('.plot svg text')].map((text) => text.textContent).join('|')")
    assert all(title in axes for title in ("|version|", "time since version 1, s", "staleness, versions"))
    assert not page.complaints


def test_it_follows_what_happens(toy: Federation, websocket: WithWebsocket, open_page: OpenPage) -> None:
    page = open_page(websocket.config())
    page.eventually(shows("#accuracy-note", "No version was evaluated yet"))
    page.eventually(shows("#version", "0"))
    toy.teach([0.25])
    page.eventually(shows("#accuracy", "25.0 %"))
    toy.evaluate(0.75, judge="other-judge")
    page.eventually(shows("#accuracy", "50.0 %"))
    page.eventually(shows("#accuracy-note", "mean of 2 evaluators"))
    toy.present("watch-1", online=True)
    page.eventually(shows("#online", "1"))
    toy.present("watch-1", online=False)
    page.eventually(shows("#online", "0"))
    toy.tell()
    page.eventually(shows("#merged", "2"))


def test_it_comes_back_after_the_broker(toy: Federation, websocket: WithWebsocket, open_page: OpenPage) -> None:
    toy.teach([0.5])
    page = open_page(websocket.config())
    page.eventually(shows("#accuracy", "50.0 %"))
    websocket.broker.stop()
    # Between its attempts; during one it says that it connects.
    page.eventually(
        f"{is_state('waiting')} && {shows('#state', 'No connection')} && {shows('#explanation', 'Next try')}"
    )
    assert page.text("#version") == "1", "what was known stays"
    toy.until(lambda: not toy.service._online)
    websocket.broker.forget()
    websocket.broker.start()
    toy.await_greeting()
    page.eventually(is_state("live"), seconds_max=60)
    toy.teach([0.75])
    page.eventually(shows("#accuracy", "75.0 %"))
    failed = f"network: WebSocket connection to 'ws://127.0.0.1:{websocket.port}/mqtt' failed"
    assert all(said.startswith(failed) for said in page.complaints), page.complaints


def test_damaged_messages_are_counted_and_change_nothing(
    toy: Federation, websocket: WithWebsocket, open_page: OpenPage
) -> None:
    toy.teach([0.5])
    page = open_page(websocket.config())
    page.eventually(shows("#accuracy", "50.0 %"))
    good = encode(Presence(status="online"))
    newer = encode(AggregatorStatus(status="online", version=9, schema=2))
    topics = {
        build("model", root=ROOT, task=TASK): b"nonsense",
        build("presence", root=ROOT, task=TASK, device="watch-1"): good[:-7],
        build("evaluation", root=ROOT, task=TASK, device="judge"): good,
        build("aggregator", root=ROOT, task=TASK, shard=0): newer,
        build("presence", root=ROOT, task=TASK, device="watch-2"): b"\0" * 300_000,
    }
    for topic, payload in topics.items():
        toy.publish(topic, payload)
    page.eventually(shows("#unreadable", "5 messages could not be read"))
    toy.publish(build("presence", root=ROOT, task=TASK, device="watch-1"), b"")
    toy.present("watch-1", online=True)
    page.eventually(shows("#online", "1"))
    toy.teach([0.75])
    page.eventually(shows("#accuracy", "75.0 %"))
    assert page.text("#unreadable").startswith("5 messages")
    assert not page.complaints


def test_it_says_when_the_aggregator_is_gone(toy: Federation, websocket: WithWebsocket, open_page: OpenPage) -> None:
    toy.teach([0.5])
    toy.service.farewell()
    page = open_page(websocket.config())
    # Not the state `quiet`: that is also what a page says to which nothing has come yet.
    page.eventually(shows("#state", "Aggregator offline"))
    page.eventually(is_state("quiet"))
    page.eventually(shows("#accuracy", "50.0 %"))
    toy.service._publisher.status(toy.service._status("online"))
    page.eventually(is_state("live"))
    will = AggregatorStatus(status="offline", version=1)
    toy.publish(build("aggregator", root=ROOT, task=TASK, shard=0), encode(will))
    page.eventually(shows("#state", "Aggregator offline"))
    assert page.text("#count-merged") == "2", "the will tells no history, and takes none away"


def test_it_says_what_is_missing(websocket: WithWebsocket, open_page: OpenPage) -> None:
    page = open_page(websocket.config())
    page.eventually(is_state("quiet"))
    assert page.text("#explanation").startswith(f"Nobody has published below {ROOT}/{TASK}.")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        absent = PageConfig(websocket=f"ws://127.0.0.1:{nobody.getsockname()[1]}/mqtt", root=ROOT, task=None)
        page = open_page(absent)
        page.eventually(is_state("waiting"))
        page.eventually(shows("#explanation", "The broker closed the connection, or is not there. Next try"))


def test_a_signed_model_is_read_as_any(toy: Federation, websocket: WithWebsocket, open_page: OpenPage) -> None:
    toy.teach([0.5])
    manifest = toy.manifest()
    for signs, note in ((True, "signed"), (False, "published")):
        manifest = structs.replace(manifest, version=manifest.version + 10, published_at=manifest.published_at + 1)
        payload = sign(manifest, [SigningKey.from_seed(bytes(32))]) if signs else encode(manifest)
        toy.publish(build("model", root=ROOT, task=TASK), payload, retain=True)
        page = open_page(websocket.config())
        page.eventually(shows("#version", str(manifest.version)))
        page.eventually(shows("#version-note", note))
        assert page.run(shows("#version-note", "signed")) is signs
        assert not page.complaints


def test_tasks_can_be_chosen(toy: Federation, websocket: WithWebsocket, open_page: OpenPage) -> None:
    toy.teach([0.5])
    other = AggregatorStatus(status="online", version=77)
    toy.publish(build("aggregator", root=ROOT, task="another", shard=0), encode(other), retain=True)
    page = open_page(websocket.config(task=None))
    page.eventually("document.querySelectorAll('#tasks option').length === 2")
    # The one that was heard of first, which may be either.
    page.eventually(f"{shows('#task', 'another')} || {shows('#task', TASK)}")
    select = "document.querySelector('#tasks')"
    choose = f"({select}.value = '{{}}', {select}.dispatchEvent(new Event('change')))"
    page.run(choose.format("another"))
    page.eventually(shows("#version", "77"))
    page.eventually(shows("#task", "another"))
    page.run(choose.format("toy"))
    page.eventually(shows("#accuracy", "50.0 %"))
    assert page.text("#version") == "1"
    page.run(choose.format("another"))
    page.eventually(shows("#version", "77"))
    assert page.text("#accuracy") == NOTHING, "nothing of the one stays in the other"
    assert page.run(f"{PLOTS} === 0")


def test_a_password_is_typed_and_goes_to_the_broker_alone(make_mosquitto: MakeMosquitto, open_page: OpenPage) -> None:
    broker = WithWebsocket(make_mosquitto, users={"reader": "only-reads"})
    page = open_page(broker.config(username="reader"))
    page.eventually(is_state("refused"))
    page.eventually(shows("#explanation", "wants the password of reader"))
    for password, state in (("guessed", "refused"), ("only-reads", "quiet")):
        page.eventually("!document.querySelector('#login').hidden")
        page.run(f"document.querySelector('#password').value = '{password}'")
        page.run("document.querySelector('#login').requestSubmit()")
        page.eventually(is_state(state))
        if state == "refused":
            page.eventually(shows("#explanation", "user name or password may be wrong"))
    assert page.run("document.querySelector('#login').hidden")
    assert page.run("localStorage.length + sessionStorage.length + document.cookie.length") == 0
    assert not any("only-reads" in request or "guessed" in request for request in page.requests)


def test_a_password_from_a_file_needs_no_typing(make_mosquitto: MakeMosquitto, open_page: OpenPage) -> None:
    broker = WithWebsocket(make_mosquitto, users={"reader": "only-reads"})
    page = open_page(broker.config(username="reader", password="only-reads"))
    page.eventually(is_state("quiet"))
    assert page.run("document.querySelector('#login').hidden")


def test_nothing_leaves_this_machine(toy: Federation, websocket: WithWebsocket, open_page: OpenPage) -> None:
    busy(toy)
    page = open_page(websocket.config())
    page.eventually(is_state("live"))
    own, broker = page.run("location.origin"), f"ws://127.0.0.1:{websocket.port}"
    assert all(request.startswith((f"{own}/", f"{broker}/")) for request in page.requests), page.requests
    assert len([request for request in page.requests if request.startswith(broker)]) == 1
    assert not page.complaints
    elsewhere = f"http://127.0.0.1:{websocket.broker.port}/"
    assert page.run(f"fetch('{elsewhere}').then(() => 'gone out', () => 'kept in')") == "kept in"
    page.run(
        f"new Promise((done) => {{ const i = new Image(); i.onload = i.onerror = done; i.src = '{elsewhere}a.png' }})"
    )
    eventually(lambda: len([said for said in page.complaints if "Content Security Policy" in said]) >= 2)


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
