"""Where work over rows is done: in this process, on all cores of this machine, or on Ray."""

from __future__ import annotations

import logging
import os
import pickle
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from importlib.util import find_spec
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import pandas as pd
import pyarrow as pa

from llmtwin_data.errors import LlmTwinError, ParamsError

T = TypeVar("T")
Result = TypeVar("Result")

# Rows of one piece of work: some tenths of a second, and a few MB on the way. No result depends on it.
BLOCK_ROWS = 2_000
# Rows from which on it is worth a second to start processes.
FEWEST_ROWS = 5_000
# Into so many buckets, by the leading bits of a hash, work by key is parted. No result depends on it.
BUCKETS = 16
# Copies arrays and Arrow's columns once less than Python 3.11's own choice.
PROTOCOL = 5
# How often a piece of work is done again whose process has died.
MOST_DEATHS = 16
# Between looks of a process whether the one that started it is there.
LOOK_SECONDS = 0.3
# Parts for each of Ray's workers that wait in its store, which holds so many bytes; the rest goes to disk.
WINDOW = 16
STORE_BYTES = 2**29
# For a connection to a cluster's address; Ray itself would try for minutes.
REACH_SECONDS = 5.0
# When the folder of a Ray is removed whose starter has ended: once its workers are gone, and its last agents.
GONE_SECONDS = "10 80"
# Who has it is let into a cluster.
TOKEN = Path.home() / ".ray" / "auth_token"


class Workers:
    """Where the pieces of a step are worked on: here, one after the other.

    What is given to them is a function of a module, and a part: a block of rows, or all that has one key.
    """

    count = 1  # of parts that are worked on at once

    def map(
        self, function: Callable[..., Result], parts: Iterable[Any], *, given: Sequence[Any] = ()
    ) -> Iterator[Result]:
        """Return ``function(part, *given)`` of each part, in the order of the parts."""
        return (function(part, *given) for part in parts)

    def shuffle(
        self,
        sketch: Callable[..., Sequence[T]],
        parts: Iterable[Any],
        verify: Callable[[list[T]], Result],
        *,
        given: Sequence[Any] = (),
    ) -> list[Result]:
        """Return what ``verify`` makes of each bucket: what each part's sketch holds for it, in their order.

        ``sketch(part, *given)`` returns one item for each of the `BUCKETS`, which goes as it is verified.
        """
        sketches = [deque(each) for each in self.map(sketch, parts, given=given)]
        buckets = ([each.popleft() for each in sketches] for _ in range(BUCKETS))
        return [*self.map(verify, buckets)]


HERE = Workers()


class Processes(Workers):
    """The same in processes of this machine, which end with the one that started them."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._idle: SimpleQueue[_Process] = SimpleQueue()
        for _ in range(count):
            self._idle.put(_Process())

    def map(
        self, function: Callable[..., Result], parts: Iterable[Any], *, given: Sequence[Any] = ()
    ) -> Iterator[Result]:
        task, waiting = pickle.dumps((function, tuple(given)), PROTOCOL), deque[Future[Result]]()
        with ThreadPoolExecutor(self.count) as threads:
            try:
                for part in parts:
                    waiting.append(threads.submit(self._work, task, part))
                    if len(waiting) > 2 * self.count:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _work(self, task: bytes, part: Any) -> Any:
        process = self._idle.get()
        try:
            return process.work(task, pickle.dumps(part, PROTOCOL))
        finally:
            self._idle.put(process)


class _Process:
    """A Python that is given functions and parts by its stdin, until that is closed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._task = b""

    def work(self, task: bytes, part: bytes) -> Any:
        """Return the function's result, or raise its error; a process that dies is replaced."""
        for _ in range(MOST_DEATHS):
            try:
                done, result = self._ask(task, part)
            except (EOFError, OSError, pickle.UnpicklingError):
                self._process = None
                continue
            if done:
                return result
            raise result
        raise LlmTwinError(
            f"a process died {MOST_DEATHS} times at the same piece of work, mostly for want of memory; "
            "free some, or set limit"
        )

    def _ask(self, task: bytes, part: bytes) -> tuple[bool, Any]:
        if not self._process:
            # -P: what lies in the current folder may have the name of a library.
            command = [sys.executable, "-P", "-c", f"from {__name__} import serve; serve({os.getpid()})"]
            environ = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environ)
            self._task = b""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        pickle.dump((None if task is self._task else task, part), stdin, PROTOCOL)
        stdin.flush()
        self._task = task
        answer: tuple[bool, Any] = pickle.load(stdout)
        return answer


