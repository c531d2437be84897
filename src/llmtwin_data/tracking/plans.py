"""A plan for the process that talks to Comet, and that process: bounded in time, told nothing else."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from llmtwin_data.folders import RunFolder

# Everything that comet_ml would otherwise collect, send or print unasked (its own documentation, and tried).
QUIET = {
    "COMET_ERROR_TRACKING_ENABLE": "false",
    "COMET_DISABLE_AUTO_LOGGING": "1",
    "COMET_AUTO_LOG_ENV_DETAILS": "false",
    "COMET_AUTO_LOG_GIT_PATCH": "false",
    "COMET_AUTO_LOG_GIT_METADATA": "false",
    "COMET_AUTO_LOG_CODE": "false",
    "COMET_DISABLE_ANNOUNCEMENT": "1",
    "COMET_LOGGING_CONSOLE": "ERROR",
    "COMET_DISPLAY_SUMMARY_LEVEL": "0",
    # Workers per core: a failing upload is tried for 20 s and must not keep the others waiting.
    "COMET_INTERNAL_FILE_UPLOAD_WORKER_RATIO": "16",
    # Not even through a proxy that the system itself knows.
    "NO_PROXY": "*",
}
# The process gets no other variable, so that no other key can leave with what it sends.
_NEEDED = {
    "PATH",
    "HOME",
    "LANG",
    "TMPDIR",
    "PYTHONPATH",
    "SYSTEMROOT",
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
}
_PORTS = {"http": 80, "https": 443}
_SLOWEST_BYTES_PER_SECOND = 250_000


@dataclass(frozen=True, slots=True)
class Plan:
    """What to publish, with absolute paths; ``course_files`` are the two of the dataset's artifact.

    ``interrupted``: an earlier publishing of this run began and did not come to its end.
    """

    run_dir: str
    scratch: str
    name: str
    manifest_sha256: str
    metadata: dict[str, Any]
    course_files: tuple[str, ...]
    experiment_key: str
    archives: tuple[str, ...] = ()
    online: bool = True
    interrupted: bool = False
    workspace: str = ""

    @property
    def run(self) -> RunFolder:
        """The run to publish."""
        return RunFolder(Path(self.run_dir))

    @property
    def archive_folder(self) -> Path:
        """Where offline archives lie, ``archives`` being their names."""
        return self.run.path / "comet"

    @property
    def alias(self) -> str:
        """The alias under which a version that holds this very dataset is found again."""
        return f"manifest-{self.manifest_sha256[:12]}"

    @property
    def result_file(self) -> Path:
        """Where the process leaves what came out."""
        return Path(self.scratch) / "result.json"

    def line(self) -> str:
        """Give the line from which :func:`read_plan` makes the plan."""
        return json.dumps(asdict(self)) + "\n"


def read_plan(line: str) -> Plan:
    """Make the plan that a line holds."""
    return Plan(**json.loads(line))


def carry_out(plan: Plan, *, environ: Mapping[str, str], patience_seconds: float) -> dict[str, Any]:
    """Start the process, wait for it and give its result; a result with ``reason`` is a failure.

    The wait is bounded: by the patience, plus the time the run's bytes take on a slow line.
    """
    command = [sys.executable, "-m", "llmtwin_data.tracking.experiments"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=quiet_environ(environ), cwd=plan.scratch, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            _tell(process, plan)
            process.wait(patience_seconds + _bytes_of(plan.run) / _SLOWEST_BYTES_PER_SECOND)
        except subprocess.TimeoutExpired:
            return {"reason": "no_answer"}
        finally:
            process.kill()
    if not plan.result_file.exists():
        return {"reason": "failed", "problem": f"its process ended with {process.returncode}"}
    result: dict[str, Any] = json.loads(plan.result_file.read_text("utf-8"))
    return result


def quiet_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Give the environment of the process: Comet's variables, what any process needs, and silence."""
    kept = {
        name: value for name, value in environ.items() if name.upper() in _NEEDED or name.startswith("COMET_")
    }
    return kept | QUIET


def reachable(url: str, *, seconds: float = 5.0) -> bool:
    """Say whether the URL's host accepts a connection.

    Takes at most twice ``seconds``: looking up a name has no deadline of its own, so it is left behind.
    """
    target = urlsplit(url)
    address = target.hostname or "", target.port or _PORTS.get(target.scheme, 443)
    answers: list[bool] = []
    asking = threading.Thread(target=lambda: answers.append(_connects(address, seconds)), daemon=True)
    asking.start()
    asking.join(2 * seconds)
    return bool(answers and answers[0])


def _tell(process: subprocess.Popen[str], plan: Plan) -> None:
    # The pipe stays open: its end tells the process that we died.
    assert process.stdin is not None
    try:
        process.stdin.write(plan.line())
        process.stdin.flush()
    except BrokenPipeError:
        pass


def _bytes_of(run: RunFolder) -> int:
    return sum(path.stat().st_size for path in run.path.rglob("*") if path.is_file())


def _connects(address: tuple[str, int], seconds: float) -> bool:
    try:
        socket.create_connection(address, timeout=seconds).close()
    except (OSError, UnicodeError):
        return False
    return True
