"""The page over the broker that the demo brings along, with a password."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from operations.watch.settings import PageConfig
from simulators.demo import page as of_demo
from simulators.demo.settings import DemoSettings
from simulators.network.embedded_broker import StartedBroker, await_url, launch, websocket_url
from simulators.processes.processes import Processes
from tests.aggregator.synthetic import TASK
from tests.page.browser import Browser
from tests.page.conftest import OpenPage
from tests.page.federation import ROOT, federation
from tests.page.reading import is_state, rows, seen, shows
from wire_contract.program.clock import SYSTEM_CLOCK


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    with Processes(tmp_path / "logs") as processes:
        yield processes


@pytest.fixture
def broker(processes: Processes, tmp_path: Path) -> StartedBroker:
    launched = launch(processes, tmp_path, websocket=True)
    await_url(launched, processes)
    return launched


def test_live_accuracy_and_devices(
    broker: StartedBroker, processes: Processes, tmp_path: Path, open_page: OpenPage
) -> None:
    url, websocket = await_url(broker, processes), websocket_url(broker)
    user = broker.credentials
    assert websocket is not None
    config = PageConfig(websocket=websocket, root=ROOT, task=TASK, username=user.username, password=user.password)
    page = open_page(config)
    page.eventually(is_state("quiet"))
    ledger = tmp_path / "ledger.sqlite3"
    with federation(url, ledger, SYSTEM_CLOCK, username=user.username, password=user.password) as toy:
        page.eventually(is_state("live"))
        toy.teach([0.5, 0.75])
        toy.present("watch-1", online=True)
        page.eventually(shows("#metric", "75.0 %"))
        page.eventually(shows("#online", "1"))
        page.eventually(shows("#merged", "4"))
        late = open_page(config)
        late.eventually(shows("#metric", "75.0 %"))
        late.eventually(shows("#count-merged", "4"))
        late.eventually(shows("#online", "1"))
        assert seen(rows(late)["watch-1"]) == ["online", "0", "2", "merged"]
        assert not late.complaints


def test_the_demo_serves_its_page(broker: StartedBroker, browser: Browser) -> None:
    settings = DemoSettings()
    with_page = [of_demo.serve(settings, broker, root=ROOT, task=TASK) for _ in range(2)]
    first, second = [page for page in with_page if page is not None]
    assert first.url != second.url, "the usual port was taken by the first"
    page = browser.open(second.url)
    page.eventually(is_state("quiet"))
    page.close()
    first.close()
    second.close()
    assert of_demo.serve(DemoSettings(page=False), broker, root=ROOT, task=TASK) is None


def test_over_a_broker_of_the_users_there_is_one_if_its_websocket_is_told() -> None:
    mine = "mqtt://somebody@localhost"
    assert of_demo.serve(DemoSettings(broker=mine), None, root=ROOT, task=TASK) is None
    settings = DemoSettings(broker=mine, websocket="ws://localhost:9001/mqtt", username="somebody", password="secret")
    page = of_demo.serve(settings, None, root=ROOT, task=TASK)
    assert page is not None
    config = page._server.answers["/config.json"].body
    page.close()
    assert b"somebody" in config
    assert b"secret" not in config, "what the demo was given is not handed to a browser"
