"""Anyone's dataset looked at through the same measures and alarms."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llmtwin_data.contents import Chunk, records_of
from llmtwin_data.curation import EXAMPLES, MAX_GENERIC, shortened
from llmtwin_data.embeddings import encode_packaged
from llmtwin_data.errors import SourceError
from llmtwin_data.folders import json_lines, write_atomically
from llmtwin_data.measures import MAX_REPEATED_BIGRAMS, MEASURES, best_texts, measure_pairs
from llmtwin_data.overlaps import NEAR_COPY, near_duplicates, shared_windows
from llmtwin_data.params import Params
from llmtwin_data.screening import find_secrets
from llmtwin_data.splits import containments
from llmtwin_data.tables import join_displays, render_page, show
from llmtwin_data.texts import counted, words

# The columns of a row of anyone's dataset, all text: the file and row where it stands; the side is empty
# where the dataset does not tell train from test. Python's own strings: not all foreign text is encodable.
ROW = ["place", "instruction", "content", "side", "content_id"]
INSTRUCTION = ("instruction", "prompt", "question", "query")
TEXT = ("content", "output", "answer", "response", "completion", "chosen")
# Turns of a chat: ShareGPT's words and OpenAI's.
TURNS = ("messages", "conversations", "conversation")
ASKING = ("user", "human")
TELLING = ("assistant", "gpt", "model")
SIDES = {"train": "train", "training": "train", "test": "test", "testing": "test"}
SUFFIXES = (".jsonl", ".json", ".parquet")
SHAPES = (
    "instruction with content, output, answer or response; prompt with completion; messages; conversations"
)


def read_dataset(path: Path) -> pd.DataFrame:
    """Read the columns `ROW` of a JSON, JSONL or Parquet file, or of a folder's train and test files.

    Raises
    ------
    SourceError
        No such file, nothing to read, or a row of unknown shape; the message names file and row.
    """
    if not path.exists():
        raise SourceError(f"audit: expected a dataset at {path.name}, found nothing there")
    rows = []
    for file, file_side in _files(path):
        for number, (row, side) in enumerate(_rows(file), start=1):
            place, fields = f"{file.name}, row {number}", row if isinstance(row, Mapping) else {}
            own_side = SIDES.get(str(fields.get("split", "")).lower(), "")
            content_id = str(fields.get("content_id") or "")
            rows.append((place, *_exchange(row, place), own_side or side or file_side, content_id))
    if not rows:
        raise SourceError(f"audit: expected rows in {path.name}, found none ({', '.join(SUFFIXES)} are read)")
    return pd.DataFrame(rows, columns=ROW, dtype=object)


def _files(path: Path) -> list[tuple[Path, str]]:
    """Return the files and their sides: of a folder the train and test files of one kind."""
    if path.is_file():
        return [(path, _side(path.stem))]
    for suffix in SUFFIXES:
        files = [file for folder in (path, path / "data") for file in sorted(folder.glob(f"*{suffix}"))]
        if sided := [(file, side) for file in files if (side := _side(file.stem))]:
            return sided
    return [(file, "") for file in sorted(path.glob("*")) if file.suffix in SUFFIXES]


def _side(stem: str) -> str:
    """Return the side that a file's name tells: train, test-00000-of-00001, cleaned_posts_training."""
    names = stem.replace("-", "_").lower().split("_")
    return next((SIDES[name] for name in (names[0], names[-1]) if name in SIDES), "")


def _rows(file: Path) -> Iterator[tuple[Any, str]]:
    """Yield the rows of a file, with a side where the file is one object of train and test."""
    whole = _read(file)
    if isinstance(whole, dict):
        sides = {name: rows for name, rows in whole.items() if name in SIDES and isinstance(rows, list)}
        if sides:
            yield from ((row, SIDES[name]) for name, rows in sides.items() for row in rows)
            return
        # Rows below a key, such as data; a list of turns is a row's own.
        lists = [value for value in whole.values() if isinstance(value, list) and value]
        tables = [rows for rows in lists if isinstance(rows[0], dict) and not {"role", "from"} & set(rows[0])]
        whole = tables[0] if tables else [whole]
    yield from ((row, "") for row in (whole if isinstance(whole, list) else [whole]))


def _read(file: Path) -> Any:
    """Return what a file holds: of Parquet and of JSON lines the list of rows."""
    if file.suffix == ".parquet":
        from pyarrow import ArrowException, parquet

        try:
            return parquet.read_table(file).to_pylist()
        except ArrowException as error:
            raise SourceError(f"audit: expected Parquet in {file.name}, found {error}") from error
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"audit: expected UTF-8 text in {file.name}, found {error}") from error
    try:
        return json.loads(text)
    except ValueError:
        rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except ValueError as error:
            raise SourceError(f"audit: expected JSON in {file.name}, line {number}, found {error}") from error
    return rows


