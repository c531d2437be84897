"""Rules over measures, verdicts and reviews, each with its reason and value; alarms over the whole."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
import regex

from llmtwin_data.cluster import HERE, Workers, by_row, of_each, workers_of
from llmtwin_data.contents import KEY, content_names, with_columns
from llmtwin_data.measures import MAX_REPEATED_BIGRAMS, copied_fractions
from llmtwin_data.overlaps import NearCopies
from llmtwin_data.params import Params
from llmtwin_data.screening import find_personal_data, find_secrets
from llmtwin_data.texts import counted, language_of, prose_of, script_of, unseen_of, wording, words

# Every word that may stand as a rejection's reason in a ledger, in the order of the rules, and its meaning.
REASONS = {
    "review": "a person rejected it",
    "secret": "the instruction holds a key or password",
    "personal_data": "the instruction holds an e-mail address, a phone number or the like",
    "control": "the instruction holds control characters, or some that turn its direction",
    "boundary": "the instruction repeats the prompt's frame",
    "length": "the instruction is too short or too long, or nothing but an address, tags or code",
    "language": "the instruction is not in the language asked for",
    "boilerplate": "much of its content stands in five or more contents",
    "not_self_contained": "the instruction points at a text that its reader does not see",
    "copied": "the instruction quotes its content, so that the answer stands in the question",
    "generic": "the instruction fits many contents",
    "ungrounded": "another content fits the instruction better, or none does",
    "vague": "the instruction says too little of its content, or repeats itself",
    "too_long": "instruction and content exceed max_pair_tokens",
    "judge": "the judge's score is below min_judge_score",
    "duplicate": "the same pair stands in the dataset already",
    "near_duplicate": "nearly the same pair stands in the dataset already",
    "leak": "its content stands too close to one on the other side of the split",
    "tied": "it ties contents that the previous dataset put on different sides",
}
# Equal or nearly so; their value is the id of the pair that is kept.
COPIES = ("duplicate", "near_duplicate")

# The thresholds by which the rules decide, as the params name them.
RULES = (
    "min_grounding", "min_evidence", "max_copied", "near_duplicate", "max_boilerplate", "max_pair_tokens",
    "min_judge_score", "instruction_language", "secrets", "personal_data",
)  # fmt: skip

# Letters; shorter texts say nothing.
FEWEST_LETTERS = 200
# Letters; in these languages so long a text without one accent does not occur.
ACCENTED = {"es": 250, "fr": 200, "de": 250, "pt": 200, "pl": 150, "cs": 150, "sv": 250, "tr": 150, "vi": 100,
            "hu": 150, "ro": 250, "da": 300, "no": 400, "sk": 150, "it": 500, "ca": 250}  # fmt: skip
# Blanks among all characters: English has 0.17, indented code more, a minified file 0.02.
FEWEST_BLANKS = 0.02
# Commas and the like for each letter: English has 0.02, dense code 0.2, what deleted letters leave has 0.6.
MOST_MARKS = 0.5
# Line breaks deleted without a blank in their place leave "end.Then it"; code such as "io.Writer" is none.
GLUED = re.compile(r"[a-z]{2}[.!?][A-Z][a-z]* [a-z]")
FEWEST_GLUED = 3
_MARKS = regex.compile(r"[,:;?!]")
_LETTERS = regex.compile(r"\p{L}")
_MANGLED = regex.compile(r"\ufffd|Ã[\u0080-\u00bf]|â€|\p{Latin}\?\p{Ll}")


def damage_of(text: str, language: str = "") -> str:
    """Return the first sign that a person should look at, empty for a whole text.

    ``language`` is that of its prose, where it is known already.
    """
    if "\ufffd" in text:
        return "bytes that could not be read (U+FFFD)"
    if len(GLUED.findall(prose_of(text))) >= FEWEST_GLUED:
        return "sentences glued together"
    return sign_of_loss(text, language)


def sign_of_loss(text: str, language: str = "") -> str:
    """Return which letters or blanks a text seems to have lost, which stops a run; empty for none."""
    prose = prose_of(text)
    marks, letters = len(_MARKS.findall(prose)), len(_LETTERS.findall(prose))
    if prose.isascii() and marks >= 6 and marks > MOST_MARKS * letters:
        return "letters deleted, their punctuation left"
    if len(_MANGLED.findall(prose)) >= 3:
        return "letters replaced by ? or read in the wrong encoding"
    if letters < FEWEST_LETTERS:
        return ""
    if prose.count(" ") < FEWEST_BLANKS * len(prose) and script_of(prose) in ("Latn", "Cyrl", "Grek"):
        return "all blanks deleted"
    accented = prose.isascii() and letters >= ACCENTED.get(language or language_of(prose), math.inf)
    return "all accents deleted" if accented else ""


# Share of other chunks; on the sample good instructions stay below 0.02 and empty phrases are above 0.3.
MAX_GENERIC = 0.2
# Words; characters in scripts without spaces. The longest good instruction of the sample has 29.
MIN_WORDS, MAX_WORDS = 3, 250
# Share of an instruction's 8-word windows that may come from the prompt's own words.
MAX_PROMPT_WORDS = 0.5
_NUMBER_LINE = regex.compile(r"content number \d+ [0-9a-f]{6}\b", regex.IGNORECASE)


def with_decisions(ledger: pd.DataFrame, settings: Params, *, prompt_words: str = "") -> pd.DataFrame:
    """Return the table with the pairs that break a rule rejected: ``state``, ``reason`` and ``value``.

    ``reason`` (str) is the first of `REASONS` that holds, ``value`` (str) what broke it. Needs the measures,
    ``judge_score`` and ``review``. Copies are looked for last, in order, among the pairs that broke no other
    rule, so that none falls for the sake of one that is not published: that rule is of the whole, all others
    are by row.

    An instruction that repeats ``prompt_words``, what the model was told, gives the prompt away.
    """
    workers = workers_of(len(ledger), settings.cluster)
    pairs = ledger.drop(columns="content")[ledger.instruction.notna()]
    decided = by_row(pairs, _decided, settings, prompt_words, workers=workers)
    pairs = pairs.assign(spoken=decided.pop("spoken"))[decided.reason == ""]
    copies = _copies(pairs, ledger.content, threshold=settings.near_duplicate, workers=workers)
    decided.loc[copies.index, ["reason", "value"]] = copies
    rejected = decided[decided.reason != ""]
    return with_columns(ledger, rejected.assign(state="rejected"))


def _decided(pairs: pd.DataFrame, settings: Params, prompt_words: str) -> pd.DataFrame:
    """Return of each pair the first rule it breaks alone, and its instruction's words, ``spoken``."""
    decided = pd.DataFrame("", index=pairs.index, columns=["reason", "value"], dtype="str")
    for reason, broken, value in _broken(pairs, settings, prompt_words):
        first = broken.astype(bool) & (decided.reason == "")
        decided.loc[first, "reason"] = reason
        decided.loc[first, "value"] = value if isinstance(value, str) else value[first].map(_as_text)
    return decided.assign(spoken=pairs.instruction.map(wording))


