"""The command `llmtwin-data`: arguments in, lines and an exit code out."""

from __future__ import annotations

import sys
import time
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmtwin_data.arguments import make_parser
from llmtwin_data.environment import read_environ, redact, secret_values
from llmtwin_data.errors import Interrupted, LlmTwinError, ParamsError
from llmtwin_data.folders import told

if TYPE_CHECKING:
    from llmtwin_data.prices import Forecast
    from llmtwin_data.runs import Outcome
    from llmtwin_data.runs.sweeps import Study

MOST_LINES = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Do one command and give its exit code; an error is told in few lines, and whole with ``--debug``."""
    given = make_parser().parse_args(arguments)
    environ = read_environ()
    try:
        if given.command == "run":
            return _run(given, environ)
        from llmtwin_data import commands

        return int(getattr(commands, given.command)(given, environ, _say))
    except BrokenPipeError:
        # Whoever read our lines has seen enough, as `head` does; Python would complain once more at its exit.
        sys.stdout = None
        return 0
    except KeyboardInterrupt:
        return _tell("stopped", Interrupted.exit_code, environ=environ)
    except Exception as error:
        return _tell_error(error, given, environ)


def _run(given: Namespace, environ: dict[str, str]) -> int:
    """Run every study, one after another; one that fails does not stop the rest and gives the exit code."""
    codes: list[int] = []
    finished: list[Path] = []
    forecasts: list[Forecast] = []
    studies = list(_studies(given, environ, codes))
    for study in studies:
        name = f"{study.name}: " if len(studies) + len(codes) > 1 else ""
        try:
            outcome = _run_study(study, given, environ, name=name, forecasts=forecasts)
        except BrokenPipeError:
            raise
        except Exception as error:
            codes.append(_tell_error(error, given, environ, name=name))
            continue
        codes.append(_told(outcome, given, environ, name=name))
        if outcome.exit_code == Interrupted.exit_code:
            return Interrupted.exit_code
        # Notebooks 1 and 2 alone make no dataset.
        finished += [outcome.run_dir] if outcome.exit_code == 0 and given.only in (0, 3) else []
    if len(forecasts) > 1:
        _tell_sum(forecasts)
    elif len(finished) > 1 and not given.dry_run:
        _compare(finished)
    return next((code for code in codes if code), 0)


def _studies(given: Namespace, environ: dict[str, str], codes: list[int]) -> Iterator[Study]:
    """Give the studies of every file; the code of a file that cannot be read joins the others."""
    from llmtwin_data.runs.sweeps import studies_of

    for path in given.params:
        try:
            studies = studies_of(path, [(key, value) for key, value in given.overrides])
            if given.out and len(studies) * len(given.params) > 1:
                raise ParamsError("--out: expected one run for one folder, found several; leave it out")
        except LlmTwinError as error:
            codes.append(_tell_error(error, given, environ))
        else:
            yield from studies


def _run_study(
    study: Study, given: Namespace, environ: dict[str, str], *, name: str, forecasts: list[Forecast]
) -> Outcome:
    from llmtwin_data.runs import Outcome, run_params
    from llmtwin_data.runs.preflight import tell_forecast

    if given.dry_run:
        forecasts += tell_forecast(study.settings, only=given.only, environ=environ, say=_say, name=name)
        return Outcome(0, Path())
    study = replace(study, only=given.only, out=given.out, retry_failed=given.retry_failed)
    return run_params(study, environ=environ, say=_say, progress=progress_lines())


def _told(outcome: Outcome, given: Namespace, environ: dict[str, str], *, name: str) -> int:
    if outcome.exit_code:
        trace = outcome.traceback if given.debug else ""
        where = f"\nrun folder: {told(outcome.run_dir)}"
        return _tell(name + outcome.message + where, outcome.exit_code, environ=environ, trace=trace)
    return 0


def _compare(run_dirs: list[Path]) -> None:
    from llmtwin_data.reports.compare_reports import compare_report

    _say(f"Comparison: {told(compare_report(run_dirs))}")


def _tell_sum(forecasts: list[Forecast]) -> None:
    from llmtwin_data.prices import add_up
    from llmtwin_data.summaries.run_tables import forecast_words

    shared = "; an answer that several of them share is counted for each, and asked once"
    _say(f"All {len(forecasts)} runs: {forecast_words(add_up(forecasts))}{shared}")


def _say(line: str) -> None:
    print(("\r\x1b[K" if sys.stdout.isatty() else "") + line, flush=True)


def progress_lines(*, every_seconds: float = 60.0) -> Callable[[str], None]:
    """Give what shows progress: on a terminal a line that replaces itself, elsewhere a line now and then."""
    last = time.monotonic()

    def show(line: str) -> None:
        nonlocal last
        if sys.stdout.isatty():
            print(f"\r\x1b[K{line}", end="", flush=True)
        elif line and time.monotonic() - last >= every_seconds:
            last = time.monotonic()
            print(line, flush=True)

    return show


def _tell(message: str, code: int, *, environ: dict[str, str], trace: str = "") -> int:
    secrets = secret_values(environ)
    if trace:
        print(redact(trace, secrets), file=sys.stderr)
    lines = redact(f"llmtwin-data: {message}", secrets).splitlines()
    last = lines[-1:] if len(lines) > MOST_LINES else []
    print("\n".join(lines[: MOST_LINES - len(last)] + last), file=sys.stderr)
    return code


def _tell_error(error: Exception, given: Namespace, environ: dict[str, str], *, name: str = "") -> int:
    trace = traceback.format_exc() if given.debug else ""
    if isinstance(error, LlmTwinError):
        return _tell(f"{name}{error}", error.exit_code, environ=environ, trace=trace)
    found = f"{name}unexpected {type(error).__name__}: {error}\nrun again with --debug to see where"
    return _tell(found, LlmTwinError.exit_code, environ=environ, trace=trace)


if __name__ == "__main__":
    sys.exit(main())
