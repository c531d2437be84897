"""Anyone's dataset looked at through the same measures and alarms."""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, compress, groupby, zip_longest
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llmtwin_data.cluster import workers_of
from llmtwin_data.contents import Chunk, records_of, rows_of, screen_chunks
from llmtwin_data.curation import EXAMPLES, MAX_GENERIC, broken_measures, shortened
from llmtwin_data.embeddings import encode_packaged
from llmtwin_data.errors import SourceError
from llmtwin_data.folders import json_lines, write_atomically
from llmtwin_data.loading import read_lines, read_table
from llmtwin_data.measures import LEAST_TELLING, MEASURES, SAMPLE, ground, measure_pairs
from llmtwin_data.overlaps import (
    COMMON_TEXTS,
    NEAR_COPY,
    common_passages,
    common_windows,
    near_duplicates,
    shared_windows,
)
from llmtwin_data.params import Params
from llmtwin_data.replies import REFUSAL
from llmtwin_data.screening import find_personal_data, find_secrets
from llmtwin_data.splits import containments
from llmtwin_data.tables import join_displays, render_page, show
from llmtwin_data.texts import WINDOW_WORDS, counted, placed_windows, window_hashes, wording

# The columns of an exchange, a question with the answer that follows it: the file and row where it stands;
# the side, empty where the dataset does not tell train from test; its number in the row, from 1; all
# questions so far; whether its reader sees more than its own words (input, context, earlier turns). With a
# row's first exchange: how many turns it has, how many of them in no exchange, its fields that hold a secret,
# and of a preference whether both answers are the same.
ROW = ["place", "instruction", "content", "side", "content_id", "exchange", "asked", "given", "turns"]
ROW += ["unpaired", "secrets", "undecided"]
CHAT, ASKS, TELLS = "chat", "asks", "tells"
# What fields hold; of each line the first that is filled is read, and the lines that ask together.
FIELDS = (
    (CHAT, ("messages", "conversations", "conversation", "contents", "dialogue", "turns")),
    (TELLS, ("content", "output", "answer", "response", "completion", "chosen", "answers")),
    (CHAT, ("history",)),
    (ASKS, ("instruction", "prompt", "question", "query")),
    (ASKS, ("input", "inputs")),
    (ASKS, ("context",)),
)
# Who speaks in a turn: OpenAI's words, ShareGPT's, Gemini's, OpenAssistant's. Others neither ask nor tell.
ROLES = {"user": ASKS, "human": ASKS, "prompter": ASKS} | dict.fromkeys(
    ("assistant", "gpt", "chatgpt", "model", "bot"), TELLS
)
SPEAKER, WORDS = ("role", "from"), ("content", "value", "text", "parts")
# Parts of a turn that no reader sees.
NOT_SAID = ("tool_use", "tool_call", "tool_result", "reasoning", "thinking")
# A preference without a prompt may be one text (Bai et al. 2022).
TRANSCRIPT = re.compile(r"(?:^|\n\n)(Human|Assistant):")
SIDES = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("validation", "valid", "val", "dev", "eval"), "validation"
)
# The first kind that holds a side is read, others are taken for the same rows in another form.
SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv")
SHAPES = (
    "instruction with content, output, answer or response; prompt with completion; messages; conversations"
)
BROKEN = "\ufffd"  # what stands for a character that was broken
Turn = tuple[str, str]


def read_dataset(path: Path) -> pd.DataFrame:
    """Read the columns `ROW` of a file of the kinds `SUFFIXES`, gzipped or not, or of a folder's files.

    Raises SourceError: no such file, nothing to read, or a row of unknown shape; the message names file and
    row.
    """
    exchanges = list[tuple[Any, ...]]()
    for file, file_side in _files(path):
        for number, (row, side) in enumerate(_rows(file), start=1):
            place = f"{file.name if file == path else file.relative_to(path).as_posix()}, row {number}"
            try:
                exchanges += _exchanges(row, place, side or file_side)
            except RecursionError as error:
                raise SourceError(f"audit: {place}: expected {SHAPES}; found lists in lists") from error
    if not exchanges:
        raise SourceError(f"audit: expected rows in {path.name}, found none ({', '.join(SUFFIXES)} are read)")
    # Python's own strings: they are cut and compared, and most are distinct.
    return pd.DataFrame(exchanges, columns=ROW, dtype=object)