def serve(starter: int) -> None:
    """Work for the process that started this one, until it ends, also in the middle of a piece of work."""
    threading.Thread(target=_end_with, args=[starter], daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is the starter's to end in good order
    stdin, stdout = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what is printed must not come between
    function, given = None, ()
    with suppress(EOFError, BrokenPipeError):
        while True:
            task, part = pickle.load(stdin)
            try:
                function, given = pickle.loads(task) if task else (function, given)
                assert function is not None
                answer = True, function(pickle.loads(part), *given)
            except BaseException as error:
                answer = False, _sendable(error)
            pickle.dump(answer, stdout, PROTOCOL)
            stdout.flush()


def _sendable(error: BaseException) -> BaseException:
    """Return an error as it is, or what it says where it cannot be sent, as some libraries' cannot."""
    try:
        pickle.loads(pickle.dumps(error, PROTOCOL))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os._exit(1)


class OnRay(Workers):
    """The same on Ray, by Ray Data, which does again what a worker did that died."""

    def __init__(self, cluster: str) -> None:
        # A short path, for it holds sockets; one's own, for texts may be spilled into it.
        self.folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp" if os.name == "posix" else None)
        # A killed process cleans nothing up, nor does one that finds no cluster.
        script = f'cat; for wait in {GONE_SECONDS}; do sleep $wait; rm -rf "$0"; done'
        self._remover = subprocess.Popen(
            ["sh", "-c", f"exec >/dev/null 2>&1; {script}", self.folder],
            stdin=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self._ray = _connected(cluster, f"{self.folder}/ray")
        self.count = int(self._ray.cluster_resources()["CPU"])

    def map(
        self, function: Callable[..., Result], parts: Iterable[Any], *, given: Sequence[Any] = ()
    ) -> Iterator[Result]:
        with _ray_errors():
            for mapped in self._mapped(_answered, function, parts, given):
                yield from map(_result_of, mapped.iter_rows())

    def shuffle(
        self,
        sketch: Callable[..., Sequence[T]],
        parts: Iterable[Any],
        verify: Callable[[list[T]], Result],
        *,
        given: Sequence[Any] = (),
    ) -> list[Result]:
        """Return what ``verify`` makes of each bucket, which Ray brings together."""
        with _ray_errors():
            mapped = self._mapped(_sketched, sketch, parts, given)
            sketches = self._ray.data.from_arrow_refs([ref for it in mapped for ref in it.to_arrow_refs()])
            verified = sketches.groupby("bucket").map_groups(_verified, **_work(self._task(verify)))
            return [*map(_result_of, sorted(verified.iter_rows(), key=itemgetter("bucket")))]

    def _mapped(self, work: Any, function: Any, parts: Iterable[Any], given: Sequence[Any]) -> Iterator[Any]:
        """Return the parts, worked on, as datasets of so many as keep all workers busy."""
        rows = (_row(at, 0, part) for at, part in enumerate(parts))
        task = self._task(function, *given)
        while window := [*islice(rows, WINDOW * self.count)]:
            yield self._ray.data.from_arrow(window).map_batches(work, **_work(task))

    def _task(self, function: Any, *given: Any) -> Any:
        return self._ray.put(pickle.dumps((function, given), PROTOCOL))


def _connected(cluster: str, folder: str) -> Any:
    """Return Ray, connected to the cluster, or to one of this machine that nobody else can use."""
    check_cluster(cluster)
    environ, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    if cluster == "local":
        # The second one means, on any system: listen on loopback only. A token given is in no file.
        os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        store = min(STORE_BYTES, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 8)
        options |= {"num_cpus": _cores(), "object_store_memory": store}
        options |= {"include_dashboard": False, "_temp_dir": folder}
    elif TOKEN.exists():  # `ray start` uses it unasked, and a driver does not
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        import ray.data

        # The one way to limit tries until Ray 2.64 has another, see pyproject.toml.
        warnings.filterwarnings("ignore", ".*`ray_remote_args_fn` is deprecated")
        for name in ("ray", "ray.data"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        ray.shutdown()
        ray.init(cluster, **options)
    except (OSError, RuntimeError) as error:
        raise ParamsError(
            f"cluster: expected to be let into Ray at {cluster}, found: {error}; "
            f"is {TOKEN} the same on all machines?"
        ) from error
    finally:
        os.environ.clear()
        os.environ.update(environ)
        with suppress(ValueError):  # in a thread, where Ray sets none either
            signal.signal(signal.SIGTERM, handler)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    # By tasks, which can be done again; its other ways have actors, which die with what they hold.
    context.shuffle_strategy = "sort_shuffle_pull_based"
    return ray


def check_cluster(cluster: str) -> None:
    """Raise ParamsError if Ray is needed and missing, or nothing listens at its address."""
    if cluster and not find_spec("ray"):
        raise ParamsError(f"cluster: expected Ray for {cluster}, found it is not installed; run make ray")
    host, _, port = cluster.rpartition(":")
    if not host:
        return
    try:
        socket.create_connection((host, int(port)), REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ParamsError(
            f"cluster: expected Ray at {cluster}, found: {error}; start it there with ray start --head, "
            "or leave cluster empty"
        ) from error


def _work(task: Any) -> dict[str, Any]:
    """Return the arguments by which Ray Data does a task on Arrow tables, again where a worker dies."""
    return {
        "fn_args": [task], "batch_format": "pyarrow",
        "ray_remote_args_fn": lambda: {"max_retries": MOST_DEATHS},
    }  # fmt: skip


@contextmanager
def _ray_errors() -> Iterator[None]:
    import ray

    try:
        yield
    except ray.exceptions.RaySystemError as error:
        lines = str(error).splitlines()
        place = lines[0].rpartition("ip=")[2].rstrip(")")
        raise LlmTwinError(
            f"Ray could not begin a piece of work on {place}: {lines[-1]}; "
            f"that machine needs this project, as it is here, in {Path(__file__).parents[2]}"
        ) from error
    except ray.exceptions.RayError as error:
        raise LlmTwinError(
            f"Ray tried a piece of work {MOST_DEATHS} times and gave up ({type(error).__name__}), mostly for "
            "want of memory; free some, or set limit"
        ) from error


def _row(at: int, bucket: int, it: Any) -> pa.Table:
    blob = pa.array([pickle.dumps(it, PROTOCOL)], pa.large_binary())
    return pa.table({"at": [at], "bucket": [bucket], "it": blob})


@lru_cache(1)
def _fetched(task: Any) -> Any:
    import ray

    return pickle.loads(ray.get(task))


def _answer(part: Any, task: Any) -> tuple[bool, Any]:
    """Return whether it could be done, and the function's result or its error."""
    try:
        function, given = _fetched(task)
        return True, function(part, *given)
    except Exception as error:
        return False, error


def _answered(rows: pa.Table, task: Any) -> pa.Table:
    """Return the answer to the part that a row holds."""
    (row,) = rows.to_pylist()
    return _row(row["at"], 0, _answer(pickle.loads(row["it"]), task))


def _sketched(rows: pa.Table, task: Any) -> pa.Table:
    """Return an answer for each bucket, of the part that a row holds."""
    (row,) = rows.to_pylist()
    done, sketch = _answer(pickle.loads(row["it"]), task)
    items = sketch if done else [sketch] * BUCKETS
    return pa.concat_tables(_row(row["at"], bucket, (done, item)) for bucket, item in enumerate(items))


def _verified(rows: pa.Table, task: Any) -> pa.Table:
    """Return the answer to what all sketches hold for one bucket."""
    sketches = [pickle.loads(row["it"]) for row in rows.sort_by("at").to_pylist()]
    failed = [answer for answer in sketches if not answer[0]]
    answer = failed[0] if failed else _answer([item for _, item in sketches], task)
    return _row(0, rows["bucket"][0].as_py(), answer)


def _result_of(row: dict[str, Any]) -> Any:
    done, result = pickle.loads(row["it"])
    if done:
        return result
    raise result


def workers_of(rows: int, cluster: str = "", *, fewest: int = 0) -> Workers:
    """Return where so many rows are best worked on: fewer than so many are here, also with a cluster."""
    if rows < (fewest or FEWEST_ROWS):
        return HERE
    if cluster:
        return _on_ray(cluster)
    count = _cores()
    return processes(count) if count > 1 else HERE


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def processes(count: int) -> Processes:
    """Return so many processes of this machine, the same ones at each call."""
    return Processes(count)


@lru_cache(1)  # a process has one connection
def _on_ray(cluster: str) -> OnRay:
    return OnRay(cluster)


def blocks(rows: Sequence[Any] | Iterator[Any] | pd.DataFrame, size: int = BLOCK_ROWS) -> Iterator[Any]:
    """Return the rows in pieces, of a table, a list or an iterator; an empty one for none."""
    if isinstance(rows, Iterator):
        return chain([[*islice(rows, size)]], iter(lambda: [*islice(rows, size)], []))
    pick = without_attrs(rows).iloc if isinstance(rows, pd.DataFrame) else rows
    return (pick[at : at + size] for at in range(0, len(rows) or 1, size))


def without_attrs(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table without what is of the whole, such as the side of every content: each piece takes it."""
    bare = table.copy(deep=False)
    bare.attrs = {}
    return bare


def of_each(part: Sequence[Any], function: Callable[[Any], Result]) -> list[Result]:
    """Return ``function(item)`` of each item of a part."""
    return [*map(function, part)]


def by_row(
    table: pd.DataFrame, function: Callable[..., pd.DataFrame], *given: Any, workers: Workers = HERE
) -> pd.DataFrame:
    """Return what ``function(block, *given)`` returns of each block of rows, one below the other."""
    return pd.concat([*workers.map(function, blocks(table), given=given)])
