"""What a person sees, over mosquitto."""

import socket

from msgspec import structs

from operations.watch.settings import PageConfig
from tests.aggregator.synthetic import TASK
from tests.conftest import MakeMosquitto
from tests.page.conftest import OpenPage, WithWebsocket
from tests.page.federation import ROOT, Federation
from tests.page.reading import JUDGE, NOTHING, PLOTS, busy, is_state, rows, seen, shows
from tests.waiting import eventually
from tests.wire_contract.keys import key_of
from wire_contract.codec import encode
from wire_contract.messages import AggregatorStatus, Presence
from wire_contract.signatures.signing import sign
from wire_contract.topics import build


def test_a_page_that_comes_late_shows_the_whole_history(
    toy: Federation, websocket: WithWebsocket, open_page: OpenPage
) -> None:
    busy(toy)
    page = open_page(websocket.config())
    page.eventually(is_state("live"))
    page.eventually(f"{PLOTS} === 3")
    assert page.text("#task") == TASK
    page.eventually(shows("#metric", "81.3 %"))
    assert page.run(shows("#metric-note", "version 7 · best 87.5 % at version 6"))
    assert page.text("#version") == "7"
    assert (page.text("#count-merged"), page.text("#count-duplicate"), page.text("#count-refused")) == ("15", "0", "1")
    told = toy.service._reporter.status_publisher.published
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
    page.eventually(shows("#metric-note", "No version has been evaluated yet"))
    page.eventually(shows("#version", "0"))
    toy.teach([0.25])
    page.eventually(shows("#metric", "25.0 %"))
    toy.evaluate(0.75, judge="other-judge")
    page.eventually(shows("#metric", "50.0 %"))
    page.eventually(shows("#metric-note", "mean of 2 evaluators"))
    toy.present("watch-1", online=True)
    page.eventually(shows("#online", "1"))
    toy.present("watch-1", online=False)
    page.eventually(shows("#online", "0"))
    toy.tell()
    page.eventually(shows("#merged", "2"))


def test_it_comes_back_after_the_broker(toy: Federation, websocket: WithWebsocket, open_page: OpenPage) -> None:
    toy.teach([0.5])
    page = open_page(websocket.config())
    page.eventually(shows("#metric", "50.0 %"))
    websocket.broker.stop()
    # Between its attempts; during one it says that it connects.
    page.eventually(
        f"{is_state('waiting')} && {shows('#state', 'No connection')} && {shows('#explanation', 'Next try')}"
    )
    assert page.text("#version") == "1", "what was known stays"
    toy.until(lambda: not toy.service._publication.is_online)
    websocket.broker.forget()
    websocket.broker.start()
    toy.await_greeting()
    page.eventually(is_state("live"), seconds_max=60)
    toy.teach([0.75])
    page.eventually(shows("#metric", "75.0 %"))
    failed = f"network: WebSocket connection to 'ws://127.0.0.1:{websocket.port}/mqtt' failed"
    assert all(said.startswith(failed) for said in page.complaints), page.complaints


def test_damaged_messages_are_counted_and_change_nothing(
    toy: Federation, websocket: WithWebsocket, open_page: OpenPage
) -> None:
    toy.teach([0.5])
    page = open_page(websocket.config())
    page.eventually(shows("#metric", "50.0 %"))
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
    page.eventually(shows("#unreadable", "5 messages could not be decoded"))
    toy.publish(build("presence", root=ROOT, task=TASK, device="watch-1"), b"")
    toy.present("watch-1", online=True)
    page.eventually(shows("#online", "1"))
    toy.teach([0.75])
    page.eventually(shows("#metric", "75.0 %"))
    assert page.text("#unreadable").startswith("5 messages")
    assert not page.complaints


