"""A real browser without a window, by the protocol of its developer tools over two pipes; needs no library."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

#: by which names a Chromium is found
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
#: what a page should not have happen
COMPLAINTS = (
    "Runtime.exceptionThrown",
    "Runtime.consoleAPICalled",
    "Log.entryAdded",
    "Page.javascriptDialogOpening",
)
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")


class Browser:
    """One page in a Chromium of its own, and what went wrong on it.

    Attributes:
        complaints: errors and all that was written to the console.
    """

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self._count = 0
        self._session: str | None = None
        self._rest = b""

    def __enter__(self) -> Browser:
        self._folder = tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True)
        there, self._write = os.pipe()
        self._read, back = os.pipe()
        options = ["--headless", "--disable-gpu", "--no-first-run", f"--user-data-dir={self._folder.name}"]
        options += ["--no-sandbox"] if os.geteuid() == 0 else []  # it refuses to be root's otherwise
        # the protocol wants the pipes under these numbers
        script = f'exec "$0" "$@" 3<&{there} 4>&{back}'
        command = ["bash", "-c", script, str(CHROMIUM), *options, "--remote-debugging-pipe", "about:blank"]
        self._process = subprocess.Popen(command, pass_fds=(there, back), stderr=subprocess.DEVNULL)
        os.close(there)
        os.close(back)
        target = self.tell("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.tell("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.tell(f"{domain}.enable")
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)
        os.close(self._read)
        os.close(self._write)
        self._folder.cleanup()

    def open(self, path: Path) -> None:
        """Load a page, and wait until it is there."""
        self.tell("Page.navigate", url=path.resolve().as_uri())
        while self._receive().get("method") != "Page.loadEventFired":
            pass

    def run(self, code: str) -> Any:
        """Return the value of an expression on the page."""
        told = self.tell("Runtime.evaluate", expression=code, returnByValue=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def tell(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Call a method of the protocol, and return what it gives."""
        self._count += 1
        call: dict[str, Any] = {"id": self._count, "method": method, "params": arguments}
        call |= {"sessionId": self._session} if self._session else {}
        os.write(self._write, json.dumps(call).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._count:
            pass
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = os.read(self._read, 1 << 16)
            assert more, "the browser ended"
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        told: dict[str, Any] = json.loads(message)
        kinds = (
            "Runtime.exceptionThrown",
            "Runtime.consoleAPICalled",
            "Log.entryAdded",
            "Page.javascriptDialogOpening",
        )
        loads = told.get("method") == "Network.requestWillBeSent" and told["params"]["type"] != "Document"
        if told.get("method") in kinds or loads:
            self.complaints.append(json.dumps(told["params"]))
        return told
