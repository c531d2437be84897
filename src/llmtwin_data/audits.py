"""Anyone's dataset looked at through the same measures and alarms."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llmtwin_data.contents import Chunk, records_of
from llmtwin_data.curation import EXAMPLES, MAX_GENERIC, shortened
from llmtwin_data.errors import SourceError
from llmtwin_data.folders import write_atomically
from llmtwin_data.measures import MEASURES, best_texts, measure_pairs
from llmtwin_data.overlaps import NEAR_COPY, near_duplicates, shared_windows
from llmtwin_data.params import Params
from llmtwin_data.screening import find_secrets
from llmtwin_data.splits import containments
from llmtwin_data.tables import Display, join_displays, render_page, show
from llmtwin_data.texts import counted, words

# The columns of a row of anyone's dataset, all text: the file and row where it stands; the side is empty
# where the dataset does not tell train from test. Python's own strings: not all foreign text is encodable.
ROW = ["place", "instruction", "content", "side", "content_id"]


@dataclass(frozen=True, slots=True)
class Audited:
    """The rows of a dataset with `ROW`, ``text`` (the place of its content in ``texts``) and `MEASURES`.

    ``texts`` are distinct.
    """

    rows: pd.DataFrame
    texts: Sequence[str]
    contents: Sequence[Chunk] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """One look at a dataset: how many of how many, up to which share that is well, what was not looked at."""

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


def finding_of(
    name: str, what: str, rows: pd.DataFrame, checked: int, most: float, note: str = ""
) -> Finding:
    """Return a finding of these rows, the first three as examples."""
    examples = tuple(
        f"{place}: {shortened(instruction)} → {shortened(content)}"
        for place, instruction, content in rows[ROW[:3]].head(EXAMPLES).itertuples(index=False)
    )
    return Finding(name, what, len(rows), checked, most, examples, note)


def plain_words(rows: pd.DataFrame) -> pd.Series[str]:
    """Return the instructions without case and punctuation."""
    return rows.instruction.map(lambda instruction: " ".join(words(instruction)))


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
    rows = [row for file, side in _files(path) for row in _rows(file, side)]
    if not rows:
        raise SourceError(f"audit: expected rows in {path.name}, found none ({', '.join(SUFFIXES)} are read)")
    return pd.DataFrame(rows, columns=ROW, dtype=object)


def _files(path: Path) -> list[tuple[Path, str]]:
    """Give the files and their sides: of a folder the train and test files of one kind."""
    if path.is_file():
        return [(path, _side(path.stem))]
    for suffix in SUFFIXES:
        found = [file for folder in (path, path / "data") for file in sorted(folder.glob(f"*{suffix}"))]
        sided = [(file, _side(file.stem)) for file in found if _side(file.stem)]
        if sided:
            return sided
    return [(file, "") for file in sorted(path.glob("*")) if file.suffix in SUFFIXES]


def _side(stem: str) -> str:
    """Read the side off a file's name: train, test-00000-of-00001, cleaned_posts_training."""
    names = stem.replace("-", "_").lower().split("_")
    return next((SIDES[name] for name in (names[0], names[-1]) if name in SIDES), "")


def _rows(file: Path, side: str) -> Iterator[tuple[str, ...]]:
    for number, (found, own_side) in enumerate(_objects(file), start=1):
        place = f"{file.name}, row {number}"
        instruction, text = _exchange(found, place)
        told = SIDES.get(str(found.get("split", "")).lower(), "")
        yield place, instruction, text, told or own_side or side, str(found.get("content_id") or "")


