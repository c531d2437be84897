"""README and the pages under docs/ name what is there: links, files, commands, params, packages, a post."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

from llmtwin_data.cli import make_parser
from llmtwin_data.datasets import COLUMNS, LEDGER
from llmtwin_data.folders import PROJECT_ROOT
from llmtwin_data.params import load_params, make_params
from llmtwin_data.texts import language_of

PATHS = [*sorted(PROJECT_ROOT.glob("README*.md")), *sorted((PROJECT_ROOT / "docs").glob("*.md"))]
PAGES = {path.relative_to(PROJECT_ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PATHS}
README, CHINESE = PAGES["README.md"], "README.zh-Hant.md"
every_page = pytest.mark.parametrize("page", PAGES)
# What the reader makes, or a run.
MADE = re.compile(r"params/mine\.yaml|runs/.*")


def links_of(page: str) -> list[str]:
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]) if "://" not in link]


def code_of(page: str) -> list[str]:
    """Return the lines of code blocks but of printed ``text``, and every piece of code inside a line."""
    blocks = re.findall(r"^ *```(?!text)\w*\n(.*?)^ *```$", PAGES[page], re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^ *```\w*\n.*?^ *```$", "", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines()] + re.findall(r"`([^`]+)`", prose)


def anchors_of(file: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def params_shown() -> list[tuple[str, str]]:
    """Return every YAML block, and every ``key: value`` inside a line, with its page."""
    shape = re.compile(r"^ *```yaml\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
    blocks = [(page, block) for page, words in PAGES.items() for block in shape.findall(words)]
    return blocks + [(page, code) for page in PAGES for code in code_of(page) if re.match(r"\w+: \S", code)]


@pytest.mark.parametrize("page", ["README.md", CHINESE, "docs/ARCHITECTURE.md"])
def test_a_page_is_short_enough_to_be_read(page):
    assert len(PAGES[page].encode()) <= 10_000
    assert PAGES[page].count("\n") < 200


def test_the_chinese_readme_has_the_commands_links_figures_and_sections_of_the_english_one():
    assert sorted(code_of(CHINESE)) == sorted(code_of("README.md"))
    assert sorted(set(links_of(CHINESE)) - {"README.md"}) == sorted(set(links_of("README.md")) - {CHINESE})
    assert re.findall(r"^(#+|\d\.) ", PAGES[CHINESE], re.M) == re.findall(r"^(#+|\d\.) ", README, re.M)
    assert language_of(PAGES[CHINESE].split("```")[2]) == "zh-Hant"


@every_page
def test_every_link_leads_to_a_file_and_a_heading(page):
    broken = []
    for link in links_of(page):
        name, _, anchor = link.partition("#")
        file = (PROJECT_ROOT / page).parent / name if name else PROJECT_ROOT / page
        if not file.exists() or (anchor and anchor not in anchors_of(file)):
            broken.append(link)

    assert broken == []


def test_every_page_under_docs_is_linked_from_the_readme_and_every_picture_from_a_page():
    linked = {link.partition("#")[0] for link in links_of("README.md")}
    pictures = {path.name for path in (PROJECT_ROOT / "docs").glob("*.png")}

    assert set(PAGES) - {"README.md"} - linked == set()
    assert pictures - {Path(link).name for page in PAGES for link in links_of(page)} == set()


@every_page
def test_every_file_that_code_names_exists(page):
    shape = re.compile(r"\b(?:params|notebooks|data|docs|tests|benchmarks)/[\w/.]+\.\w+")
    named = {name for code in code_of(page) for name in shape.findall(code) if not MADE.fullmatch(name)}

    assert [name for name in sorted(named) if not (PROJECT_ROOT / name).exists()] == []


@every_page
def test_every_command_and_option_exists(page):
    (commands,) = (action.choices for action in make_parser()._actions if isinstance(action.choices, dict))
    unknown = []
    for code in code_of(page):
        _, called, rest = code.partition("llmtwin-data ")
        name, *words = shlex.split(rest, comments=True) if called else [""]
        options = {word for word in words if re.fullmatch(r"--?[a-z][a-z-]*", word)}
        known = commands[name]._option_string_actions if name in commands else ()
        if called and name != "COMMAND" and not (name in commands and options <= set(known)):
            unknown.append(code)

    assert unknown == []


@every_page
def test_every_target_of_make_exists(page):
    makefile = (PROJECT_ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE)) | {"local-generate-instruct-dataset"}
    named = {match[1] for code in code_of(page) if (match := re.match(r"make ([a-z-]+)", code))}

    assert named - targets == set()


@pytest.mark.parametrize(("page", "values"), params_shown())
def test_a_value_shown_for_a_parameter_is_one_that_it_takes(page, values):
    shown = make_params(yaml.safe_load(values), place=page).as_dict()

    assert set(yaml.safe_load(values)) <= set(shown)


def test_the_params_of_every_llm_are_among_those_tried():
    tried = [values for page, values in params_shown() if page == "README.md"]

    assert len([values for values in tried if values.startswith("endpoint: ")]) == 4
    assert len([values for values in tried if values.startswith("request_extra: ")]) == 3


def test_the_pair_is_a_post_of_the_sample_and_an_instruction_in_the_language_of_the_seeds_study():
    quoted = " ".join(line.removeprefix(">").strip() for line in README.splitlines() if line.startswith(">"))
    _, instruction, content = re.split(r"\*\*(?:instruction|content)\*\*: ", quoted)
    first = (PROJECT_ROOT / "data/sample/posts.jsonl").read_text(encoding="utf-8").splitlines()[0]
    post, study = json.loads(first), load_params(PROJECT_ROOT / "params/seed.yaml")
    parts = content.split(" … ")

    assert [part for part in parts if part not in re.sub(r"\s+", " ", post["cleaned_content"])] == []
    assert language_of(instruction) == study.instruction_language == "zh-Hant"
    assert post["platform"] in study.platforms


def test_the_packages_that_do_the_work_are_those_that_are_installed():
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    section = README.partition("## Who does what")[2].partition("\n## ")[0]
    named = {name for line in section.splitlines() for name in re.findall(r"`([a-z-]+)`", line)}

    assert named - {re.match(r"[\w-]+", each)[0] for each in needed} == set()
    assert {"qdrant-client", "qdrant-edge-py", "openai", "comet-ml", "papermill", "nbval"} <= named


@pytest.mark.parametrize("names", [COLUMNS, LEDGER], ids=["dataset", "ledger"])
def test_every_key_of_a_row_is_told(names):
    assert [name for name in names if f"`{name}`" not in PAGES["docs/run-folder.md"]] == []


def test_every_figure_says_what_was_measured_and_with_which_command():
    rows = [line.split(" | ") for line in PAGES["docs/measured.md"].splitlines() if line.startswith("| ")][1:]

    assert len(rows) > 10
    assert [row for row in rows if not re.fullmatch(r"`[0-9a-f]{7}`", row[2])] == []
    assert [row for row in rows if not re.fullmatch(r"`(benchmarks/\w+\.py|make \w+)` \|", row[3])] == []
