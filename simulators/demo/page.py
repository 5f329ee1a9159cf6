"""The page of a demo: over the embedded broker, or over the user's own where a WebSocket URL is given."""

from collections.abc import Mapping
from pathlib import Path

from operations.watch.last_state import saved
from operations.watch.server import PageServer
from operations.watch.settings import PORT, PageConfig
from simulators.demo.settings import REPORT, DemoSettings
from simulators.network.embedded_broker import StartedBroker, websocket_url
from wire_contract.program.command_settings import UsageError


def serve(settings: DemoSettings, broker: StartedBroker | None, *, root: str, task: str) -> PageServer | None:
    """The page, on its usual port or any other; None when it is not wanted or cannot be."""
    config = _config(settings, broker, root=root, task=task)
    if config is None:
        return None
    for port in (PORT, 0):
        try:
            return PageServer(config, port=port)
        except UsageError:  # taken, by the page of another demo for instance
            continue
    return None


def end(page: PageServer, messages: Mapping[str, bytes], *, at: float, path: Path) -> None:
    """The demo has ended: the page shows its last state from now on, and so does a file that needs no server.

    Args:
        page: what is served; open pages take over the last state within seconds.
        messages: topic and payload of what was retained.
        at: Unix seconds of the end.
        path: of the file.
    """
    page.show(page.config.ended(messages, at))
    path.write_text(saved(page.config), encoding="utf-8")


def _config(settings: DemoSettings, broker: StartedBroker | None, *, root: str, task: str) -> PageConfig | None:
    if not settings.page:
        return None
    report = str(settings.out / REPORT)
    if broker is None:  # somebody's password is theirs to type
        return (
            PageConfig(websocket=settings.websocket, root=root, task=task, username=settings.username, report=report)
            if settings.websocket
            else None
        )
    url = websocket_url(broker)
    if url is None:
        return None
    # Made for this run, as is all that the broker holds.
    user = broker.credentials
    return PageConfig(
        websocket=url, root=root, task=task, username=user.username, password=user.password, report=report
    )
