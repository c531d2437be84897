"""Write what the pages beside this file say of the code as the code has it: `make docs`."""

from __future__ import annotations

import argparse
import ast
import json
from pathlib import Path

from llmtwin_data.cli import EXIT_CODES, make_parser
from llmtwin_data.contents import SKIPPED
from llmtwin_data.curation import REASONS
from llmtwin_data.params import Params, expected, explained

FOLDER = Path(__file__).parent
PACKAGE = FOLDER.parent / "src" / "llmtwin_data"
# The house from the ground up: a module imports only from those before it. A name that is not there yet, or no more, waits.
ROWS = (
    ("ground", "errors folders cluster texts overlaps screening params"),
    ("source", "sources loading contents"),
    ("columns", "embeddings measures curation splits"),
    ("ask", "prompts transport endpoints replies answers prices engine partitions batches judging"),
    ("show", "figures tables"),
    ("dataset", "datasets checks lineage audits"),
    ("run", "tracking"),
    ("spine", "reviews pipeline course tuning twin"),
    ("run", "reports runs cli"),
)
# What a group is for, in the order in which a text meets it.
GROUPS = {
    "ground": "what everything else stands on",
    "source": "from Qdrant, or files, to chunks",
    "columns": "what is measured and decided of each row",
    "ask": "what is sent, to whom, at what price, and what comes back for good",
    "show": "what notebooks and reports show",
    "dataset": "what is published, and proved, traced or taken out afterwards",
    "spine": "the sequence, and the people in it",
    "run": "a study executed from lock to report",
}
BEGIN, END = "<!-- written by make docs -->\n", "<!-- end -->\n"

PARAMETERS = """# Parameters

Written by `make docs` from `Params`. One flat file under `params/` is a study: it holds what differs from these defaults, and all
notebooks read it. An unknown key, a wrong type or a value out of its bounds ends a command before anything is sent. One value is taken
for a list of one. `-p KEY VALUE` wins over the file. A file with `params:` (a path) and `vary:` (lists of values) is a sweep: every
combination is run, and a report compares them. Secrets are never parameters.

A notebook's settings are, each over the next: what papermill injects; what was changed in its first code cell; the study that `study` or
`$STUDY` names, else the demo's where nothing is injected; these defaults.

| key | default | takes | what it is |
|---|---|---|---|
"""

COMMANDS = """# Commands

Written by `make docs` from the command's own help. `llmtwin-data COMMAND --help` says the same.
"""


def parameters_page() -> str:
    """Return the table of all parameters."""
    rows = (
        f"| `{key}` | {_cell(json.dumps(value, ensure_ascii=False)) if value != '' else 'empty'} | "
        f"{expected(key)} | {explained(key)} |\n"
        for key, value in Params().as_dict().items()
    )
    return PARAMETERS + "".join(rows)


def commands_page() -> str:
    """Return every command with its arguments, and the exit codes."""
    (commands,) = (action for action in make_parser()._actions if isinstance(action.choices, dict))
    pages = (_command(name, command) for name, command in commands.choices.items())
    codes = EXIT_CODES.split("\n", 1)[1]
    return COMMANDS + "".join(pages) + f"\n## Exit codes\n\n```\n{codes}\n```\n"


def architecture_page() -> str:
    """Return docs/ARCHITECTURE.md with the house as it stands."""
    return _filled("ARCHITECTURE", house())


def run_folder_page() -> str:
    """Return docs/run-folder.md with every reason that a row may have."""
    rows = [
        f"| {state} | `{reason}` | {words} |\n"
        for state, reasons in (("skipped", SKIPPED), ("rejected", REASONS))
        for reason, words in reasons.items()
    ]
    return _filled(
        "run-folder", "\n| state | reason | what it means |\n|---|---|---|\n" + "".join(rows) + "\n"
    )


def _filled(page: str, words: str) -> str:
    before, rest = (FOLDER / f"{page}.md").read_text(encoding="utf-8").split(BEGIN)
    return before + BEGIN + words + END + rest.split(END)[1]


def house() -> str:
    """Return a heading for each group and a line for each module: its docstring's first."""
    there = modules()
    pages = []
    for group, purpose in GROUPS.items():
        names = [name for row, row_names in ROWS if row == group for name in row_names.split()]
        pages.append(f"\n**{group}**: {purpose}\n\n")
        pages += [_line(name, there[name]) for name in names if name in there]
    return "".join(pages) + "\n"


def modules() -> dict[str, Path]:
    """Return the file that each module, or folder of modules, begins with, by name."""
    files = [*PACKAGE.glob("[!_]*.py"), *PACKAGE.glob("*/__init__.py")]
    return {(file.parent if file.stem == "__init__" else file).stem: file for file in files}


def _line(name: str, file: Path) -> str:
    words = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return f"- `{name}`: {words.splitlines()[0]}\n"


def _command(name: str, command: argparse.ArgumentParser) -> str:
    arguments = [action for action in command._actions if action.dest not in ("help", "debug")]
    needed = [_usage(action) for action in arguments if action.required]
    rows = "".join(f"| {_cell(_usage(action))} | {action.help} |\n" for action in arguments)
    line = " ".join(["llmtwin-data", name, *needed])
    return f"\n## {name}\n\n`{line}`\n\n{command.description}\n\n| argument | what it is |\n|---|---|\n{rows}"


def _usage(action: argparse.Action) -> str:
    values = action.metavar or [*map(str, action.choices or ())]
    words = values if isinstance(values, str) else ("|" if action.choices else " ").join(values)
    option = max(action.option_strings, key=len, default="")
    several = "..." if action.nargs in ("+", "*") or isinstance(action, argparse._AppendAction) else ""
    return f"{option} {'' if action.nargs == 0 else words}".strip() + several


def _cell(words: str) -> str:
    return "`" + words.replace("|", "\\|") + "`"


PAGES = {
    "parameters": parameters_page,
    "commands": commands_page,
    "ARCHITECTURE": architecture_page,
    "run-folder": run_folder_page,
}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (FOLDER / f"{name}.md").write_text(page(), encoding="utf-8")
