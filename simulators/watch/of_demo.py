"""The page of a demo: over the embedded broker, or over the user's own where a WebSocket URL is given."""

from simulators.demo_settings import DemoSettings
from simulators.embedded_broker import Launched, websocket_url
from simulators.watch.server import PageServer
from simulators.watch.settings import PORT, PageConfig
from wire_contract.connection import UsageError


def serve(settings: DemoSettings, broker: Launched | None, *, root: str, task: str) -> PageServer | None:
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


def _config(settings: DemoSettings, broker: Launched | None, *, root: str, task: str) -> PageConfig | None:
    if not settings.page:
        return None
    if broker is None:  # somebody's password is theirs to type
        return (
            PageConfig(websocket=settings.websocket, root=root, task=task, username=settings.username)
            if settings.websocket
            else None
        )
    url = websocket_url(broker)
    if url is None:
        return None
    # Made for this run, as is all that the broker holds.
    user = broker.credentials
    return PageConfig(websocket=url, root=root, task=task, username=user.username, password=user.password)
