"""One page in a headless browser, for tests that click."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def chromium() -> str:
    """The browser, or the skip that says it is not there."""
    named = (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    found = next((path for path in map(shutil.which, filter(None, named)) if path), None)
    if found is None:
        pytest.skip("chromium absent: the page is not opened in a browser")
    return found


class Page:
    """One page in a headless Chromium, driven over its pipe (messages are JSON and end in NUL)."""

    def __init__(self, file: Path | str, folder: Path) -> None:
        binary = chromium()
        folder.mkdir()
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        # The browser reads fd 3 and writes fd 4; moved out of their way first, neither is overwritten.
        moved = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (commands, answers)]
        launch = (
            "import os, sys; commands, answers = map(int, sys.argv[1:3]); "
            "os.dup2(commands, 3); os.dup2(answers, 4); os.execv(sys.argv[3], sys.argv[3:])"
        )
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run",
                 "--disable-background-networking", "--disable-dev-shm-usage",
                 "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
                 "--window-size=1280,900", f"--user-data-dir={folder}"]  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-c", launch, *map(str, moved), binary, *flags],
            pass_fds=moved, env={**os.environ, "HOME": str(folder)},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for end in (commands, answers, *moved):
            os.close(end)
        self._read, self._number, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Network", "Log"):
                self.call(f"{domain}.enable")
            self.open(file)
        except BaseException:
            self.close()
            raise

    def open(self, file: Path | str) -> None:
        """Open a file, or an address on this machine."""
        self.events.clear()
        self.call("Page.navigate", url=file if isinstance(file, str) else file.resolve().as_uri())
        self.loaded()

    def loaded(self) -> None:
        """Wait until a page has loaded since the events were last cleared."""
        while "Page.loadEventFired" not in {event["method"] for event in self.events}:
            self._next()

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": arguments}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def do(self, script: str) -> Any:
        """The value of a script in the page; what it promises is waited for."""
        done = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def press(self, *keys: str) -> None:
        for key in keys:
            for kind in ("keyDown", "keyUp"):
                code = {"text": "\r", "windowsVirtualKeyCode": 13} if key == "Enter" and kind == "keyDown" else {}
                self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, **code)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._commands)
        os.close(self._answers)

    def events_of(self, *methods: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["method"] in methods]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._answers], [], [], 60)
            more = os.read(self._answers, 1 << 16) if ready else b""
            assert more, "the browser went silent"
            self._read += more
        line, _, self._read = self._read.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        if "method" in message:
            self.events.append(message)
        return message
