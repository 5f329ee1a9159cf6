"""The demo's live page: through the embedded broker, or through the user's own if its WebSocket URL is given."""

from collections.abc import Mapping
from pathlib import Path

from operations.watch.last_state import saved
from operations.watch.server import PageServer
from operations.watch.settings import PORT, PageConfig
from simulators.demo.settings import REPORT, DemoSettings
from simulators.network.embedded_broker import StartedBroker, websocket_url
from wire_contract.program.command_settings import UsageError


def serve(settings: DemoSettings, broker: StartedBroker | None, *, root: str, task: str) -> PageServer | None:
    """Serves the page on its default port or any free one; None if it is disabled or there is no WebSocket listener."""
    config = _config(settings, broker, root=root, task=task)
    if config is None:
        return None
    for port in (PORT, 0):
        try:
            return PageServer(config, port=port)
        except UsageError:  # the port is taken, for example by another demo
            continue
    return None


def end(page: PageServer, messages: Mapping[str, bytes], *, at: float, path: Path) -> None:
    """Shows the final state on the page, and writes it to a file that needs no server.

    Args:
        page: the served page; open browser tabs load the final state within seconds.
        messages: retained payloads by topic.
        at: end of the demo, Unix seconds.
        path: the file to write.
    """
    page.show(page.config.ended(messages, at))
    path.write_text(saved(page.config), encoding="utf-8")


def _config(settings: DemoSettings, broker: StartedBroker | None, *, root: str, task: str) -> PageConfig | None:
    if not settings.page:
        return None
    report = str(settings.out / REPORT)
    if broker is None:  # the password of the user's own broker is not handed to the page: it asks
        return (
            PageConfig(websocket=settings.websocket, root=root, task=task, username=settings.username, report=report)
            if settings.websocket
            else None
        )
    url = websocket_url(broker)
    if url is None:
        return None
    # These credentials were made for this run only.
    user = broker.credentials
    return PageConfig(
        websocket=url, root=root, task=task, username=user.username, password=user.password, report=report
    )
