"""The meeting before training: answers in the author's manner, a style score with floor and ceiling."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import regex
from numpy.typing import NDArray

from llmtwin_data import pipeline
from llmtwin_data.answers import AnswerStore
from llmtwin_data.contents import rows_of
from llmtwin_data.datasets import stored_sides
from llmtwin_data.endpoints import Endpoint, with_model
from llmtwin_data.errors import DiskFailed, ParamsError, SourceError
from llmtwin_data.folders import PROJECT_ROOT, now, read_json_lines
from llmtwin_data.lineage import dataset_folder
from llmtwin_data.params import Params
from llmtwin_data.reviews import append_line
from llmtwin_data.tables import Markdown, bullets, code, join_displays, show_note, show_texts
from llmtwin_data.texts import counted, estimate_tokens, language_name, prose_language
from llmtwin_data.tuning import intervals

FLOOR, CEILING = "other authors", "the author"
HOW = ("plain", "prompted")
GUESSES = "guesses.jsonl"  # in the run folder
# The columns that `with_style` adds, and how people call them.
STYLE = {"style": "all characters", "style_masked": "subject masked", "style_words": "function words"}
# Words, or characters where a script has no spaces; too little of a style shows in less.
LEAST_WORDS = 40
PASSAGE_WORDS = 150
# Fewer texts of the test side, or of the author's languages, make no ceiling and no floor of their own.
FEWEST_TEXTS = 3
# Texts that stand for train, floor and ceiling at most; more only cost time.
MOST_TEXTS = 300
EXAMPLES = 5
# Tokens of all examples together: an embedded model reads 4,096 in all.
EXAMPLE_TOKENS = {"embedded": 2000}
_TOKEN = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}]|[\p{L}\p{M}]+(?:'\p{L}+)*|\p{N}+|\s+|.", regex.DOTALL
)
_SPACELESS = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}]")
# English words that say how, not what; a word of another alphabet language is masked, its punctuation is not.
_FUNCTION_WORDS = set(
    """
    a about above after again all almost already also although always am among an and another any anyone
    anything are around as at away back be because been before behind being below between both but by
    can can't cannot could did didn't do does doesn't doing don't done down during each either else
    enough even ever every everyone everything few first for from get gets getting go goes going got had
    has have haven't having he her here him his how however i i'd i'll i'm i've if in instead into is
    isn't it it's its itself just last least less let's like many may maybe me might mine more most much
    must my myself near need neither never next no nobody none nor not nothing now of off often on once
    one only onto or other others our out over own perhaps quite rather really same she should since so
    some someone something sometimes still such than that that's the their them themselves then there
    there's these they they're thing things this those though through to together too toward towards two
    under until up upon us very was wasn't we we're we've well were what when where whether which while
    who whom whose why will with within without won't would wouldn't yes yet you you're you've your
    yours yourself
    """.split()  # noqa: SIM905 -- a list would take a line a word
)


def with_style(texts: pd.DataFrame) -> pd.DataFrame:
    """Return the table with `STYLE`: how near each text is to the author's train texts. Of the whole.

    Needs ``content``, ``content_id`` and ``group``: the rows of ``train`` are what all others are compared
    with, and with the rows of `FLOOR` and `CEILING` say which n-grams are rare. Adds cosines of about 0 to 1,
    missing where a text has fewer than `LEAST_WORDS` words, where nothing is left to compare it with, and in
    train. A text whose ``content_id`` stands in train is compared with the rest of train.

    Features are n-grams of 3 to 5 characters, the same with content words masked (Stamatatos 2017), and
    function words and punctuation, single and in pairs, each by (1 + log count) times inverse document
    frequency. A text is scored in passages of `PASSAGE_WORDS` words, since longer texts are nearer to
    anything. The mean train passage is taken as long as passages of train are near each other, or the author
    with more of them would win.
    """
    passages = texts.content.map(_passages).explode().dropna()
    scored = texts.assign(**dict.fromkeys(STYLE, math.nan))
    if passages.empty:
        return scored
    is_scored = texts.group != "train"
    for name, features in zip(STYLE, zip(*map(_features, passages), strict=True), strict=True):
        values = pd.Series(_closeness(features, texts.loc[passages.index]), passages.index)
        scored[name] = values.groupby(level=0).mean().where(is_scored)
    return scored


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(" ".join(text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").split()))


def _passages(text: str) -> list[str]:
    tokens = _tokens(text)
    words = np.cumsum([token[0].isalnum() for token in tokens])
    count = int(words[-1]) if tokens else 0
    starts = range(0, max(count - LEAST_WORDS + 1, 0), PASSAGE_WORDS)
    places = [(np.searchsorted(words, [at, at + PASSAGE_WORDS], side="right")) for at in starts]
    return ["".join(tokens[start:end]).strip() for start, end in places]


def _features(text: str) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """Return the counts of n-grams, of n-grams with content words masked, of function words and pairs."""
    tokens, masked, words = _tokens(text), [], []
    for token in tokens:
        lower, is_word = token.lower(), token[0].isalnum()
        if is_word and lower not in _FUNCTION_WORDS and not _SPACELESS.match(token):
            masked.append("#" if token[0].isnumeric() else "*" * len(token))
        else:
            masked.append(lower)
            words += [lower] if token != " " else []
    pairs = map("\0".join, pairwise(words))
    return _ngrams("".join(tokens)), _ngrams("".join(masked)), Counter([*words, *pairs])


def _ngrams(text: str) -> Counter[str]:
    text = f" {text} "
    return Counter(text[at : at + size] for size in (3, 4, 5) for at in range(len(text) - size + 1))


def _weights(
    features: Sequence[Counter[str]], known: NDArray[np.bool_]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return row, code and value of every feature: rows of length 1, and what is rare weighs more."""
    rows = np.repeat(np.arange(len(features)), [len(each) for each in features])
    codes = pd.factorize(np.array([name for each in features for name in each], dtype=object))[0]
    values = 1 + np.log([count for each in features for count in each.values()])
    holders = np.bincount(codes[known[rows]], minlength=codes.max(initial=0) + 1)
    values = values * (np.log((1 + known.sum()) / (1 + holders[codes])) + 1)
    return rows, codes, values / np.sqrt(np.bincount(rows, values**2))[rows]