def _files(path: Path) -> list[tuple[Path, str]]:
    """Return the files to read and their sides: of a folder those next to its top, of one kind a side."""
    if path.is_file():
        return [(path, _side(path, path.parent))]
    files = [
        ((len(file.relative_to(path).parts), SUFFIXES.index(_kind(file))), file, _side(file, path))
        for file in _data_files(path)
    ]
    first = {side: place for place, _, side in sorted(files, reverse=True)}
    # Files whose names tell no side are read where none does, of all kinds.
    sided = [(file, side) for place, file, side in files if side and first[side] == place]
    return sided or [(file, "") for (depth, _), file, _ in files if depth == first[""][0]]


def _data_files(path: Path) -> list[Path]:
    files = (file for file in sorted(path.rglob("*")) if _kind(file) in SUFFIXES and file.is_file())
    return [file for file in files if not any(part[0] == "." for part in file.relative_to(path).parts)]


def _kind(file: Path) -> str:
    return Path(file.name.lower().removesuffix(".gz")).suffix


def _side(file: Path, top: Path) -> str:
    """Return the side that a name tells: train, test-00000-of-00001, posts_training, validation/0.parquet."""
    names = re.split(r"[-_.]", file.name.lower().removesuffix(".gz").removesuffix(_kind(file)))
    folders = [part.lower() for part in file.relative_to(top).parts[:-1]]
    return next((SIDES[name] for name in (names[0], names[-1], *reversed(folders)) if name in SIDES), "")


def _rows(file: Path) -> Iterator[tuple[Any, str]]:
    """Yield the rows of a file, with a side where the file is one object of train and test."""
    whole = _read(file)
    if isinstance(whole, dict):
        sides = {name: rows for name, rows in whole.items() if name in SIDES and isinstance(rows, list)}
        if sides:
            yield from ((row, SIDES[name]) for name, rows in sides.items() for row in rows)
            return
        # Rows below a key, such as data; a list of turns or of parts is a row's own.
        own = {*SPEAKER, *ROLES, "type"}
        lists = [value for value in whole.values() if isinstance(value, list) and value]
        tables = [rows for rows in lists if isinstance(rows[0], dict) and not own & set(rows[0])]
        whole = tables[0] if tables else [whole]
    yield from ((row, "") for row in (whole if isinstance(whole, list) else [whole]))


def _read(file: Path) -> Any:
    """Return what a file holds: of tables and of JSON lines the list of rows."""
    kind = _kind(file)
    try:
        held = file.read_bytes()
        held = gzip.decompress(held) if file.name.lower().endswith(".gz") else held
        if kind == ".parquet":
            from pyarrow import parquet

            return parquet.read_table(io.BytesIO(held)).to_pylist()
        lines = read_lines(io.BytesIO(held))
        if kind in (".csv", ".tsv"):
            header, *rows = read_table(lines, kind)
            return [dict(zip_longest(header, values, fillvalue="")) for values in rows if values]
    # Of a compressed file, of Parquet, of tables and of text.
    except (OSError, EOFError, zlib.error, ValueError, RuntimeError) as error:
        raise SourceError(f"audit: expected {kind or 'UTF-8 text'} in {file.name}, found {error}") from error
    try:
        return json.loads("".join(lines))
    except (ValueError, RecursionError):
        listed = []
    for number, line in enumerate(lines, start=1):
        try:
            listed += [json.loads(line)] if line.strip() else []
        except (ValueError, RecursionError) as error:
            raise SourceError(f"audit: expected JSON in {file.name}, line {number}, found {error}") from error
    return listed