def _objects(file: Path) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield the rows of a file, with a side where the file is one object of train and test."""
    if file.suffix == ".parquet":
        yield from ((row, "") for row in _parquet(file))
        return
    text = _text(file)
    try:
        whole = json.loads(text)
    except ValueError:
        yield from ((row, "") for row in _file_lines(file, text))
        return
    if isinstance(whole, dict) and any(name in SIDES and isinstance(whole[name], list) for name in whole):
        yield from ((row, SIDES[name]) for name in whole if name in SIDES for row in whole[name])
    else:
        yield from ((row, "") for row in _listed(whole))


def _listed(whole: Any) -> list[Any]:
    if isinstance(whole, dict):
        return next((value for value in whole.values() if _is_rows(value)), [whole])
    return whole if isinstance(whole, list) else [whole]


def _is_rows(value: Any) -> bool:
    turn = {"role", "from"}
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and not turn & set(value[0])


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"audit: expected UTF-8 text in {file.name}, found {error}") from error


def _file_lines(file: Path, text: str) -> Iterator[Any]:
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            if line.strip():
                yield json.loads(line)
        except ValueError as error:
            raise SourceError(f"audit: expected JSON in {file.name}, line {number}, found {error}") from error


def _parquet(file: Path) -> Iterator[dict[str, Any]]:
    from pyarrow import ArrowException, parquet

    try:
        for batch in parquet.ParquetFile(file).iter_batches():
            yield from batch.to_pylist()
    except ArrowException as error:
        raise SourceError(f"audit: expected Parquet in {file.name}, found {error}") from error


def _exchange(row: Any, place: str) -> tuple[str, str]:
    """Give instruction and text of a row; of a chat the first question and its answer."""
    fields = row if isinstance(row, Mapping) else {}
    turns = next((fields[name] for name in TURNS if isinstance(fields.get(name), list)), None)
    if turns is not None:
        return _turn(turns, ASKING), _turn(turns, TELLING)
    instruction, text = _first(fields, INSTRUCTION), _first(fields, TEXT)
    if instruction is None or text is None:
        found = ", ".join(map(str, fields)) or type(row).__name__
        raise SourceError(f"audit: {place}: expected {SHAPES}; found {found}")
    return _said(instruction, ASKING), _said(text, TELLING)


def _first(fields: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((fields[name] for name in names if fields.get(name) is not None), None)


def _said(value: Any, roles: Sequence[str]) -> str:
    return _turn(value, roles) if isinstance(value, list) else str(value)


def _turn(turns: Sequence[Any], roles: Sequence[str]) -> str:
    told = [turn for turn in turns if isinstance(turn, Mapping)]
    spoken = (turn for turn in told if str(turn.get("role", turn.get("from"))).lower() in roles)
    first = next(spoken, {})
    return str(first.get("content", first.get("value", "")))


# Share of test instructions that may stand in train: short requests meet by chance.
MOST_REPEATED = 0.01


def _leaked(audited: Audited) -> Iterable[Finding]:
    """Look for test rows whose text, content or near-copy is in train, and whose instruction is."""
    rows, what = audited.rows, f"test rows have a sibling or a text of containment {NEAR_COPY} in train"
    train, tests = rows[rows.side == "train"], rows[rows.side == "test"]
    if train.empty or tests.empty:
        note = "not looked for: the rows do not tell train from test"
        yield finding_of("leak", what, tests[:0], 0, 0.0, note)
    else:
        here = train.content.unique().tolist(), tests.content.unique().tolist()
        sides = np.repeat(["train", "test"], [*map(len, here)])
        shares = containments(shared_windows([*here[0], *here[1]]), sides)
        near = {here[1][n - len(here[0])] for n, share in shares.items() if share >= NEAR_COPY}
        # Of each text the content that it names, or that holds it, as far as contents are known.
        origins = pd.Series(origins_of(audited.texts, audited.contents), dtype=object)
        named = rows.drop_duplicates("text", keep="last").set_index("text").content_id
        source = named.where(named != "", origins)
        siblings = tests.text.map(source).isin(set(train.text.map(source).dropna()))
        leaks = tests[tests.content.isin(near | set(here[0])) | siblings]
        known = audited.contents or (rows.content_id != "").any()
        note = "" if known else "pieces of one source across the split are not seen without --contents"
        yield finding_of("leak", what, leaks, len(tests), 0.0, note)
    repeated = tests[plain_words(tests).isin(set(plain_words(train)))]
    what = "test instructions stand in train word for word"
    yield finding_of("leak", what, repeated, len(tests), MOST_REPEATED)


# Shares of rows up to which a decent dataset may go; 77 written instructions of the sample have none at all.
MOST_UNGROUNDED = 0.15
MOST_COPIED = 0.05
MOST_GENERIC = 0.1
MOST_DUPLICATES = 0.01
MOST_WRONG_LANGUAGE = 0.1
# Thresholds for a single row.
RULES = Params()
# Share of contents that are reached, over what a set as large would reach by chance.
LEAST_COVERAGE = 0.7
# Shuffled pairs of the sample reach 1.3 times that share, instructions written without a text 0.7 times.
SHUFFLED_COVERAGE = 0.9


def look_at(audited: Audited) -> list[Finding]:
    """Return every look, raised or not, in a fixed order."""
    looks = (_ungrounded, _reach, _copied, _duplicates, _generic, _language, _leaked, _secrets)
    return [finding for look in looks for finding in look(audited)]


def _ungrounded(audited: Audited) -> Iterable[Finding]:
    total, judged = len(audited.rows), audited.rows[audited.rows.grounding.notna()]
    strays = judged[judged.grounding < RULES.min_grounding]
    what = "instructions fit another text of the dataset much better than their own"
    if len(strays) > MOST_UNGROUNDED * len(judged):
        # Exchanged instructions together reach most texts, those written without any text do not.
        reached, expected = coverage_of(judged.instruction.tolist(), audited.texts)
        shuffled = reached >= SHUFFLED_COVERAGE * expected
        few = "together they reach few texts, as if the source was missing from the prompt"
        what += f"; {'together they reach the texts, as shuffled pairs do' if shuffled else few}"
    why = "instruction and text are in two languages and share no name"
    note = f"{total - len(judged)} of {total} rows could not be judged: {why}" if len(judged) < total else ""
    yield finding_of("ungrounded", what, strays, len(judged), MOST_UNGROUNDED, note)


def _reach(audited: Audited) -> Iterable[Finding]:
    """Where texts are not the contents' own, ask whether they could have been written from them."""
    if not audited.contents or len(audited.rows) < 2:
        return
    origins = origins_of(audited.texts, audited.contents)
    if 2 * origins.count(None) <= len(origins):
        return
    exchanges = audited.rows.instruction + "\n" + audited.rows.content
    reached, expected = coverage_of(exchanges.tolist(), [content.text for content in audited.contents])
    what = "contents that so many rows should reach are reached by none, as if the source was missing"
    missed = max(round(expected) - reached, 0)
    yield Finding("ungrounded", what, missed, round(expected), 1 - LEAST_COVERAGE)


