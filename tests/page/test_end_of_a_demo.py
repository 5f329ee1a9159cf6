"""What the page shows once its demo has ended, or is gone."""

from pathlib import Path

from operations.watch.server import PageServer
from simulators.audit.observer import Observations, Observer, subscriptions
from simulators.demo import page as of_demo
from tests.aggregator.synthetic import TASK
from tests.page.browser import Browser
from tests.page.conftest import WithWebsocket
from tests.page.federation import ROOT, Federation
from tests.page.reading import JUDGE, PLOTS, busy, is_state, rows, shows
from tests.waiting import eventually
from wire_contract.codec import encode
from wire_contract.link.mqtt import MqttLink, MqttSettings
from wire_contract.topics import build


def test_after_the_end_of_a_demo_its_last_state_stays(
    toy: Federation, websocket: WithWebsocket, browser: Browser, tmp_path: Path
) -> None:
    """For who was there, for who comes late, and, from a file, for who comes when nothing is served any more."""
    busy(toy)
    toy.publish(build("presence", root=ROOT, task=TASK, device="judge"), encode(JUDGE), retain=True)
    config = websocket.config(report="out/demo/report.html")
    observations = Observations(root=ROOT, student=toy.line.layout)
    link = MqttLink(
        MqttSettings.from_url(
            websocket.broker.url, client_id="looks-on", subscriptions=subscriptions(root=ROOT, task=TASK)
        )
    )
    observer = Observer(link, observations)
    saved = tmp_path / "page.html"
    with PageServer(config, port=0) as server:
        early = browser.open(server.url)
        early.eventually(is_state("live"))
        early.eventually(shows("#online", "2"))
        eventually(lambda: len(observations.retained_payloads("presence", "aggregator", "model")) == 6)
        of_demo.end(
            server, observations.retained_payloads("presence", "aggregator", "model"), at=toy.clock.unix(), path=saved
        )
        toy.service.farewell()
        late = browser.open(server.url)
        observer.delete_retained()
        observer.close()
        websocket.broker.stop()
        pages = [early, late, browser.open(saved.as_uri())]
        for page in pages:
            page.eventually(is_state("ended"))
            page.eventually(shows("#state", "The demo has ended"))
            page.eventually(shows("#explanation", "Its report is out/demo/report.html"))
            page.eventually(shows("#metric", "81.3 %"))
            assert page.text("#version") == "7"
            assert page.text("#count-merged") == "15"
            assert page.text("#online") == "2"
            assert page.text("#unreadable") == "All messages so far could be decoded."
            assert any(words in page.text("#version-note") for words in ("at the end", "before the end")), (
                "the clock of a page that has ended stands still"
            )
            assert page.run(f"{PLOTS} === 3")
            assert rows(page)["watch-1"][:3] == ["online", "0", "7"]
        assert not late.complaints
        assert not pages[2].complaints
        elsewhere = [url for url in pages[2].requests if not url.startswith("data:")]
        assert elsewhere == [saved.as_uri()], "it needs nothing but itself"
        for page in pages:
            page.close()


def test_a_demo_that_was_interrupted_is_said_to_be_gone(
    toy: Federation, websocket: WithWebsocket, browser: Browser
) -> None:
    toy.teach([0.5])
    with PageServer(websocket.config(report="out/demo/report.html"), port=0) as server:
        page = browser.open(server.url)
        page.eventually(shows("#metric", "50.0 %"))
    websocket.broker.stop()
    page.eventually(is_state("ended"))
    page.eventually(shows("#state", "The demo is gone"))
    assert page.text("#version") == "1", "what was known stays"
    page.close()