def _exchanges(row: Any, place: str, side: str) -> Iterator[tuple[Any, ...]]:
    """Yield the columns `ROW` of each question of a row, with the answer that follows it."""
    named = row.items() if isinstance(row, Mapping) else ()
    fields = {str(name).strip().lower(): value for name, value in named}
    # Of each line of `FIELDS` the turns of the first that holds a word.
    lines = ((_turns(fields.get(name), role) for name in names) for role, names in FIELDS)
    chat, answers, before, *asks = [
        next((turns for turns in line if any(text.strip() for _, text in turns)), []) for line in lines
    ]
    # A preference may hold its own question.
    whole = answers if next((role for role, _ in answers if role), "") == ASKS else []
    known = [not fields.keys().isdisjoint(names) for _, names in FIELDS]
    if not (known[0] or whole or (known[1] and any(known[3:]))):
        keys = ", ".join(map(_text_of, fields)) or type(row).__name__
        raise SourceError(f"audit: {place}: expected {SHAPES}; found {keys}")
    open_end = not any(role == TELLS for role, _ in chat[-1:])
    turns = whole or [*before, *(chat or chain.from_iterable(asks)), *(answers if open_end else [])]
    pairs, unpaired = _pairs(turns)
    secrets = "; ".join(_secret_fields(row))
    side = SIDES.get(str(fields.get("split", "")).lower(), "") or side
    content_id = str(fields.get("content_id") or "")
    choice = [
        [(who, text.strip()) for who, text in _turns(fields.get(name), TELLS) if text.strip()]
        for name in ("chosen", "rejected")
    ]
    undecided = choice[0] == choice[1] if all(choice) else None
    asked = ""
    for number, (question, answer) in enumerate(pairs, start=1):
        asked = f"{asked}\n{question}"
        given = number > 1 or sum(map(bool, asks)) > 1
        once = (len(turns), unpaired, secrets, undecided) if number == 1 else (0, 0, "", None)
        yield (place, question, answer, side, content_id, number, asked, given, *once)


def _turns(value: Any, role: str) -> list[Turn]:
    """Return who speaks, `ASKS`, `TELLS` or nobody, and what; in a chat without names they take turns."""
    if isinstance(value, str) and role == CHAT:
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return []
    if isinstance(value, str) and role == TELLS and len(parts := TRANSCRIPT.split(value)) > 2:
        spoken = zip(parts[1::2], parts[2::2], strict=True)
        return [(ROLES[name.lower()], text.strip()) for name, text in spoken]
    if isinstance(value, Mapping) and value and all(isinstance(cells, list) for cells in value.values()):
        # As older files keep a list of turns: a list for each field.
        value = [dict(zip(value, cells, strict=False)) for cells in zip(*value.values(), strict=False)]
    turns = list[Turn]()
    for item in value if isinstance(value, list) else [value]:
        fields = item if isinstance(item, Mapping) else {}
        speaker = next((fields[key] for key in SPEAKER if fields.get(key)), None)
        if speaker is not None:
            called = fields.get("tool_calls") or fields.get("function_call")
            turns.append((ROLES.get(str(speaker).lower(), ""), "" if called else _text_of(item)))
        elif named := [name for name in fields if name in ROLES]:
            turns += [(ROLES[name], _text_of(fields[name])) for name in named]
        elif role == CHAT:
            parts = item if isinstance(item, list) else [item]
            turns += [((ASKS, TELLS)[(len(turns) + n) % 2], _text_of(text)) for n, text in enumerate(parts)]
        else:
            return [(role, _text_of(value))]
    return turns


def _text_of(value: Any) -> str:
    """Return the text of a field, of a turn, or of its parts; null is nothing."""
    if isinstance(value, Mapping):
        words = next((value[key] for key in WORDS if value.get(key) is not None), None)
        return "" if value.get("type") in NOT_SAID else _text_of(words)
    if isinstance(value, list):
        return "\n".join(text for text in map(_text_of, value) if text)
    # A lone surrogate, half of a character, cannot be written anywhere.
    return "" if value is None or value != value else re.sub("[\ud800-\udfff]", BROKEN, str(value))