def _exchange(row: Any, place: str) -> tuple[str, str]:
    """Return instruction and text of a row; of a chat the first question and its answer."""
    fields = row if isinstance(row, Mapping) else {}
    turns = next((fields[name] for name in TURNS if isinstance(fields.get(name), list)), None)
    if turns is None:
        instruction, text = (
            next((fields[name] for name in names if fields.get(name) is not None), None)
            for names in (INSTRUCTION, TEXT)
        )
    else:
        instruction = text = turns
    if instruction is None or text is None:
        keys = ", ".join(map(str, fields)) or type(row).__name__
        raise SourceError(f"audit: {place}: expected {SHAPES}; found {keys}")
    return _words_of(instruction, ASKING), _words_of(text, TELLING)


def _words_of(value: Any, roles: Sequence[str]) -> str:
    """Return a text, or of a list of turns the first that has one of the roles."""
    if not isinstance(value, list):
        return str(value)
    turns = (turn for turn in value if isinstance(turn, Mapping))
    first = next((turn for turn in turns if str(turn.get("role", turn.get("from"))).lower() in roles), {})
    return str(first.get("content", first.get("value", "")))


@dataclass(frozen=True, slots=True)
class Audited:
    """The rows of a dataset with `ROW`, ``text`` (its place in ``texts``), ``spoken`` and `MEASURES`.

    ``texts`` are distinct.
    """

    rows: pd.DataFrame
    texts: Sequence[str]
    contents: Sequence[Chunk] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked for: how many of how many, up to which share that is well, what was not looked at."""

    name: str
    what: str
    count: int
    checked: int
    most: float
    examples: tuple[str, ...] = field(default=())
    note: str = ""

    @property
    def raised(self) -> bool:
        """Whether this is worth stopping for."""
        return self.count > self.most * self.checked

    @property
    def line(self) -> str:
        """One line that begins with the name."""
        well = f"at most {self.most:.0%} is well" if self.most else "none is well"
        return f"{self.name}: {self.count} of {self.checked} {self.what} ({well})"


# Shares of rows up to which a decent dataset may go; 77 written instructions of the sample have none at all.
MOST_VAGUE = 0.3
MOST_UNGROUNDED = 0.15
MOST_COPIED = 0.05
MOST_GENERIC = 0.1
MOST_DUPLICATES = 0.01
MOST_WRONG_LANGUAGE = 0.1
# Share of test instructions that may stand in train: short requests meet by chance.
MOST_REPEATED = 0.01
# Thresholds for a single row.
RULES = Params()
# Share of contents that are reached, over what a set as large would reach by chance.
LEAST_COVERAGE = 0.7
# Shuffled pairs of the sample reach 1.3 times that share, instructions written without a text 0.7 times.
SHUFFLED_COVERAGE = 0.9


def find_in(audited: Audited) -> list[Finding]:
    """Return all findings, raised or not, in a fixed order."""
    searches = (_ungrounded, _missed, _vague, _wording, _language, _leaked, _secrets)
    return [finding for search in searches for finding in search(audited)]


def _finding(name: str, what: str, rows: pd.DataFrame, checked: int, most: float, note: str = "") -> Finding:
    """Return a finding of these rows, the first three as examples."""
    examples = tuple(
        f"{place}: {shortened(instruction)} → {shortened(content)}"
        for place, instruction, content in rows[ROW[:3]].head(EXAMPLES).itertuples(index=False)
    )
    return Finding(name, what, len(rows), checked, most, examples, note)


def _ungrounded(audited: Audited) -> Iterator[Finding]:
    judged = audited.rows
    strays = judged[judged.grounding < RULES.min_grounding]
    what = "instructions fit another text of the dataset much better than their own"
    if len(strays) > MOST_UNGROUNDED * len(judged):
        # Exchanged instructions together reach most texts, those written without any text do not.
        reached, expected = coverage_of(judged.instruction.tolist(), audited.texts)
        shuffled = reached >= SHUFFLED_COVERAGE * expected
        few = "together they reach few texts, as if the source was missing from the prompt"
        what += f"; {'together they reach the texts, as shuffled pairs do' if shuffled else few}"
    yield _finding("ungrounded", what, strays, len(judged), MOST_UNGROUNDED)


def _vague(audited: Audited) -> Iterator[Finding]:
    rows = audited.rows
    vague = rows[(rows.evidence < RULES.min_evidence) | (rows.repeated_bigrams > MAX_REPEATED_BIGRAMS)]
    what = "instructions say hardly anything of their own text, or repeat themselves"
    yield _finding("vague", what, vague, len(rows), MOST_VAGUE)


def _missed(audited: Audited) -> Iterator[Finding]:
    """Where texts are not the contents' own, ask whether they could have been written from them."""
    origins = origins_of(audited)
    if not audited.contents or len(audited.rows) < 2 or 2 * origins.isna().sum() <= len(origins):
        return
    exchanges = audited.rows.instruction + "\n" + audited.rows.content
    reached, expected = coverage_of(exchanges.tolist(), [content.text for content in audited.contents])
    what = "contents that so many rows should reach are reached by none, as if the source was missing"
    missed = max(round(expected) - reached, 0)
    yield Finding("ungrounded", what, missed, round(expected), 1 - LEAST_COVERAGE)


