"""What a run says while it goes on: lines for the terminal and log.txt, and its progress; never a secret."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from llmtwin_data.environment import redact, secret_values
from llmtwin_data.errors import LlmTwinError
from llmtwin_data.folders import RunFolder, disk_errors

# Seconds between two looks at the progress that the kernel writes.
_LOOK_EVERY = 1.0
# Characters of a kernel's own words that are kept; they come from libraries and can be many.
_MOST_OF_KERNEL = 20_000


class RunLog:
    """The voice of one run; ``say`` gets whole lines, ``progress`` a line that replaces the one before."""

    def __init__(
        self,
        run: RunFolder,
        *,
        environ: Mapping[str, str],
        say: Callable[[str], None],
        progress: Callable[[str], None],
    ) -> None:
        self._run, self._say, self._progress = run, say, progress
        self._secrets = secret_values(environ)
        self._looked, self._shown, self._told = 0.0, "", 0

    def say(self, line: str) -> None:
        """Say a line on the terminal and keep it."""
        line = redact(line, self._secrets)
        self._say(line)
        self.keep(line)

    def keep(self, text: str) -> None:
        """Keep a text in log.txt only, with the time."""
        stamp = datetime.now(UTC).isoformat(timespec="seconds")
        with disk_errors(self._run.log), self._run.log.open("a", encoding="utf-8") as file:
            file.write(f"{stamp} {redact(text, self._secrets)}\n")

    def keep_kernel(self) -> None:
        """Keep the end of what the kernel wrote past its notebook, and empty that."""
        path = self._run.work / "kernel.log"
        text = path.read_text(encoding="utf-8", errors="replace").strip()[-_MOST_OF_KERNEL:]
        path.write_bytes(b"")
        if text:
            self.keep(f"kernel: {text}")

    def tick(self) -> None:
        """Show how far the kernel is, and say what it told, at most once a second."""
        if time.monotonic() - self._looked < _LOOK_EVERY:
            return
        self._looked = time.monotonic()
        line = _progress_line(self.catch_up().get("progress"))
        if line != self._shown:
            self._shown = line
            self._progress(line)

    def catch_up(self) -> dict[str, Any]:
        """Say what the kernel told since the last look, and give what run.json holds."""
        try:
            fields = self._run.read()
        except LlmTwinError:
            return {}
        new = fields.get("told", [])[self._told :]
        for line in new:
            self.say(line)
        self._told += len(new)
        return fields


def _progress_line(progress: Any) -> str:
    if not progress:
        return ""
    failed = f", {progress['failed']} failed" if progress["failed"] else ""
    return f"{progress['what']}: {progress['answered']} of {progress['total']} answered{failed}"
