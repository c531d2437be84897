"""Headless Chromium, driven over the pipe of its DevTools protocol: no port, gone with this process."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# No sandbox: containers run as root and have none to give; what is opened here comes from this machine.
FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage",
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-extensions", "--hide-scrollbars", "--remote-debugging-pipe",
]  # fmt: skip
# The shell moves the pipes to the numbers that Chromium expects.
SHELL = ["sh", "-c", 'exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null']


def find_chromium() -> str | None:
    """Give the path of a Chromium or Chrome, if this machine has one."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


class Browser:
    """One page; every wait is for a state and has an end."""

    def __init__(self, process: subprocess.Popen[bytes]):
        self._commands, self._answers = process.stdin, process.stdout
        self._last, self._read, self._session = 0, b"", {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}

    def call(self, method: str, *, seconds: float = 60, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol and give its result."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": params} | self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        self._commands.flush()
        deadline = time.monotonic() + seconds
        while (answer := self._next(deadline, method)).get("id") != self._last:
            pass
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def evaluate(self, script: str, *, seconds: float = 60) -> Any:
        """Give the value of a JavaScript expression, of its promise when it is one."""
        options = {"awaitPromise": True, "returnByValue": True, "userGesture": True}
        result = self.call("Runtime.evaluate", seconds=seconds, expression=script, **options)
        problem = result.get("exceptionDetails", {})
        assert not problem, f"{script}: {problem.get('exception', {}).get('description', problem)}"
        return result["result"].get("value")

    def wait_for(self, script: str, *, seconds: float = 60) -> Any:
        """Give the value of an expression as soon as it is true."""
        deadline = time.monotonic() + seconds
        while not (value := self.evaluate(script, seconds=seconds)):
            assert time.monotonic() < deadline, f"not true within {seconds} s: {script}"
            time.sleep(0.05)
        return value

    def picture(self) -> bytes:
        """Give the page as it is seen, as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def _next(self, deadline: float, method: str) -> dict[str, Any]:
        while b"\0" not in self._read:
            left = max(0.0, deadline - time.monotonic())
            assert select.select([self._answers], [], [], left)[0], f"{method}: no answer in time"
            more = os.read(self._answers.fileno(), 1 << 16)
            assert more, f"{method}: the browser is gone"
            self._read += more
        message, _, self._read = self._read.partition(b"\0")
        return json.loads(message)


@contextmanager
def opened_browser(folder: Path, *, width: int = 1280, height: int = 900) -> Iterator[Browser]:
    """Open a browser with a profile of its own; no process of it outlives the block."""
    profile = [f"--user-data-dir={folder / 'profile'}", f"--window-size={width},{height}"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(
        [*SHELL, find_chromium(), *FLAGS, *profile], **pipes, start_new_session=True,
        env=os.environ | {"HOME": str(folder)},
    )  # fmt: skip
    try:
        yield Browser(process)
    finally:
        process.stdin.close()
        end_group(process)
        process.stdout.close()


def end_group(process: subprocess.Popen[Any], *, seconds: float = 10) -> None:
    """Give a process that is ending its time, then end what is left of its group."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