def _copied(audited: Audited) -> Iterable[Finding]:
    rows = audited.rows
    copies = rows[rows[["copied_instruction", "copied_content"]].max(axis=1) > RULES.max_copied]
    yield finding_of(
        "copied", "instructions quote the text that answers them", copies, len(rows), MOST_COPIED
    )


def _duplicates(audited: Audited) -> Iterable[Finding]:
    rows = audited.rows
    what = "instructions repeat an earlier one word for word"
    yield finding_of("duplicates", what, rows[plain_words(rows).duplicated()], len(rows), MOST_DUPLICATES)
    originals = pd.Series(near_duplicates(audited.texts, threshold=RULES.near_duplicate), dtype="Int64")
    what = "rows hold a text that nearly copies an earlier one"
    yield finding_of("duplicates", what, rows[rows.text.map(originals.notna())], len(rows), MOST_DUPLICATES)


def _generic(audited: Audited) -> Iterable[Finding]:
    rows = audited.rows
    empty = rows[(rows.instruction.str.strip() == "") | (rows.content.str.strip() == "")]
    yield finding_of("generic", "rows have an empty instruction or content", empty, len(rows), 0.0)
    what = f"instructions fit more than {MAX_GENERIC:.0%} of all texts as well as the one they fit best"
    yield finding_of("generic", what, rows[rows.genericness > MAX_GENERIC], len(rows), MOST_GENERIC)
    what = 'instructions lean on a text that their reader does not see ("the extract")'
    yield finding_of("generic", what, rows[~rows.self_contained], len(rows), MOST_GENERIC)


def _language(audited: Audited) -> Iterable[Finding]:
    """One language throughout is a choice, also where texts have another; a mixture is not.

    The other Chinese script is a model's habit, no choice.
    """
    rows = audited.rows
    told = Counter(rows.language[rows.language != "und"])
    chosen, times = told.most_common(1)[0] if told else ("und", 0)
    kept = chosen if times >= (1 - MOST_WRONG_LANGUAGE) * told.total() else ""
    spoken, asked = (tags.str.split("-").str[0] for tags in (rows.language, rows.language_asked))
    wrong = rows[~rows.language_ok & ~((rows.language == kept) & (spoken != asked))]
    what = "instructions are in another language than their text"
    yield finding_of("language", what, wrong, len(rows), MOST_WRONG_LANGUAGE)


