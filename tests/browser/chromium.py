"""A real browser for the tests, driven by the DevTools protocol."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), "")
_KEYS = {
    "Tab": 9,
    "Enter": 13,
    "Escape": 27,
    " ": 32,
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
    "Home": 36,
    "End": 35,
}
_SECONDS = 20.0


class Page:
    """One tab, with cookies of its own.

    Attributes:
        context: The browser's name for what it shares with no other tab.
        trouble: What the console, the page's scripts or its security policy complained of.
        requests: Addresses that were asked for.
    """

    def __init__(self, socket: ClientConnection, numbers: Iterator[int]) -> None:
        self._socket, self._numbers, self._session = socket, numbers, ""
        self.trouble: list[str] = []
        self.requests: list[str] = []
        self.context: str = self.send("Target.createBrowserContext")["browserContextId"]
        target = self.send("Target.createTarget", url="about:blank", browserContextId=self.context)["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "Audits"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Returns the result of a command; notes what happens until it comes."""
        number = next(self._numbers)
        command = {"id": number, "method": method, "params": parameters}
        self._socket.send(json.dumps(command | ({"sessionId": self._session} if self._session else {})))
        while True:
            told = json.loads(self._socket.recv(timeout=_SECONDS))
            if told.get("id") == number:
                assert "error" not in told, (method, told["error"])
                result: dict[str, Any] = told["result"]
                return result
            if told.get("sessionId") == self._session:
                self._note(told.get("method", ""), told.get("params", {}))

    def _note(self, method: str, told: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.trouble.append(json.dumps(told["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning"):
            self.trouble.append(json.dumps(told["args"]))
        elif method == "Log.entryAdded" and told["entry"]["level"] == "error":
            # A refusal with a status is an answer; the browser writes it into the log as if it were a fault.
            if "Failed to load resource: the server responded" not in told["entry"]["text"]:
                self.trouble.append(told["entry"]["text"])
        elif method == "Audits.issueAdded" and "ontentSecurityPolicy" in told["issue"]["code"]:
            self.trouble.append(json.dumps(told["issue"]))

    def open(self, address: str, *, width: int = 1280, height: int = 800, dark: bool = False) -> None:
        """Goes to an address in a window of that size."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Page.navigate", url=address)

    def run(self, script: str) -> Any:
        """Returns the value of an expression, or of its promise."""
        found = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, script: str, seconds: float = _SECONDS) -> Any:
        """Waits until an expression is true, and returns its value; while a page loads it may fail."""
        until = time.monotonic() + seconds
        while not (value := self.run(f"(() => {{ try {{ return {script} }} catch {{ return false }} }})()")):
            assert time.monotonic() < until, (
                f"still not: {script}\n{self.run('document.body.innerText')}\n{self.trouble}"
            )
            time.sleep(0.03)
        return value

    def click(self, selector: str) -> None:
        """Presses the mouse on the middle of an element."""
        one = f"document.querySelector({selector!r})"
        self.run(f"{one}.scrollIntoView({{block: 'center'}})")
        x, y = self.run(f"(r => [r.x + r.width / 2, r.y + r.height / 2])({one}.getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, *keys: str) -> None:
        """Presses keys one after the other."""
        for key in keys:
            text = {"text": "\r"} if key == "Enter" else {"text": " "} if key == " " else {}
            for kind in ("keyDown", "keyUp"):
                self.send(
                    "Input.dispatchKeyEvent", type=kind, key=key, code="Space" if key == " " else key,
                    windowsVirtualKeyCode=_KEYS[key], **(text if kind == "keyDown" else {}),
                )  # fmt: skip

    def write(self, text: str) -> None:
        """Types a text where the focus is."""
        self.send("Input.insertText", text=text)

    def choose(self, *files: Path) -> None:
        """Gives files to the page's chooser."""
        found = self.send("Runtime.evaluate", expression="document.querySelector('input[type=file]')")["result"]
        self.send("DOM.setFileInputFiles", files=[str(file) for file in files], objectId=found["objectId"])

    def close(self) -> None:
        """Closes the tab and forgets its cookies."""
        self._session = ""
        self.send("Target.disposeBrowserContext", browserContextId=self.context)

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """Writes a screenshot, of the window or of the whole page."""
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def chromium(profile: Path) -> Iterator[ClientConnection]:
    """A running browser with a profile of its own: the socket over which it is driven."""
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
        "--disable-component-update", "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            port_file, until = profile / "DevToolsActivePort", time.monotonic() + _SECONDS
            while not (port_file.exists() and len(lines := port_file.read_text().splitlines()) == 2):
                assert time.monotonic() < until and process.poll() is None, "the browser did not start"
                time.sleep(0.02)
            with connect(f"ws://127.0.0.1:{lines[0]}{lines[1]}", max_size=None, proxy=None) as socket:
                yield socket
        finally:
            process.terminate()


def numbers() -> Iterator[int]:
    """Returns the numbers of the commands over one socket."""
    return itertools.count(1)
