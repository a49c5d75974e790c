"""A headless Chromium driven over its DevTools protocol, through a pair of pipes.

No driver, no port and no package: Chromium reads messages from file descriptor 3 and answers on 4,
each a JSON object that ends in a zero byte.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
TIMEOUT_S = 120.0

Message = dict[str, Any]


def browser_path() -> str | None:
    """The browser of this machine: ``$SEGDEPLOY_BROWSER``, or the first that is installed."""
    asked = os.environ.get("SEGDEPLOY_BROWSER")
    if asked or sys.platform == "win32":
        return asked
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One browser with one page; what the page asked for and complained of is kept.

    Attributes:
        requests: addresses asked for since the last ``open``.
        complaints: uncaught errors and messages of level warning or error since then.
    """

    def __init__(self, program: str, profile: Path) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._buffer = b""
        self._number = 0
        self._events: list[Message] = []
        self._session: str | None = None
        self._pid, self._to, self._from = _start(program, profile)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def open(self, path: Path, *, width: int = 1200, height: int = 900) -> None:
        """Show a file and wait until it has loaded."""
        self.resize(width, height)
        self.requests, self.complaints, self._events = [], [], []
        self.call("Page.navigate", url=path.resolve().as_uri())
        self._until("Page.loadEventFired")
        self.run("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")

    def resize(self, width: int, height: int, *, scale: float = 1.0) -> None:
        """The size of the window, CSS pixels; a phone where it is narrow."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )

    def media(self, media: str = "", *, dark: bool = False) -> None:
        """Screen or ``print``, light or dark."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def run(self, script: str) -> Any:
        """The value of an expression on the page; a promise is waited for."""
        answer = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise AssertionError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def click(self, selector: str, index: int = 0) -> None:
        """Press the mouse where an element is, as a person would."""
        found = f"document.querySelectorAll({json.dumps(selector)})[{index}]"
        self.run(f"{found}.scrollIntoView({{block: 'center'}})")
        x, y = self.run(
            f"(r => [r.x + r.width / 2, r.y + r.height / 2])({found}.getBoundingClientRect())"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, *, whole: bool = False) -> bytes:
        """What is seen, or the whole page, as a PNG file."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(answer["data"])

    def pdf(self) -> bytes:
        """The page printed on A4."""
        answer = self.call(
            "Page.printToPDF", paperWidth=8.27, paperHeight=11.69, preferCSSPageSize=True
        )
        return base64.b64decode(answer["data"])

    def call(self, method: str, **parameters: Any) -> Message:
        """One request and its answer."""
        self._number += 1
        message: Message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            answer = self._read(deadline)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                result: Message = answer["result"]
                return result

    def close(self) -> None:
        """End the browser."""
        self._session = None
        with contextlib.suppress(OSError, AssertionError):
            self.call("Browser.close")
        for pipe in (self._to, self._from):
            os.close(pipe)
        deadline = time.monotonic() + 10
        while os.waitpid(self._pid, os.WNOHANG)[0] == 0:
            if time.monotonic() > deadline:
                os.kill(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)
                break
            time.sleep(0.05)

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _until(self, event: str) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not any(seen["method"] == event for seen in self._events):
            self._read(deadline)

    def _read(self, deadline: float) -> Message:
        while b"\0" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._from], [], [], left)[0]:
                raise AssertionError(f"the browser said nothing for {TIMEOUT_S:g} s")
            read = os.read(self._from, 1 << 20)
            if not read:
                raise AssertionError("the browser ended")
            self._buffer += read
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: Message = json.loads(line)
        if "method" in message:
            self._note(message)
        return message

    def _note(self, event: Message) -> None:
        self._events.append(event)
        method, what = event["method"], event["params"]
        if method == "Network.requestWillBeSent":
            self.requests.append(what["request"]["url"])
        if method == "Runtime.exceptionThrown":
            self.complaints.append(str(what["exceptionDetails"]))
        if method == "Runtime.consoleAPICalled" and what["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(what["args"]))
        if method == "Log.entryAdded" and what["entry"]["level"] in ("error", "warning"):
            self.complaints.append(str(what["entry"]))


def _start(program: str, profile: Path) -> tuple[int, int, int]:
    """Start the browser: its process, where to write to it, and where to read from it."""
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    # Out of the way of 3 and 4, where the browser expects its ends.
    high_in, high_out = (fcntl.fcntl(p, fcntl.F_DUPFD_CLOEXEC, 10) for p in (theirs_in, theirs_out))
    os.close(theirs_in)
    os.close(theirs_out)
    flags = ["--headless=new", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
    flags += ["--no-first-run", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        flags.append("--no-sandbox")  # Chromium's sandbox does not run as root
    quiet = (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)
    ends = [(os.POSIX_SPAWN_DUP2, high_in, 3), (os.POSIX_SPAWN_DUP2, high_out, 4)]
    command = [program, *flags, "about:blank"]
    pid = os.posix_spawn(program, command, dict(os.environ), file_actions=[quiet, *ends])
    os.close(high_in)
    os.close(high_out)
    return pid, ours_out, ours_in
