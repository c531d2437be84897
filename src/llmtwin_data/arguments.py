"""The command line: every command with its arguments and the help that explains them."""

from __future__ import annotations

import argparse
from pathlib import Path

EXIT_CODES = """exit codes:
  0 complete              1 unexpected error       2 params or arguments     3 key or billing
  4 contents unreadable   5 incomplete, resumable  6 quality gate or check   7 already running
  8 disk                  130 interrupted, resumable"""


def make_parser() -> argparse.ArgumentParser:
    """Give the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="llmtwin-data",
        description="Instruction datasets from your own texts in Qdrant: generated, measured, proven.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (add, words, more) in COMMANDS.items():
        description = f"{words[0].upper()}{words[1:]}. {more}".strip()
        command = commands.add_parser(name, help=words, description=description)
        add(command)
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _load(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", type=Path, metavar="FILE.jsonl")
    command.add_argument("--collection", required=True, metavar="NAME", help="such as cleaned_posts")
    _add_qdrant(command)


def _run(command: argparse.ArgumentParser) -> None:
    command.add_argument("params", type=Path, nargs="+", metavar="PARAMS.yaml", help="params or sweep files")
    command.add_argument(
        "-p", dest="overrides", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"),
        help="a parameter that wins over the file's; may be given again",
    )  # fmt: skip
    command.add_argument("--only", type=int, choices=(1, 2, 3), default=0, help="execute one notebook")
    command.add_argument("--out", type=Path, metavar="DIR", help="the run folder; else a new one under runs/")
    command.add_argument("--dry-run", action="store_true", help="stop after the forecast; nothing is sent")
    command.add_argument("--retry-failed", action="store_true", help="ask again what failed for good")


def _of_run(command: argparse.ArgumentParser) -> None:
    command.add_argument("run_dir", type=Path, metavar="RUN_DIR")


def _report(command: argparse.ArgumentParser) -> None:
    command.add_argument("run_dirs", type=Path, nargs="+", metavar="RUN_DIR")


def _audit(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "dataset", type=Path, metavar="DATASET", help="JSON, JSONL, Parquet, a folder, a run folder"
    )
    command.add_argument("--contents", metavar="FILE|COLLECTION", help="what the dataset was made from")
    command.add_argument(
        "--out", type=Path, metavar="DIR", help="for table and report; else NAME-audit in this folder"
    )
    _add_qdrant(command)


def _trace(command: argparse.ArgumentParser) -> None:
    command.add_argument("row_id", metavar="ROW_ID", help="whole, or at least its first six characters")
    _add_runs(command)
    _add_answers(command)


def _diff(command: argparse.ArgumentParser) -> None:
    command.add_argument("before", type=Path, metavar="A", help="run folder, dataset folder or manifest")
    command.add_argument("after", type=Path, metavar="B")


def _forget(command: argparse.ArgumentParser) -> None:
    for name in ("author", "link", "content"):
        command.add_argument(f"--{name}", default="", metavar="ID" if name != "link" else "URL")
    command.add_argument("--collection", default="", metavar="NAME", help="where the content is")
    command.add_argument("--dry-run", action="store_true", help="list what would go; nothing is changed")
    _add_runs(command)
    _add_answers(command)


def _add_qdrant(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--qdrant", default="", metavar="URL|DIR", help="else QDRANT_URL, else .llmtwin/qdrant"
    )


def _add_answers(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--answers", default=".llmtwin/answers.sqlite", metavar="FILE", help="store of answers"
    )


def _add_runs(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--runs", type=Path, nargs="*", default=[], metavar="RUN_DIR", help="beside runs/*/*"
    )


# What each command takes, what it does, and what else its help says.
COMMANDS = {
    "load": (
        _load,
        "load a JSONL file into a collection",
        "A line is a payload, plus an optional id (UUID or integer). Loading twice changes nothing.",
    ),
    "run": (
        _run,
        "execute the notebooks on params files",
        "What is answered is stored: the same command after any end goes on, and pays for nothing twice.",
    ),
    "check": (_of_run, "verify the promises about a run from its files alone", ""),
    "publish": (_of_run, "attach a finished run to Comet, again or for the first time", ""),
    "report": (_report, "write the report of a run again, or a comparison of several", ""),
    "label": (
        _of_run,
        "turn the decisions of notebook 4 into labels of a run",
        "Written to RUN_DIR/labels.jsonl; precision and recall of the run's judge are printed.",
    ),
    "audit": (_audit, "measure anyone's instruction dataset", "One line a finding; exit 6 if there is any."),
    "trace": (_trace, "print where a row comes from: point, prompt, request and raw answer", ""),
    "diff": (_diff, "say what is added, removed, changed and moved from one dataset to another", ""),
    "forget": (_forget, "take an author, a link or a content out of answers and datasets", ""),
    "answers": (_add_answers, "show what is stored and what it cost", ""),
}