def _pairs(turns: Sequence[Turn]) -> tuple[list[Turn], int]:
    """Return each question with the answer that follows it, and how many turns are in no such pair."""
    speakers = groupby((turn for turn in turns if turn[0]), key=itemgetter(0))
    spoken = [(role, [text for _, text in group if text.strip()]) for role, group in speakers]
    texts = ["\n\n".join(parts) for _, parts in spoken] or [""]
    asking = [place for place, (role, _) in enumerate(spoken[:-1]) if role == ASKS]
    if not asking:
        return [(texts[-1], "") if spoken and spoken[-1][0] == ASKS else ("", texts[-1])], 0
    outside = {*range(len(spoken))}.difference(asking, (place + 1 for place in asking))
    pairs = [(texts[place], texts[place + 1]) for place in asking]
    return pairs, sum(len(spoken[place][1]) for place in outside)


def _secret_fields(row: Any) -> Iterator[str]:
    """Yield where in a row a secret stands, as in messages[4].content."""
    fields = deque([("", "", row)])
    while fields:
        path, name, value = fields.popleft()
        if isinstance(value, Mapping):
            below = f"{path}." if path else ""
            fields.extend((f"{below}{key}", str(key), held) for key, held in value.items())
        elif isinstance(value, list):
            fields.extend((f"{path}[{number}]", name, held) for number, held in enumerate(value))
        # A password is one by its name.
        elif isinstance(value, str) and find_secrets(f"{name}: {value}"):
            yield _masked(_text_of(path))