def _broken(
    pairs: pd.DataFrame, settings: Params, prompt_words: str
) -> Iterator[tuple[str, pd.Series[bool], str | pd.Series]]:
    """Return each rule that looks at a pair alone: reason, the pairs that break it, and the values that do.

    An instruction is made anew, so one with a secret or personal data is rejected, also under ``mask``.
    """
    asked = pairs.instruction
    yield "review", pairs.review == "reject", "rejected by a person"
    for group, find in (("secret", find_secrets), ("personal_data", find_personal_data)):
        if getattr(settings, {"secret": "secrets"}.get(group, group)) != "keep":
            kinds = asked.map(lambda text, find=find: next((each.kind for each in find(text)), ""))
            yield group, kinds != "", kinds
    unseen = asked.map(unseen_of)
    yield "control", unseen != "", unseen
    yield "boundary", asked.map(lambda text: bool(_NUMBER_LINE.search(text))), "number line"
    if prompt_words:
        repeated = asked.map(lambda text: copied_fractions(text, prompt_words)[0])
        yield "boundary", repeated >= MAX_PROMPT_WORDS, repeated
    # An address, a tag or code alone asks for nothing, however many words are in it.
    count = asked.map(lambda text: len(words(text)) * bool(words(prose_of(text))))
    yield "length", ~count.between(MIN_WORDS, MAX_WORDS), count.map(lambda number: counted(number, "word"))
    yield "language", ~pairs.language_ok, pairs.language
    yield "boilerplate", pairs.boilerplate > settings.max_boilerplate, pairs.boilerplate
    yield from broken_measures(pairs, settings)
    if settings.max_pair_tokens:
        yield "too_long", pairs.tokens > settings.max_pair_tokens, pairs.tokens
    if settings.min_judge_score:
        yield "judge", pairs.judge_score.isna(), "no verdict"
        yield "judge", (pairs.judge_score < settings.min_judge_score).fillna(False), pairs.judge_score