def coverage_of(queries: Sequence[str], texts: Sequence[str]) -> tuple[int, float]:
    """Return how many texts are the best match of some query, and how many random draws would reach.

    A set written without its sources keeps coming back to a few texts: 2,500 published instructions reached
    177 of 424 chunks, a control reached 395.
    """
    reached, total = set(best_texts(queries, texts)) - {None}, len(set(texts))
    return len(reached), total * (1 - (1 - 1 / max(total, 1)) ** len(queries))


def origins_of(audited: Audited) -> pd.Series[str]:
    """Return for each text the content that holds at least half of its windows, missing where none does."""
    texts, contents = audited.texts, audited.contents
    windows = shared_windows([*texts, *(content.text for content in contents)])
    is_text, origins = np.arange(len(windows.sizes)) < len(texts), list[str | None]()
    for _, holders, shares, _ in windows.containments(is_text, ~is_text):
        best = contents[holders[shares.argmax()] - len(texts)] if shares.max(initial=0) >= NEAR_COPY else None
        origins.append(best and f"{best.collection}/{best.content_id}")
    return pd.Series(origins, dtype=object)


def _wording(audited: Audited) -> Iterator[Finding]:
    rows, total = audited.rows, len(audited.rows)
    copies = rows[rows[["copied_instruction", "copied_content"]].max(axis=1) > RULES.max_copied]
    yield _finding("copied", "instructions quote the text that answers them", copies, total, MOST_COPIED)
    again = rows[rows.spoken.duplicated()]
    what = "instructions repeat an earlier one word for word"
    yield _finding("duplicates", what, again, total, MOST_DUPLICATES)
    originals = pd.Series(near_duplicates(audited.texts, threshold=RULES.near_duplicate), dtype="Int64")
    what = "rows hold a text that nearly copies an earlier one"
    yield _finding("duplicates", what, rows[rows.text.map(originals.notna())], total, MOST_DUPLICATES)
    empty = rows[(rows.instruction.str.strip() == "") | (rows.content.str.strip() == "")]
    yield _finding("generic", "rows have an empty instruction or content", empty, total, 0.0)
    what = f"instructions fit more than {MAX_GENERIC:.0%} of all texts as well as the one they fit best"
    yield _finding("generic", what, rows[rows.genericness > MAX_GENERIC], total, MOST_GENERIC)
    what = 'instructions lean on a text that their reader does not see ("the extract")'
    yield _finding("generic", what, rows[~rows.self_contained], total, MOST_GENERIC)


def _language(audited: Audited) -> Iterator[Finding]:
    """One language throughout is a choice, also where texts have another; a mixture is not.

    The other Chinese script is a model's habit, no choice.
    """
    rows = audited.rows
    tally = rows.language[rows.language != "und"].value_counts()
    chosen = tally.index[0] if len(tally) and tally.iloc[0] >= (1 - MOST_WRONG_LANGUAGE) * tally.sum() else ""
    written, asked = (tags.str.split("-").str[0] for tags in (rows.language, rows.language_asked))
    wrong = rows[~rows.language_ok & ~((rows.language == chosen) & (written != asked))]
    what = "instructions are in another language than their text"
    yield _finding("language", what, wrong, len(rows), MOST_WRONG_LANGUAGE)


