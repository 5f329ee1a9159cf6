"""A headless Chromium, spoken to over its DevTools pipe: no port, no driver, no library.

https://chromedevtools.github.io/devtools-protocol/ — messages are JSON, each ended by a zero byte, on descriptors 3, 4.
"""

import base64
import contextlib
import itertools
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

INSTALL = "sudo apt-get install chromium"
ANSWER_SECONDS_MAX = 60.0
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-default-apps",
    "--hide-scrollbars",
    "--mute-audio",
)
_LAUNCH = "import os,sys; a,b=map(int,sys.argv[1:3]); os.dup2(a,103); os.dup2(b,104); os.dup2(103,3); os.dup2(104,4); \
os.execvp(sys.argv[3],sys.argv[3:])"
"""Puts the pipes where Chromium looks for them, whatever their numbers are here."""


def program() -> str:
    """Its path. Where it is missing: a failure in CI, elsewhere a skip that says how to get it."""
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        found = shutil.which(name)
        if found is not None:
            return found
    if os.environ.get("CI") == "true":
        pytest.fail(f"chromium is not installed, and in CI these tests must run: {INSTALL}")
    pytest.skip(f"chromium is not installed: {INSTALL}")


class Browser:
    """One process; each page has a context, and so cookies and storage, of its own."""

    def __init__(self, folder: Path) -> None:
        path = program()
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        command = [sys.executable, "-I", "-S", "-c", _LAUNCH, str(theirs_in), str(theirs_out)]
        command += [path, *FLAGS, "--remote-debugging-pipe", f"--user-data-dir={folder / 'profile'}", "about:blank"]
        self._log = (folder / "chromium.log").open("wb")
        self._process = subprocess.Popen(
            command, pass_fds=(theirs_in, theirs_out), stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._out = os.fdopen(ours_out, "wb", buffering=0)
        self._in = os.fdopen(ours_in, "rb", buffering=0)
        self._numbers = itertools.count(1)
        self._answers: dict[int, queue.Queue[dict[str, Any]]] = {}
        self._pages: dict[str, Page] = {}
        self._thread = threading.Thread(target=self._read, name="chromium", daemon=True)
        self._thread.start()

    def call(self, method: str, *, session: str | None = None, **arguments: Any) -> dict[str, Any]:
        """What the browser answers.

        Raises:
            AssertionError: it says no, or nothing.
        """
        number = next(self._numbers)
        answers = self._answers[number] = queue.Queue()
        message = {"id": number, "method": method, "params": arguments} | ({"sessionId": session} if session else {})
        self._out.write(json.dumps(message).encode() + b"\0")
        answer = answers.get(timeout=ANSWER_SECONDS_MAX)
        del self._answers[number]
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    def open(
        self, url: str, *, width: int = 1280, height: int = 900, dark: bool = False, phone: bool = False
    ) -> "Page":
        """A page of its own, loaded."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session, context)
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.call(f"{domain}.enable")
        page.call("Page.setLifecycleEventsEnabled", enabled=True)
        page.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        page.call("Emulation.setEmulatedMedia", features=scheme)
        page.await_load(page.call("Page.navigate", url=url)["loaderId"])
        return page

    def close(self) -> None:
        with contextlib.suppress(AssertionError, OSError, queue.Empty):
            self.call("Browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join(10)
        for file in (self._out, self._in, self._log):
            file.close()

    def _read(self) -> None:
        pending = b""
        while piece := self._in.read(1 << 16):
            *whole, pending = (pending + piece).split(b"\0")
            for text in whole:
                message = json.loads(text)
                if "id" in message:
                    self._answers[message["id"]].put(message)
                elif message.get("sessionId") in self._pages:
                    self._pages[message["sessionId"]].take(message["method"], message["params"])


class Page:
    """One tab."""

    def __init__(self, browser: Browser, session: str, context: str) -> None:
        self._browser = browser
        self._session = session
        self._context = context
        self._loaded: queue.Queue[str] = queue.Queue()
        """Ids of what was loaded: the empty page of the beginning may be among it, however late."""
        self.requests: list[str] = []
        """URL of each request, WebSockets as well."""
        self.complaints: list[str] = []
        """Exceptions that nobody caught, errors on the console, and what the policy blocked."""

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        return self._browser.call(method, session=self._session, **arguments)

    def take(self, method: str, event: Mapping[str, Any]) -> None:
        match method:
            case "Page.lifecycleEvent" if event["name"] == "load":
                self._loaded.put(event["loaderId"])
            case "Network.requestWillBeSent":
                self.requests.append(event["request"]["url"])
            case "Network.webSocketCreated":
                self.requests.append(event["url"])
            case "Runtime.exceptionThrown":
                details = event["exceptionDetails"]
                self.complaints.append(f"exception: {details.get('exception', {}).get('description', details['text'])}")
            case "Log.entryAdded" if event["entry"]["level"] == "error":
                self.complaints.append(f"{event['entry']['source']}: {event['entry']['text']}")
            case _:
                pass

    def await_load(self, loader: str) -> None:
        """Raises:
        queue.Empty: it does not load.
        """
        while self._loaded.get(timeout=ANSWER_SECONDS_MAX) != loader:
            pass

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; promises are waited for."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def text(self, selector: str) -> str:
        """What a person reads there."""
        found = self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")
        assert isinstance(found, str)
        return found

    def eventually(self, condition: str, *, seconds_max: float = 60.0) -> None:
        """Returns once a JavaScript condition holds; says what the page showed when it does not in time."""
        deadline = time.monotonic() + seconds_max
        pause = threading.Event()
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < deadline, f"not so: {condition}\n{self.complaints}\n{self.text('body')}"
            pause.wait(0.05)

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        self._browser.call("Target.disposeBrowserContext", browserContextId=self._context)