def _masked(text: str) -> str:
    """Return a text with its secrets replaced: neither table nor report holds one."""
    whole = Chunk("", "", 0, len(text), text)
    return screen_chunks(whole, [whole], secrets="mask", personal_data="keep")[0].text


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked for: how many of how many, up to which share that is well, what was not looked at."""

    name: str
    what: str
    count: int
    checked: int
    most: float
    examples: tuple[str, ...] = ()
    note: str = ""


# Shares of rows up to which a decent dataset may go; 77 written instructions of the sample have none at all.
MOST = {
    "ungrounded": 0.15, "vague": 0.3, "copied": 0.05, "duplicates": 0.01, "generic": 0.1, "language": 0.1,
    "leak": 0.0, "secrets": 0.0, "boilerplate": 0.05, "refusal": 0.01, "preference": 0.01,
}  # fmt: skip
# Share of test instructions that may stand in train: short requests meet by chance.
MOST_REPEATED = 0.01
# Thresholds for a single row.
RULES = Params()
# Share of rows that fit no content better than all others. Written without the contents 0.71 or more (24
# and 40 rows, three sets of contents); of written ones 0.17, across languages alone up to 7 of 13.
MOST_UNTRACED = 0.65
NEARER = 0.07  # cosine by the packaged model
# So many rows are traced, to so many pieces of contents, of so many characters: 7 ms each.
MOST_TRACED, MOST_PIECES, PIECE = 500, 5000, 1000
# Share of texts reached, over what random draws would reach: of shuffled pairs of the sample 1.3, of
# instructions written without a text 0.7.
SHUFFLED_COVERAGE = 0.9


def find_in(rows: pd.DataFrame, texts: Sequence[str], contents: Sequence[Chunk]) -> Iterator[Finding]:
    """Yield all findings, raised or not, in a fixed order.

    ``rows``: exchanges with the columns `ROW`, ``text`` (the place of ``content`` in the distinct ``texts``),
    ``spoken`` (the words so far) and `MEASURES`.
    """
    # A later question may say of its subject what was said before.
    first, total = rows[rows.exchange == 1], len(rows)
    yield _ungrounded(rows, texts)
    origins = origins_of(texts, contents)
    # Where texts are not the contents' own, each row is asked whether it was made from one of them.
    if len(contents) > 1 and 2 * origins.isna().sum() > len(origins):
        yield _untraced(first, [content.text for content in contents])
    broken: dict[str, pd.Series[bool]] = {}
    for reason, mask, _ in broken_measures(rows, RULES):
        broken[reason] = broken.get(reason, False) | mask.astype(bool)
    what = "instructions say hardly anything of their own text, or repeat themselves"
    yield _finding("vague", what, first[broken["vague"][first.index]], len(first))
    what = "instructions quote the text that answers them"
    yield _finding("copied", what, rows[broken["copied"]], total)
    what = "instructions repeat an earlier one word for word"
    yield _finding("duplicates", what, rows[rows.spoken.duplicated()], total)
    originals = pd.Series(near_duplicates(texts, threshold=RULES.near_duplicate), dtype="Int64")
    what = "rows hold a text that nearly copies an earlier one"
    yield _finding("duplicates", what, rows[rows.text.map(originals.notna())], total)
    empty = rows[(rows.instruction.str.strip() == "") | (rows.content.str.strip() == "")]
    yield _finding("generic", "rows have an empty instruction or content", empty, total, most=0.0)
    what = f"instructions fit more than {MAX_GENERIC:.0%} of all texts as well as the one they fit best"
    yield _finding("generic", what, rows[broken["generic"]], total)
    what = 'instructions lean on a text that their reader does not see ("the extract")'
    leaning = rows[broken["not_self_contained"] & ~rows.given.astype(bool)]
    yield _finding("generic", what, leaning, total)
    yield _in_another_language(rows)
    yield from _leaked(rows, texts, origins, has_contents=bool(contents))
    # Rows, not exchanges: every field was searched when the row was read.
    held = first[first.secrets != ""]
    places = (held.place.str.split(", ").str[-1] + ", in " + held.secrets).tolist()
    what = f"rows hold a key, token or password: {_some(places, '; ')}"
    yield Finding("secrets", what, len(held), len(first), 0.0, tuple(held.place.head(EXAMPLES)))
    yield _boilerplate(rows, texts)
    what = "answers refuse, or speak as an AI does"
    yield _finding("refusal", what, rows[rows.content.str.match(REFUSAL)], total)
    preferences = first[first.undecided.notna()]
    if len(preferences):
        what = "rows prefer an answer to itself: chosen and rejected are the same"
        same = preferences[preferences.undecided.astype(bool)]
        yield _finding("preference", what, same, len(preferences))


def _finding(
    name: str, what: str, rows: pd.DataFrame, checked: int, note: str = "", most: float | None = None
) -> Finding:
    """Return a finding of these rows, the first three as examples; `MOST` of them are well."""
    examples = tuple(
        f"{place}: {shortened(_masked(instruction))} → {shortened(_masked(content))}"
        for place, instruction, content in rows[ROW[:3]].head(EXAMPLES).itertuples(index=False)
    )
    return Finding(name, what, len(rows), checked, MOST[name] if most is None else most, examples, note)


def _some(names: Sequence[str], between: str) -> str:
    more = f"{between}and {len(names) - EXAMPLES} more" if len(names) > EXAMPLES else ""
    return between.join(names[:EXAMPLES]) + more


def _ungrounded(rows: pd.DataFrame, texts: Sequence[str]) -> Finding:
    first, later = rows[rows.exchange == 1], rows[rows.exchange > 1]
    # A later question leans on what was said, unless it names what some text is about.
    telling = ground(later.instruction.tolist(), texts, later.text.tolist()).best_telling
    judged = pd.concat([first, later[(telling >= LEAST_TELLING).to_numpy()]])
    strays = judged[judged.grounding < RULES.min_grounding]
    what = "instructions fit another text of the dataset much better than their own"
    if len(strays) > MOST["ungrounded"] * len(judged):
        # Exchanged instructions together reach most texts, as many as random draws would. Those written
        # without any text keep coming back to a few: 2,500 published ones reached 177 of 424, a control 395.
        reached = ground(judged.instruction.tolist(), texts).best.nunique()
        compared = min(len(texts), SAMPLE)
        drawn = compared * (1 - (1 - 1 / compared) ** len(judged))
        few = "together they reach few texts, as if the source was missing from the prompt"
        enough = reached >= SHUFFLED_COVERAGE * drawn
        what += f"; {'together they reach the texts, as shuffled pairs do' if enough else few}"
    return _finding("ungrounded", what, strays, len(judged))


def _in_another_language(rows: pd.DataFrame) -> Finding:
    # One language throughout is a choice, also where texts have another; a mixture is not, nor is the other
    # Chinese script, which is a model's habit.
    tally = rows.language[rows.language != "und"].value_counts()
    chosen = tally.index[0] if len(tally) and tally.iloc[0] >= (1 - MOST["language"]) * tally.sum() else ""
    written, asked = (tags.str.split("-").str[0] for tags in (rows.language, rows.language_asked))
    wrong = rows[~rows.language_ok & ~((rows.language == chosen) & (written != asked))]
    what = "instructions are in another language than their text"
    return _finding("language", what, wrong, len(rows))


def _untraced(rows: pd.DataFrame, contents: Sequence[str]) -> Finding:
    """Find rows of which no content is what they were written from.

    Embeddings find the content that words find, by `LEAST_TELLING` shared ones, or the nearest is
    nearer than all others by `NEARER`, as where languages differ.
    """
    rows = rows.sample(min(len(rows), MOST_TRACED), random_state=0).sort_index()
    exchanges = (rows.instruction + "\n" + rows.content).tolist()
    fits = ground(exchanges, contents, most=len(contents))
    best, worded = fits.best.fillna(0).to_numpy(dtype=int), fits.best_telling.to_numpy() >= LEAST_TELLING
    pieces = pd.DataFrame(
        [(owner, at) for owner, text in enumerate(contents) for at in range(0, len(text), PIECE)],
        columns=["owner", "at"],
    )
    drawn = pieces.sample(min(len(pieces), MOST_PIECES), random_state=0)
    # What has most words in common is compared always, by its beginning.
    drawn = pd.concat([drawn, pieces[pieces.owner.isin(best) & (pieces["at"] == 0)]]).drop_duplicates()
    passages = [contents[owner][at : at + PIECE] for owner, at in drawn.itertuples(index=False)]
    cosines = encode_packaged([text[:PIECE] for text in exchanges]) @ encode_packaged(passages).T
    nearness = pd.DataFrame(cosines.T).groupby(drawn.owner.to_numpy()).max()
    # Some texts, those of one language for example, are near to everything.
    nearness -= nearness.to_numpy().mean(axis=1, keepdims=True)
    second, nearest = np.sort(nearness.to_numpy(), axis=0)[-2:]
    traced = ((nearness.idxmax().to_numpy() == best) & worded) | (nearest - second > NEARER)
    compared, note = len(drawn) / len(pieces), ""
    if len(drawn) < len(pieces):
        note = f"compared with {len(drawn)} of {len(pieces)} pieces of the contents, drawn with seed 0"
    what = "rows fit no content better than all others, as if they were written without their source"
    # What was not drawn may be what a row was written from.
    most = 1 - (1 - MOST_UNTRACED) * compared
    return _finding("ungrounded", what, rows[~traced], len(rows), note, most)


def origins_of(texts: Sequence[str], contents: Sequence[Chunk]) -> pd.Series[str]:
    """Return for each text the content that holds at least half of its windows, missing where none does."""
    windows = shared_windows([*texts, *(content.text for content in contents)])
    is_text = np.arange(len(windows.sizes)) < len(texts)
    nearest, shared = windows.nearest(is_text, ~is_text)
    held = shared >= NEAR_COPY * np.maximum(windows.sizes, 1)
    names = [*(f"{content.collection}/{content.content_id}" for content in contents), None]
    origins = np.array(names, dtype=object)[np.where(held, nearest - len(texts), -1)[is_text]]
    return pd.Series(origins, dtype=object)


def _leaked(
    rows: pd.DataFrame, texts: Sequence[str], origins: pd.Series[str], *, has_contents: bool
) -> Iterator[Finding]:
    """Look for rows held out whose text, content or near-copy is in train, and whose instruction is."""
    train = rows[rows.side == "train"]
    copy = f"rows have a sibling or a text of containment {NEAR_COPY} in train"
    held_out = [side for side in ("test", "validation") if len(train) and side in set(rows.side)]
    if not held_out:
        note = "not looked for: the rows do not tell train from test"
        yield _finding("leak", f"test {copy}", rows[:0], 0, note)
    # Of each text the content that it names, or that holds it, as far as contents are known.
    named = rows.drop_duplicates("text", keep="last").set_index("text").content_id
    source = named.where(named != "", origins)
    known = has_contents or (rows.content_id != "").any()
    note = "" if known else "pieces of one source across the split are not seen without --contents"
    for side in held_out:
        tests = rows[rows.side == side]
        # A text may be on both sides, and is then a copy of itself.
        compared = [*train.text.unique(), *tests.text.unique()]
        sides = np.repeat(["train", "test"], [train.text.nunique(), tests.text.nunique()])
        shares = containments(shared_windows([texts[text] for text in compared]), sides)
        near = {compared[number] for number in np.flatnonzero(shares >= NEAR_COPY).tolist()}
        siblings = tests.text.map(source).isin(set(train.text.map(source).dropna()))
        leaks = tests[tests.text.isin(near | set(train.text)) | siblings]
        yield _finding("leak", f"{side} {copy}", leaks, len(tests), note)
        what = f"{side} instructions stand in train word for word"
        yield _finding("leak", what, tests[tests.spoken.isin(train.spoken)], len(tests), most=MOST_REPEATED)


def _boilerplate(rows: pd.DataFrame, texts: Sequence[str]) -> Finding:
    """Name the passages that five or more texts share, which a model trained on them says."""
    common = common_windows(texts)
    places = [common_passages(text, common) for text in texts]
    hashes, counts = window_hashes(texts)
    windows = pd.DataFrame({"text": np.repeat(np.arange(len(texts)), counts), "window": hashes})
    held_by = windows[windows.window.isin(common)].drop_duplicates().window.value_counts()
    # Of each passage the eight words that most texts hold: whole passages differ by the words around.
    phrases: dict[str, int] = {}
    for text, passages in compress(zip(texts, places, strict=True), places):
        held, starts = placed_windows(text)
        edges, holders = [*starts.tolist(), len(text)], pd.Series(held).map(held_by).fillna(0)
        for first, last in passages:
            within = holders[(starts[: len(held)] >= first) & (starts[: len(held)] < last)]
            at = int(within.argmax()) + int(within.index[0])
            phrase = " ".join(text[edges[at] : edges[min(at + WINDOW_WORDS, len(starts))]].split())
            phrases[phrase] = int(holders[at])
    examples = tuple(
        f"{counted(count, 'text')}: {shortened(_masked(phrase))}"
        for phrase, count in Counter(phrases).most_common(EXAMPLES)
    )
    what = f"rows hold a passage that {COMMON_TEXTS} or more texts share"
    what += f", the commonest {examples[0]!r}" if examples else ""
    count = int(rows.text.map(dict(enumerate(map(bool, places)))).sum())
    return Finding("boilerplate", what, count, len(rows), MOST["boilerplate"], examples)


@dataclass(frozen=True, slots=True)
class AuditResult:
    """Findings and notes, one line each and by name, and the report's path."""

    rows: str
    findings: list[str]
    notes: list[str]
    report: Path


