"""`asyncfedkd watch`: serves the page until SIGINT or SIGTERM."""

import signal
import threading

from operations.watch.server import PageServer
from operations.watch.settings import WatchSettings


def run(settings: WatchSettings) -> int:
    """Serves the page; returns the exit code.

    Raises:
        UsageError: contradictory settings, or the port is taken; one line.
    """
    config = settings.page_config()
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    with PageServer(config, port=settings.port) as page:
        print(f"the page is at {page.url}\nand reads {config.websocket}; Ctrl-C stops it", flush=True)
        stopped.wait()
    return 0