def broken_measures(
    pairs: pd.DataFrame, settings: Params
) -> Iterator[tuple[str, pd.Series[bool], str | pd.Series]]:
    """Return each rule over what was measured of a pair and its text: reason, mask, and values."""
    yield "not_self_contained", ~pairs.self_contained, "leans on a text"
    copied = pairs[["copied_instruction", "copied_content"]].max(axis=1)
    yield "copied", copied > settings.max_copied, copied
    yield "generic", pairs.genericness > MAX_GENERIC, pairs.genericness
    yield "ungrounded", pairs.grounding < settings.min_grounding, pairs.grounding
    yield "vague", pairs.evidence < settings.min_evidence, pairs.evidence
    loops = pairs.repeated_bigrams > MAX_REPEATED_BIGRAMS
    yield "vague", loops & bool(settings.min_evidence), pairs.repeated_bigrams


def _as_text(value: object) -> str:
    """Return a value as the ledger holds it; floats with the four decimals that measures have."""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _copies(
    pairs: pd.DataFrame, contents: pd.Series[str], *, threshold: float, workers: Workers
) -> pd.DataFrame:
    """Return ``reason`` and ``value`` of the pairs that copy an earlier one which stays; the value is its id.

    A chunk copies another at the threshold. Short texts of one habit share most of their words, so that an
    instruction copies another only halfway from there to equality; punctuation is ignored.
    """
    chunks = pairs.groupby(KEY, sort=False).ngroup()
    texts = cast("Sequence[str]", contents[pairs.index[~pairs.duplicated(KEY)]].array)
    known = NearCopies(texts, threshold=threshold, workers=workers)
    spoken = cast("Sequence[str]", pairs.spoken.array)
    asked = NearCopies(spoken, threshold=(1 + threshold) / 2, workers=workers)
    ids, kept, copies = pairs.id.array, dict[int, int](), dict[Any, tuple[str, str]]()
    for pair, (label, chunk) in enumerate(zip(pairs.index, chunks, strict=True)):
        if chunk not in kept and (copied := known.find(chunk)):
            copies[label] = COPIES[not copied[1]], ids[kept[copied[0]]]
        elif repeated := asked.find(pair):
            copies[label] = COPIES[not repeated[1]], ids[repeated[0]]
        else:
            asked.keep(pair)
            if chunk not in kept:
                kept[chunk] = pair
                known.keep(chunk)
    return pd.DataFrame.from_dict(copies, orient="index", columns=["reason", "value"], dtype="str")