def audit(dataset: Path, *, contents: Iterable[Chunk] | None, out_dir: Path) -> AuditResult:
    """Audit a dataset and write ``report.html`` and ``rows.jsonl``, the measures of each row.

    ``dataset``: a JSON, JSONL or Parquet file, or a folder with train and test files. ``contents``: what the
    dataset was made from; with it, siblings across the split and texts that come from nowhere are found.
    """
    rows = read_dataset(dataset)
    text, texts = pd.factorize(rows.content)
    measures = measure_pairs(
        rows.instruction.tolist(), text, list(texts),
        asked_language="same", encode=encode_packaged, workers=workers_of(len(rows)),
    )  # fmt: skip
    rows = rows.assign(text=text, spoken=rows.asked.map(wording)).join(measures)
    findings = pd.DataFrame([*find_in(rows, list(texts), list(contents or ()))])
    findings["raised"] = findings["count"] > findings.most * findings.checked
    raised, noted = findings[findings.raised], findings[findings.note != ""]
    notes = [*_reading(rows, dataset), *(noted.name + ": " + noted.note).unique()]
    firsts = rows[rows.exchange == 1]
    numbers = {side: (firsts.side == side).sum() for side in dict.fromkeys(SIDES.values())}
    sides = ", ".join(f"{number} {side}" for side, number in numbers.items() if number)
    by_side = f" ({sides})" if sides else ""
    size = f"{counted(len(firsts), 'row')}{by_side}, {counted(len(texts), 'distinct text')}"
    table = rows[["place", "side", "instruction", *MEASURES, "exchange"]].rename(columns={"place": "row"})
    table["instruction"] = table.instruction.map(_masked)
    write_atomically(out_dir / "rows.jsonl", json_lines(records_of(table)))
    page = _page(findings, f"Audit of {dataset.name}", size, notes)
    write_atomically(out_dir / "report.html", page)
    lines = [
        f"{each.name}: {each.count} of {each.checked} {each.what} "
        f"({f'at most {each.most:.0%} is well' if each.most else 'none is well'})"
        for each in rows_of(raised)
    ]
    return AuditResult(size, lines, notes, out_dir / "report.html")