def _closeness(features: Sequence[Counter[str]], passages: pd.DataFrame) -> NDArray[np.float64]:
    """Return how near each passage is to the passages of train that are of other contents."""
    train = (passages.group == "train").to_numpy()
    known = passages.group.isin(["train", FLOOR, CEILING]).to_numpy()
    owners = passages.content_id.where(passages.content_id.isin(passages.content_id[train]), "").to_numpy()
    rows, codes, values = _weights(features, known)

    def total(chosen: NDArray[np.bool_]) -> NDArray[Any]:
        at = chosen[rows]
        return np.bincount(codes[at], values[at], minlength=codes.max(initial=0) + 1)

    whole, closeness = total(train), np.full(len(features), math.nan)
    for owner in np.unique(owners):
        asked = owners == owner
        rest, count = whole - total(train & asked), int((train & ~asked).sum())
        length = math.sqrt(max(rest @ rest - count, 0.0) / (count * (count - 1))) if count > 1 else 0.0
        if length:
            at = asked[rows]
            near = np.bincount(rows[at], values[at] * rest[codes[at]], minlength=len(features))
            closeness[asked] = near[asked] / count / length
    return closeness


def author_of(rows: pd.DataFrame) -> str:
    """Return the author with most train texts, of those with a test text if there are any."""
    sides = rows[rows.side.isin(["train", "test"])]
    counts = pd.crosstab(sides.author, sides.side).reindex(columns=["test", "train"], fill_value=0)
    order = counts.assign(met=counts.test > 0).sort_values(["met", "train"], kind="stable").index
    return str(order[-1]) if len(order) else ""


