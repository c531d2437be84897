"""A kernel process: of this interpreter, on the driver's leash, alone in its run folder, ended for sure."""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, Any

from llmtwin_data.errors import RunLocked
from llmtwin_data.folders import PROJECT_ROOT, RunFolder, disk_errors
from llmtwin_data.processes.leash import DRIVER_PIPE

LEASH = ["-m", "llmtwin_data.processes.leash"]
# Seconds that a new kernel waits for the one before it, which ends at once when its driver is gone.
GONE_SECONDS = 10.0


@contextmanager
def started_kernel(run: RunFolder, environ: Mapping[str, str]) -> Iterator[Any]:
    """Start a kernel that holds a pipe from this process and the run's kernel lock; end it with the block."""
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import KernelManager

    # With the blocking client a dead kernel would never be noticed.
    client = "jupyter_client.asynchronous.client.AsyncKernelClient"
    manager = KernelManager(kernel_name="python3", client_class=client)
    # Its remark about TCP without encryption is about networks; these ports are on loopback.
    argv = [sys.executable, *LEASH, "-f", "{connection_file}", "--log-level=ERROR"]
    clients = _kept_clients(manager)
    manager._kernel_spec = KernelSpec(argv=argv, display_name="Python 3", language="python")
    ours, theirs = os.pipe()[::-1]
    with _kernel_lock(run) as lock, (run.work / "kernel.log").open("ab") as log:
        try:
            manager.start_kernel(
                env=dict(environ) | {DRIVER_PIPE: str(theirs)}, pass_fds=(theirs, lock.fileno()),
                stdout=log.fileno(), stderr=log.fileno(), cwd=str(PROJECT_ROOT),
            )  # fmt: skip
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
    try:
        yield manager
    finally:
        os.close(ours)
        _end(manager, clients)


@contextmanager
def _kernel_lock(run: RunFolder) -> Iterator[IO[bytes]]:
    """Hold what every kernel of this run inherits, so that it is free only when the last one is gone."""
    with disk_errors(run.work), (run.work / "kernel.lock").open("ab") as file:
        patience = time.monotonic() + GONE_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > patience:
                    raise RunLocked(f"{run.path}: a kernel of an earlier run is still there") from error
                time.sleep(0.05)
        yield file


def _kept_clients(manager: Any) -> list[Any]:
    """Remember the clients that nbclient makes of a manager that is not its own, and would leave open."""
    clients: list[Any] = []
    make = manager.client

    def remembered(**options: Any) -> Any:
        clients.append(make(**options))
        return clients[-1]

    manager.client = remembered
    return clients


def _end(manager: Any, clients: list[Any]) -> None:
    # The closed pipe has ended it already; what follows takes its process, threads and files away.
    for client in clients:
        with suppress(Exception):
            client.stop_channels()
    with suppress(Exception):
        manager.shutdown_kernel(now=True)
    with suppress(Exception):
        manager.cleanup_resources()
