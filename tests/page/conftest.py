"""The real page in a real browser, over real brokers."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from operations.watch.server import PageServer
from operations.watch.settings import PageConfig
from tests.aggregator.synthetic import TASK
from tests.broker.mosquitto import Mosquitto, await_listener, free_port
from tests.conftest import MakeMosquitto
from tests.page.browser import Browser, Page
from tests.page.federation import ROOT, Federation, federation
from wire_contract.program.clock import SYSTEM_CLOCK

OpenPage = Callable[..., Page]


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Serves the page for a configuration and opens it; both are ended with the test."""
    servers: list[PageServer] = []
    pages: list[Page] = []

    def open_one(config: PageConfig, **form: Any) -> Page:
        servers.append(PageServer(config, port=0))
        pages.append(browser.open(servers[-1].url, **form))
        return pages[-1]

    yield open_one
    for page in pages:
        page.close()
    for server in servers:
        server.close()


class WithWebsocket:
    """A mosquitto with a second listener, for browsers."""

    def __init__(self, make_mosquitto: MakeMosquitto, **settings: Any) -> None:
        self.port = free_port()
        lines = (f"listener {self.port} 127.0.0.1", "protocol websockets")
        self.broker: Mosquitto = make_mosquitto(lines=lines, **settings)
        self.broker.start()
        await_listener(self.port)  # mosquitto opens it a little after its first one

    def config(self, **changes: Any) -> PageConfig:
        """What a page of task `toy` is told."""
        return PageConfig(
            **{"websocket": f"ws://127.0.0.1:{self.port}/mqtt", "root": ROOT, "task": TASK, **changes},
        )


@pytest.fixture
def websocket(make_mosquitto: MakeMosquitto) -> WithWebsocket:
    """For anybody on the loopback."""
    return WithWebsocket(make_mosquitto)


@pytest.fixture
def toy(websocket: WithWebsocket, tmp_path: Path) -> Iterator[Federation]:
    """A federation on that broker."""
    with federation(websocket.broker.url, tmp_path / "ledger.sqlite3", SYSTEM_CLOCK) as made:
        yield made