def known_texts(rows: pd.DataFrame, *, author: str, seed: int) -> pd.DataFrame:
    """Return what an author's style is measured by: a row a text, ``group`` train, `FLOOR` or `CEILING`.

    Needs ``content``, ``content_id``, ``author`` and ``side`` (train, test; others are left out), and returns
    ``content``, ``content_id`` and ``group``. ``attrs["notes"]`` says in words what the floor and the ceiling
    are, and what stands in for them.
    """
    rows = rows[rows.side.isin(["train", "test"])].drop_duplicates("content")
    long = rows[rows.content.map(_passages).astype(bool)]
    own, others = long[long.author == author], long[long.author != author]
    floor = f"{counted(others.author.nunique(), 'other author')} of the dataset"
    if others.empty:
        others, floor = _sample(), "the sample's contents, for the dataset has no other author"
        others = others[~others.content.isin(rows.content)]
    train, test, others = (
        part.sample(min(len(part), MOST_TEXTS), random_state=seed)
        for part in (own[own.side == "train"], own[own.side == "test"], others)
    )
    spoken = others.content.map(prose_language).isin(set(train.content.map(prose_language)))
    if spoken.sum() >= FEWEST_TEXTS:
        others, floor = others[spoken], f"{floor}, in the author's languages"
    ceiling = "the author's own test texts"
    if len(test) < FEWEST_TEXTS:
        ceiling = f"each train text against the others, for test holds {counted(len(test), 'text')}"
        test = train
    groups = [train.assign(group="train"), others.assign(group=FLOOR), test.assign(group=CEILING)]
    texts = pd.concat(groups, ignore_index=True)[["content", "content_id", "group"]]
    notes = [f"Floor: {floor}.", f"Ceiling: {ceiling}."]
    if short := len(rows) - len(long):
        notes.append(f"Not scored: {counted(short, 'text')} of the dataset under {LEAST_WORDS} words.")
    texts.attrs["notes"] = notes
    return texts


@cache
def _sample() -> pd.DataFrame:
    lines = list(chain.from_iterable(map(read_json_lines, sorted(PROJECT_ROOT.glob("data/sample/*.jsonl")))))
    texts = [str(line.get("cleaned_content") or line.get("content") or "") for line in lines]
    frame = pd.DataFrame({"content": texts, "content_id": [f"sample-{line['id']}" for line in lines]})
    return frame[frame.content.map(_passages).astype(bool)].drop_duplicates("content", ignore_index=True)