def test_it_says_when_the_aggregator_is_gone(toy: Federation, websocket: WithWebsocket, open_page: OpenPage) -> None:
    toy.teach([0.5])
    toy.service.farewell()
    page = open_page(websocket.config())
    # Not the state `quiet`: that is also what a page says to which nothing has come yet.
    page.eventually(shows("#state", "Aggregator offline"))
    page.eventually(is_state("quiet"))
    page.eventually(shows("#metric", "50.0 %"))
    toy.service._publication.publisher.status(toy.service._reporter.status("online"))
    page.eventually(is_state("live"))
    will = AggregatorStatus(status="offline", version=1)
    toy.publish(build("aggregator", root=ROOT, task=TASK, shard=0), encode(will))
    page.eventually(shows("#state", "Aggregator offline"))
    assert page.text("#count-merged") == "2", "the will tells no history, and takes none away"


def test_it_says_what_is_missing(websocket: WithWebsocket, open_page: OpenPage) -> None:
    page = open_page(websocket.config())
    page.eventually(is_state("quiet"))
    assert page.text("#explanation").startswith(f"Nothing has been published below {ROOT}/{TASK}.")
    assert page.text("#unreadable") == "No message has arrived yet."
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
        payload = sign(manifest, [key_of(bytes(32))]) if signs else encode(manifest)
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
    page.eventually(shows("#metric", "50.0 %"))
    assert page.text("#version") == "1"
    page.run(choose.format("another"))
    page.eventually(shows("#version", "77"))
    assert page.text("#metric") == NOTHING, "nothing of the one stays in the other"
    assert page.run(f"{PLOTS} === 0")


def test_a_password_is_typed_and_goes_to_the_broker_alone(make_mosquitto: MakeMosquitto, open_page: OpenPage) -> None:
    broker = WithWebsocket(make_mosquitto, users={"reader": "only-reads"})
    page = open_page(broker.config(username="reader"))
    page.eventually(is_state("refused"))
    page.eventually(shows("#explanation", "requires the password of reader"))
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


def test_an_evaluator_is_none_of_the_devices(toy: Federation, websocket: WithWebsocket, open_page: OpenPage) -> None:
    """Once it said "7 of 7 devices" of six devices and an evaluator."""
    toy.publish(build("presence", root=ROOT, task=TASK, device="newcomer"), encode(JUDGE), retain=True)
    toy.teach([0.5])
    for device in ("watch-1", "watch-2", "judge"):
        toy.present(device, online=True)
    toy.tell()
    page = open_page(websocket.config())
    page.eventually(shows("#online", "2"))
    page.eventually(shows("#online-note", "of 2 known"))
    page.eventually("document.querySelectorAll('#devices tr').length === 4")
    assert rows(page)["judge"][-1] == rows(page)["newcomer"][-1] == "evaluates only"


def test_a_device_that_discards_its_rounds_says_why(
    toy: Federation, websocket: WithWebsocket, open_page: OpenPage
) -> None:
    """Until it trains again: its presence then says nothing of it."""
    topic = build("presence", root=ROOT, task=TASK, device="watch-9")
    troubled = structs.replace(JUDGE, capability={"discarded": "the loss is nan <b>"})
    toy.publish(topic, encode(troubled), retain=True)
    page = open_page(websocket.config())
    page.eventually("document.querySelectorAll('#devices tr').length === 1")
    assert rows(page)["watch-9"][-1] == "discards its rounds: the loss is nan <b>"
    toy.publish(topic, encode(structs.replace(JUDGE, capability={})), retain=True)
    page.eventually("!document.querySelector('#devices').textContent.includes('discards')")
    assert rows(page)["watch-9"][-1] == "none yet"


def test_a_page_that_just_connected_does_not_say_that_nobody_is_there(
    websocket: WithWebsocket, open_page: OpenPage
) -> None:
    """What the broker keeps takes a moment to come."""
    page = open_page(websocket.config())
    said = page.run(
        "new Promise((told) => { const said = []; const look = () => { const now = document.querySelector('#state')"
        ".innerText; if (said.at(-1) !== now) said.push(now); if (now.includes('no data yet')) told(said);"
        " else setTimeout(look, 20); }; look(); })"
    )
    assert said[-2:] == ["Connected", "Connected, no data yet"]