def _leaked(audited: Audited) -> Iterator[Finding]:
    """Look for test rows whose text, content or near-copy is in train, and whose instruction is."""
    rows, what = audited.rows, f"test rows have a sibling or a text of containment {NEAR_COPY} in train"
    train, tests = rows[rows.side == "train"], rows[rows.side == "test"]
    if train.empty or tests.empty:
        note = "not looked for: the rows do not tell train from test"
        yield _finding("leak", what, tests[:0], 0, 0.0, note)
    else:
        # A text may be on both sides, and is then a copy of itself.
        texts = [*train.text.unique(), *tests.text.unique()]
        sides = np.repeat(["train", "test"], [train.text.nunique(), tests.text.nunique()])
        shares = containments(shared_windows(audited.texts[text] for text in texts), sides)
        near = {texts[number] for number, share in shares.items() if share >= NEAR_COPY}
        # Of each text the content that it names, or that holds it, as far as contents are known.
        named = rows.drop_duplicates("text", keep="last").set_index("text").content_id
        source = named.where(named != "", origins_of(audited))
        siblings = tests.text.map(source).isin(set(train.text.map(source).dropna()))
        leaks = tests[tests.text.isin(near | set(train.text)) | siblings]
        known = audited.contents or (rows.content_id != "").any()
        note = "" if known else "pieces of one source across the split are not seen without --contents"
        yield _finding("leak", what, leaks, len(tests), 0.0, note)
    what = "test instructions stand in train word for word"
    yield _finding("leak", what, tests[tests.spoken.isin(set(train.spoken))], len(tests), MOST_REPEATED)


def _secrets(audited: Audited) -> Iterator[Finding]:
    rows, held = audited.rows, pd.Series([bool(find_secrets(text)) for text in audited.texts])
    rows = rows[rows.text.map(held) | rows.instruction.map(lambda text: bool(find_secrets(text)))]
    places = tuple(rows.place.head(EXAMPLES))
    yield Finding("secrets", "rows hold a key, token or password", len(rows), len(audited.rows), 0.0, places)


@dataclass(frozen=True, slots=True)
class AuditResult:
    """Findings and notes, one line each and by name, and the report's path."""

    rows: str = ""
    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    report: Path | None = None


def audit(dataset: Path, *, contents: Iterable[Chunk] | None, out_dir: Path) -> AuditResult:
    """Audit a dataset and write ``report.html`` and ``rows.jsonl``, the measures of each row.

    Parameters
    ----------
    dataset
        A JSON, JSONL or Parquet file, or a folder with train and test files.
    contents
        What the dataset was made from; with it, siblings across the split and texts that come from nowhere
        are found.
    """
    rows, contents = read_dataset(dataset), list(contents or ())
    text, texts = pd.factorize(rows.content)
    measures = measure_pairs(
        rows.instruction.tolist(),
        text.tolist(),
        list(texts),
        asked_language="same",
        encode=encode_packaged,
    )
    spoken = rows.instruction.map(lambda instruction: " ".join(words(instruction)))
    audited = Audited(rows.assign(text=text, spoken=spoken).join(measures), list(texts), contents)
    findings = find_in(audited)
    sides = rows.side[rows.side != ""].value_counts().sort_index(ascending=False)
    by_side = f" ({', '.join(f'{number} {side}' for side, number in sides.items())})" if len(sides) else ""
    size = f"{counted(len(rows), 'row')}{by_side}, {counted(len(texts), 'distinct text')}"
    out_dir.mkdir(parents=True, exist_ok=True)
    table = audited.rows[["place", "side", "instruction", *MEASURES]].rename(columns={"place": "row"})
    write_atomically(out_dir / "rows.jsonl", b"".join(json_lines(records_of(table))))
    write_atomically(out_dir / "report.html", _report(dataset.name, size, findings))
    notes = [f"{finding.name}: {finding.note}" for finding in findings if finding.note]
    lines = [finding.line for finding in findings if finding.raised]
    return AuditResult(size, lines, notes, out_dir / "report.html")


def _report(name: str, size: str, findings: Sequence[Finding]) -> str:
    raised = [finding for finding in findings if finding.raised]
    columns = ["finding", "rows", "of", "well up to, share", "raised", "what", "note"]
    rows = [
        (each.name, each.count, each.checked, each.most, each.raised, each.what, each.note)
        for each in findings
    ]
    displays = [show(pd.DataFrame(rows, columns=columns))]
    displays += [
        show(pd.DataFrame({each.what: each.examples}), f"Examples of {each.name}", as_given=True)
        for each in raised
        if each.examples
    ]
    names = ", ".join(dict.fromkeys(each.name for each in raised))
    return render_page(
        title=f"Audit of {name}",
        state=f"found: {names}" if raised else "nothing found",
        subtitle=size,
        tiles=[],
        notices=[],
        pages=[{"title": "Findings", "anchor": "findings", "html": join_displays(displays)}],
    )