def axis_of(known: pd.DataFrame, answers: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """Return the axis: a row a group from floor to ceiling, each measure with a 95 % interval over texts.

    ``known`` is of `known_texts`; ``answers`` needs ``content``, ``content_id`` and ``group``, whose answers
    these are. Columns: ``texts`` (the group's name), ``scored``, ``short`` (counts), and of each
    measure of `STYLE` its mean, ``low`` and ``high`` (missing: one text has no interval). No row at all
    without a floor and a ceiling.
    """
    # A model may be called as a group of known texts is.
    names = {f"answer {name}": name for name in answers.group}
    asked = answers[list(known)].assign(group="answer " + answers.group)
    scored = with_style(pd.concat([known, asked], ignore_index=True))
    rows = []
    for group in [FLOOR, *names, CEILING]:
        of_group = scored.loc[scored.group == group, list(STYLE)].rename(columns=STYLE)
        values, row = of_group.dropna(), {"texts": names.get(group, group)}
        row |= {"scored": len(values), "short": len(of_group) - len(values)}
        is_one = len(values) < 2
        rows.append(row | (dict(values.mean()) if is_one else intervals(values, values * 0 + 1, seed=seed)))
    measures = [f"{name}{end}" for name in STYLE.values() for end in ("", " low", " high")]
    axis = pd.DataFrame(rows, columns=["texts", "scored", "short", *measures])
    return axis if axis.scored.iloc[[0, -1]].all() else axis.head(0)


def conclude(axis: pd.DataFrame, known: pd.DataFrame) -> Markdown:
    """Return in words where each group lies between floor and ceiling, and what these are."""
    notes, lines = list(known.attrs["notes"]), []
    if axis.empty:
        least = f"of at least {LEAST_WORDS} words in train, at the floor and at the ceiling"
        return Markdown(bullets([f"No score: it needs texts {least}.", *notes]))
    floor, answers, ceiling = axis.iloc[0], axis[1:-1], axis.iloc[-1]
    for name in STYLE.values():
        ends = f"floor {floor[name]:.3f}, ceiling {ceiling[name]:.3f}"
        if not ceiling[f"{name} low"] > floor[f"{name} high"]:
            meet = "Their intervals meet: here it cannot tell the author from others."
            lines.append(f"**{name}**: {ends}. {meet}")
            continue
        ways = (answers.set_index("texts")[name].dropna() - floor[name]) / (ceiling[name] - floor[name])
        parts = [f"{code(text)} {_place(way)}" for text, way in ways.items()]
        lines.append(f"**{name}**: {'; '.join(parts) or 'no answer yet'} ({ends}).")
    if short := int(answers.short.sum()):
        notes.append(f"Not scored: {counted(short, 'answer')} under {LEAST_WORDS} words, or none.")
    return Markdown(bullets([*lines, *notes]))


def _place(way: float) -> str:
    if way < 0:
        return "lies below the floor"
    return "lies beyond the ceiling: see what it repeats" if way > 1 else f"goes {way:.0%} of the way"


def meeting_of(ledger: pd.DataFrame, settings: Params) -> pd.DataFrame:
    """Return what the endpoint is asked: for each test instruction of an author a plain and a prompted row.

    Adds ``how`` (`HOW`) and ``text``, which is what is sent; at most ``settings.twins`` instructions.
    """
    author = author_of(ledger)
    pairs = ledger[ledger.instruction.notna() & (ledger.author == author)]
    train, test = pairs[pairs.side == "train"], pairs[pairs.side == "test"].drop_duplicates("content")
    test = test[test.content.map(_passages).astype(bool)]
    test = test.sample(min(len(test), settings.twins), random_state=settings.seed)
    requests = [_request(row) for row in rows_of(test)]
    room = EXAMPLE_TOKENS.get(settings.endpoint, math.inf)
    texts = [_examples(row.instruction, train.content, room=room) for row in rows_of(test)]
    prompted = [f"{examples}Request:\n{request}" for examples, request in zip(texts, requests, strict=True)]
    both = [test.assign(how=how, text=text) for how, text in zip(HOW, (requests, prompted), strict=True)]
    meeting = pd.concat(both).sort_index(kind="stable").reset_index(drop=True)
    meeting.attrs = {"author": author}
    return meeting


def _request(row: Any) -> str:
    tokens = _tokens(row.content)
    count = sum(token[0].isalnum() for token in tokens)
    spaceless = sum(bool(_SPACELESS.match(token)) for token in tokens)
    unit = "characters" if 2 * spaceless > count else "words"
    language = language_name(prose_language(row.content))
    return f"{row.instruction}\n(About {round(count, -1)} {unit}{f', in {language}' if language else ''}.)"


def _examples(instruction: str, train: pd.Series[str], *, room: float) -> str:
    """Return the texts nearest to an instruction, by n-grams, each whole, under a heading each."""
    texts = [text for text in train.unique() if _passages(text)]
    features = [_ngrams(" ".join(_tokens(text))) for text in [instruction, *texts]]
    rows, codes, values = _weights(features, np.ones(len(features), dtype=bool))
    asked = np.bincount(codes[rows == 0], values[rows == 0], minlength=codes.max(initial=0) + 1)
    near = np.bincount(rows, values * asked[codes])[1:]
    chosen: list[str] = []
    for place in np.argsort(-near, kind="stable"):
        room -= estimate_tokens(texts[place])
        if len(chosen) == EXAMPLES or room < 0:
            break
        chosen.append(texts[place])
    return "".join(f"Text {number}:\n{text}\n\n" for number, text in enumerate(chosen, start=1))


def twins_step(meeting: pd.DataFrame, settings: Params, endpoint: Endpoint) -> pipeline.Step:
    """Return what asks for the answers of a meeting; each is stored under a recipe of its own kind."""
    one = replace(settings, instruction_language="same", instructions_per_content=1, candidates=1)
    one = replace(one, max_output_tokens=0, batch_size=1, mode="live")
    recipes = {
        how: pipeline.recipe_maker(replace(one, prompt=f"twin_{how}"), kind="twins")("texts") for how in HOW
    }
    return pipeline.Step(
        "twins",
        meeting,
        lambda row: pipeline.question_of(row, recipes[row.how], row.text),
        one,
        with_model(endpoint, settings.model),
    )


def forecast_run(
    chunks: pd.DataFrame, settings: Params, endpoint: Endpoint, store: AnswerStore
) -> pd.DataFrame:
    """Return what notebook 5 will ask; where instructions are still to come, chunks stand in for them."""
    ledger = pipeline.with_answers(chunks, settings, store)
    if pipeline.forecast(chunks, settings, endpoint, store).requests.sum():
        ledger = ledger[ledger.state != "skipped"].assign(author="")
        sides = np.where(np.arange(len(ledger)) < settings.twins, "test", "train")
        ledger = ledger.assign(instruction=ledger.content.str[:200], side=sides)
    else:
        ledger = pipeline.with_verdicts(pipeline.with_measures(ledger, settings, store), settings, store)
        ledger = pipeline.with_decisions(ledger, settings)
        ledger = pipeline.with_sides(ledger, settings, pipeline.previous_of(ledger, settings))
    step = twins_step(meeting_of(ledger, settings), settings, endpoint)
    return pipeline.forecast_steps([step], store.settled)


def with_twins(
    meeting: pd.DataFrame, settings: Params, endpoint: Endpoint, store: AnswerStore
) -> pd.DataFrame:
    """Return the meeting with ``answer``, empty where there is none, and why (``reason``). By row."""
    keys = [question.key for question in map(twins_step(meeting, settings, endpoint).make, rows_of(meeting))]
    stored = store.answers(keys)
    answers = ["".join(stored[key].values) if key in stored else "" for key in keys]
    reasons = [stored[key].reason if key in stored else "not asked" for key in keys]
    return meeting.assign(answer=pd.Series(answers, meeting.index, dtype="str"), reason=reasons)


def show_meeting(meeting: pd.DataFrame, *, path: Path, seed: int) -> Any:
    """Return widgets that show three texts for each instruction, shuffled, and ask which is the author's.

    Each guess is appended to ``path`` at once, and what was guessed there is not asked again. Without a
    person in front, as in papermill, it only shows the first.
    """
    import ipywidgets as widgets

    whole = meeting[meeting.answer != ""].groupby("id", sort=False).filter(lambda rows: len(rows) == len(HOW))
    pairs = dict(list(whole.groupby("id", sort=False)))
    waiting = [rows for name, rows in pairs.items() if name not in set(guesses_of(path).id)]
    view, state = widgets.HTML(), widgets.Label()
    buttons = [widgets.Button(description=str(number), button_style="primary") for number in (1, 2, 3)]

    def draw() -> None:
        guesses = guesses_of(path).guess
        right = f"{(guesses == 'author').sum()} right; chance is one in three"
        state.value, view.value = f"{len(guesses)} of {len(pairs)} guessed, {right}", ""
        if waiting:
            asked = show_note(f"Asked: {waiting[0].instruction.iloc[0]}", level="plain")
            texts = pd.DataFrame({"content": [text for _, text in _order(waiting[0], seed)]})
            cards = show_texts(texts.assign(text=["1", "2", "3"]), note="text")
            view.value = join_displays([asked, cards])._repr_html_()
        for button in buttons:
            button.disabled = not waiting

    def press(button: Any) -> None:
        rows = waiting.pop(0)
        guess, first = _order(rows, seed)[int(button.description) - 1][0], rows.iloc[0]
        append_line(path, {"id": first.id, "instruction": first.instruction, "guess": guess, "at": now()})
        draw()

    for button in buttons:
        button.on_click(press)
    draw()
    return widgets.VBox([state, view, widgets.HBox(buttons)])


def _order(rows: pd.DataFrame, seed: int) -> list[tuple[str, str]]:
    """Return who wrote and what, in the order that belongs to this instruction."""
    texts = [("author", rows.content.iloc[0]), *zip(rows.how, rows.answer, strict=True)]
    random.Random(f"{seed} {rows.id.iloc[0]}").shuffle(texts)
    return texts


def guesses_of(path: Path) -> pd.DataFrame:
    """Return the guesses so far: ``id``, ``instruction``, ``guess`` (author, plain or prompted), ``at``."""
    lines = read_json_lines(path, appended=True) if path.exists() else []
    return pd.DataFrame(lines, columns=["id", "instruction", "guess", "at"])


def read_answers(path: Path) -> pd.DataFrame:
    """Read anyone's answers, one JSON object a line: ``instruction``, ``answer``, ``model``.

    Raises SourceError, which names the first line that is something else.
    """
    try:
        rows = read_json_lines(path)
    except DiskFailed as error:
        raise SourceError(str(error)) from error
    names = ["instruction", "answer", "model"]
    for number, row in enumerate(rows, start=1):
        wrong = [name for name in names if not isinstance(row.get(name), str)]
        if wrong or not row["model"].strip():
            raise SourceError(
                f"{path.name}, line {number}: expected instruction, answer and model as text, "
                f"found no {', '.join(wrong) or 'name of a model'}"
            )
    if not rows:
        raise SourceError(f"{path}: expected an answer on each line, found none")
    return pd.DataFrame(rows)[names]


def score_answers(path: Path, dataset: Path, *, seed: int = 42) -> tuple[pd.DataFrame, Markdown]:
    """Return the axis of a dataset with anyone's answers on it, and what it says in words.

    The author is whose instructions of the test side the answers are to, else `author_of` the dataset.
    Answers to instructions of train are left out: a tuned model has seen what stands there.

    Raises ParamsError where the folder holds no dataset, SourceError as `read_answers` does.
    """
    answers, folder = read_answers(path), dataset_folder(dataset)
    if not (folder / "manifest.json").is_file():
        raise ParamsError(
            f"--dataset {dataset}: expected a run folder or a dataset with manifest.json, found none"
        )
    sides = stored_sides(folder)
    rows = pd.DataFrame([row | {"side": side} for side, of_side in sides.items() for row in of_side])
    seen = answers.instruction.isin(rows.instruction[rows.side == "train"])
    asked = rows[(rows.side == "test") & rows.instruction.isin(answers.instruction)]
    author = str(asked.author.mode().iat[0]) if len(asked) else author_of(rows)
    known = known_texts(rows, author=author, seed=seed)
    places = asked.drop_duplicates("instruction").set_index("instruction").content_id
    kept = answers[~seen].assign(content=answers.answer, group=answers.model)
    kept = kept.assign(content_id=kept.instruction.map(places).fillna(""))
    notes = [f"Author: {code(author)}.", *known.attrs["notes"]]
    if seen.any():
        count = counted(int(seen.sum()), "answer")
        notes.append(f"Left out: {count} to instructions of train, which a tuned model has seen.")
    known.attrs["notes"] = notes
    axis = axis_of(known, kept, seed=seed)
    return axis, conclude(axis, known)