def _page(findings: pd.DataFrame, title: str, size: str, notes: Sequence[str]) -> str:
    raised = findings[findings.raised]
    named = {"name": "finding", "count": "rows", "checked": "of", "most": "well up to, share"}
    overview = findings.rename(columns=named)[[*named.values(), "raised", "what", "note"]]
    examples = [
        show(pd.DataFrame({each.what: each.examples}), f"Examples of {each.name}", as_given=True)
        for each in rows_of(raised)
        if each.examples
    ]
    return render_page(
        title=title,
        state=f"found: {', '.join(raised.name.unique())}" if len(raised) else "nothing found",
        subtitle=size,
        notices=notes,
        pages=[{"title": "Findings", "html": join_displays([show(overview), *examples]), "folded": False}],
    )


def _reading(rows: pd.DataFrame, dataset: Path) -> Iterator[str]:
    """Yield what was read where that is more than a question and an answer a row, and what was not."""
    turns, unpaired = rows.turns.sum(), rows.unpaired.sum()
    if unpaired or (rows.exchange > 1).any():
        pairs = f"{len(rows)} questions are measured with the answer that follows"
        yield f"turns: {turns} looked at, for secrets all; {pairs}; {unpaired} answer or ask alone"
    if broken := (rows.instruction + rows.content).str.contains(BROKEN).sum():
        yield f"text: {broken} of {len(rows)} hold a broken character, U+FFFD or half a surrogate pair"
    held = {
        (place, finding.kind)
        for place, *texts in rows[ROW[:3]].itertuples(index=False)
        for finding in find_personal_data("\n".join(texts))
    }
    if held:
        kinds = ", ".join(
            f"{kind} {count}" for kind, count in Counter(kind for _, kind in held).most_common()
        )
        rows_held = len({place for place, _ in held})
        yield f"personal data: in {rows_held} of {rows.place.nunique()} rows; rows by kind: {kinds}"
    read = {file for file, _ in _files(dataset)}
    if unread := [str(file.relative_to(dataset)) for file in _data_files(dataset) if file not in read]:
        yield f"files: not read: {_some(unread, ', ')}"