# Fewer pairs than this say nothing about a run.
FEWEST_PAIRS = 8
# An instruction retrieves its own chunk from this share of the best chunk's score. On the sample written
# instructions do so in 95 of 100 pairs, shuffled ones in 1; people's titles have a recall of 0.76.
RETRIEVED = 0.9
FEWEST_RETRIEVED = 0.5
MOST_UNMEASURED = 0.2
MOST_REPEATED = 0.2
MOST_GENERIC = 0.5
MOST_WRONG_LANGUAGE = 0.2
MOST_DESTROYED = 0.2
# Texts of a collection, evenly spaced: what destroys texts destroys them all along.
MOST_LOOKED_AT = 500
MOST_OF_ONE_CONTENT = 0.5
# The one alarm that no gate lets pass at the end of a run.
EMPTY = "empty"
EXAMPLES = 3
EXAMPLE_CHARS = 90


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something about the run as a whole that a person should see before training on it."""

    name: str
    seen: str
    expected: str
    examples: tuple[str, ...] = ()
    level: Literal["alarm", "warning"] = "alarm"


def alarms_of(
    ledger: pd.DataFrame, *, instruction_language: str = "same", workers: Workers = HERE
) -> list[Alarm]:
    """Return what is wrong with the pairs as a whole, before curation hides it; needs the measures.

    ``empty``: of what was asked for, however little, nothing is accepted. The others say nothing of fewer
    than eight pairs. ``ungrounded``: instructions do not retrieve their own chunks. ``unmeasured``: nothing
    says of too many whether they do. ``collapsed``: one instruction for many chunks, or words that fit any.
    ``language``: not the one asked for. ``destroyed``: contents lost letters or blanks before they came here.
    ``one_content`` fills the set; only a warning. One author is no alarm, since a twin has one.
    """
    pairs = ledger[ledger.instruction.notna()]
    asked = ledger.loc[ledger.state != "skipped", ["state", "reason"]]
    alarms = list[Alarm]()
    if len(asked) and not (asked.state == "accepted").any():
        fates = Counter((asked.state + " " + asked.reason.str.replace("_", " ")).tolist())
        seen = ", ".join(f"{fate} {count}" for fate, count in fates.most_common())
        seen = f"0 of {counted(len(asked), 'instruction')} accepted; {seen}"
        alarms.append(Alarm(EMPTY, seen, "at least 1", _examples(pairs, pairs.instruction.notna())))
    many = _alarms_of_many(pairs, instruction_language, workers) if len(pairs) >= FEWEST_PAIRS else ()
    return [*alarms, *many]


def _alarms_of_many(pairs: pd.DataFrame, instruction_language: str, workers: Workers) -> Iterator[Alarm]:
    total, measured = len(pairs), int(pairs.grounding.notna().sum())
    strays = pairs.grounding < RETRIEVED
    retrieved = measured - int(strays.sum())
    if measured >= FEWEST_PAIRS and retrieved < FEWEST_RETRIEVED * measured:
        seen = f"{retrieved} of {measured} instructions retrieve their own chunk among all chunks"
        well = f"at least {FEWEST_RETRIEVED:.0%}; was the content in the prompt, and in the right place?"
        yield Alarm("ungrounded", seen, well, _examples(pairs, strays))
    unmeasured = pairs.measured_by == ""
    if unmeasured.sum() > MOST_UNMEASURED * total:
        seen = f"of {unmeasured.sum()} of {total} instructions nothing says whether they fit their chunk"
        well = "words cannot compare two languages: leave embedding_model empty"
        yield Alarm(
            "unmeasured", seen, f"at most {MOST_UNMEASURED:.0%}; {well}", _examples(pairs, unmeasured)
        )
    yield from _collapsed(pairs)
    wrong = ~pairs.language_ok.astype(bool)
    if wrong.sum() > MOST_WRONG_LANGUAGE * total:
        common = ", ".join(f"{name} {count}" for name, count in Counter(pairs.language[wrong]).most_common(3))
        right = "that of each content" if instruction_language == "same" else instruction_language
        well = f"{right}, in at least {1 - MOST_WRONG_LANGUAGE:.0%}"
        seen = f"{wrong.sum()} of {total} instructions in another language ({common})"
        yield Alarm("language", seen, well, _examples(pairs, wrong))
    if alarm := destroyed(pairs, workers=workers):
        yield alarm
    named = content_names(pairs).value_counts()
    name, count = named.index[0], named.iloc[0]
    if count > MOST_OF_ONE_CONTENT * total:
        seen = f"content {name} has {count} of {counted(total, 'pair')}"
        yield Alarm("one_content", seen, f"at most {MOST_OF_ONE_CONTENT:.0%}", level="warning")


def destroyed(chunks: pd.DataFrame, *, workers: Workers = HERE) -> Alarm | None:
    """Return that the texts of a collection lost letters or blanks; known before anything is asked."""
    for collection, hashes in _hashes(chunks.content).groupby(chunks.collection, sort=False):
        each = hashes.drop_duplicates().index
        sample = chunks.content[each[:: len(each) // MOST_LOOKED_AT + 1]].tolist()
        # There, if anywhere else: it loads the language model.
        (losses,) = workers.map(of_each, [sample], given=[sign_of_loss])
        signs = {text: sign for text, sign in zip(sample, losses, strict=True) if sign}
        if len(signs) >= EXAMPLES and len(signs) > MOST_DESTROYED * len(sample):
            common = Counter(signs.values()).most_common(1)[0][0]
            seen = f"{len(signs)} of {len(sample)} texts of {collection} look destroyed upstream: {common}"
            well = "texts as their authors wrote them; look at the cleaner that filled the collection"
            return Alarm("destroyed", seen, well, tuple(map(shortened, list(signs)[:EXAMPLES])))
    return None


def _hashes(texts: pd.Series[str]) -> pd.Series:
    """Return what tells texts apart without a copy of them."""
    return pd.Series(np.fromiter(map(hash, texts.array), np.int64, len(texts)), texts.index)


def _collapsed(pairs: pd.DataFrame) -> Iterator[Alarm]:
    spoken = pairs.instruction.map(wording)
    # Equal contents may have equal instructions.
    asked = spoken[~pairs[["k"]].assign(content=_hashes(pairs.content)).duplicated(keep="last")]
    used, generic = asked.value_counts(), pairs.genericness >= MOST_GENERIC
    repeated = len(asked) - len(used)
    if len(asked) >= FEWEST_PAIRS and repeated > MOST_REPEATED * len(asked):
        seen = f"{repeated} of {len(asked)} instructions repeat another, the commonest {used.max()} times"
        again = spoken.isin(used.index[used > 1])
        yield Alarm("collapsed", seen, f"at most {MOST_REPEATED:.0%} repeats", _examples(pairs, again))
    elif generic.sum() >= MOST_GENERIC * len(pairs):
        seen = f"{generic.sum()} of {len(pairs)} instructions fit at least half of all chunks"
        seen += " as well as their own"
        well = f"fewer than {MOST_GENERIC:.0%}; an instruction should name its subject"
        yield Alarm("collapsed", seen, well, _examples(pairs, generic))


def shortened(text: str) -> str:
    """Return a text as one short line."""
    line = " ".join(text.split())
    return line if len(line) <= EXAMPLE_CHARS else f"{line[:EXAMPLE_CHARS]}…"


def _examples(pairs: pd.DataFrame, chosen: pd.Series[bool]) -> tuple[str, ...]:
    first = pairs.loc[chosen.index[chosen][:EXAMPLES]]
    return tuple(
        f"{shortened(instruction)} → {shortened(content)}"
        for instruction, content in zip(first.instruction, first.content, strict=True)
        if not find_secrets(instruction)
    )