def _secrets(audited: Audited) -> Iterable[Finding]:
    rows, held = audited.rows, pd.Series([bool(find_secrets(text)) for text in audited.texts])
    rows = rows[rows.text.map(held) | rows.instruction.map(lambda text: bool(find_secrets(text)))]
    places = tuple(rows.place.head(EXAMPLES))
    yield Finding("secrets", "rows hold a key, token or password", len(rows), len(audited.rows), 0.0, places)


def origins_of(texts: Sequence[str], contents: Sequence[Chunk]) -> list[str | None]:
    """Return for each text the content that holds at least half of its windows, or None."""
    windows = shared_windows([*texts, *(content.text for content in contents)])
    is_text, origins = np.arange(len(windows.sizes)) < len(texts), list[str | None]()
    for _, holders, shares, _ in windows.containments(is_text, ~is_text):
        best = contents[holders[shares.argmax()] - len(texts)] if shares.max(initial=0) >= NEAR_COPY else None
        origins.append(best and f"{best.collection}/{best.content_id}")
    return origins


def coverage_of(queries: Sequence[str], texts: Sequence[str]) -> tuple[int, float]:
    """Return how many texts are the best match of some query, and how many random draws would reach.

    A set written without its sources keeps coming back to a few texts: 2,500 published instructions reached
    177 of 424 chunks, a control reached 395.
    """
    reached = {best for best in best_texts(queries, texts) if best is not None}
    total = len(set(texts))
    return len(reached), total * (1 - (1 - 1 / max(total, 1)) ** len(queries))


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
    audited = _measure(read_dataset(dataset), list(contents or ()))
    looks = look_at(audited)
    raised = [finding for finding in looks if finding.raised]
    out_dir.mkdir(parents=True, exist_ok=True)
    lines = records_of(
        audited.rows[["place", "side", "instruction", *MEASURES]].rename(columns={"place": "row"})
    )
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_atomically(out_dir / "rows.jsonl", text)
    write_atomically(out_dir / "report.html", _report(dataset.name, audited, looks))
    notes = [f"{look.name}: {look.note}" for look in looks if look.note]
    return AuditResult(_sizes(audited), [finding.line for finding in raised], notes, out_dir / "report.html")


def _measure(rows: pd.DataFrame, contents: Sequence[Chunk]) -> Audited:
    text, texts = pd.factorize(rows.content)
    measures = measure_pairs(rows.instruction.tolist(), text.tolist(), list(texts), asked_language="same")
    return Audited(rows.assign(text=text).join(measures), list(texts), contents)


def _sizes(audited: Audited) -> str:
    sides = Counter(audited.rows.side[audited.rows.side != ""])
    told = f" ({', '.join(f'{number} {side}' for side, number in sorted(sides.items(), reverse=True))})"
    rows, texts = counted(len(audited.rows), "row"), counted(len(audited.texts), "distinct text")
    return f"{rows}{told if sides else ''}, {texts}"


def _report(name: str, audited: Audited, looks: Sequence[Finding]) -> str:
    raised = [look for look in looks if look.raised]
    names = ", ".join(dict.fromkeys(look.name for look in raised))
    shown = [_table(looks), *(_examples(look) for look in raised if look.examples)]
    return render_page(
        title=f"Audit of {name}",
        state=f"found: {names}" if raised else "nothing found",
        subtitle=_sizes(audited),
        tiles=[],
        notices=[],
        pages=[{"title": "Findings", "anchor": "findings", "html": join_displays(shown)}],
    )


def _table(looks: Sequence[Finding]) -> Display:
    columns = ("finding", "rows", "of", "well up to, share", "raised", "what", "note")
    rows = [
        (look.name, look.count, look.checked, look.most, look.raised, look.what, look.note) for look in looks
    ]
    return show(pd.DataFrame(rows, columns=list(columns)))


def _examples(look: Finding) -> Display:
    return show(pd.DataFrame({look.what: look.examples}), f"Examples of {look.name}", as_given=True)
