"""Rules over measures, verdicts and reviews, each with its reason and value; alarms over the whole."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Literal

import regex

from llmtwin_data.contents import LedgerRow, Pair, Span
from llmtwin_data.measures import Measures, copied_fractions
from llmtwin_data.overlaps import NearCopies
from llmtwin_data.screening import find_personal_data, find_secrets
from llmtwin_data.texts import counted, language_of, script_of, words

# Every word that may stand as a rejection's reason in a ledger, in the order of the rules, and its meaning.
REASONS = {
    "review": "a person rejected it",
    "secret": "the instruction holds a key or password",
    "personal_data": "the instruction holds an e-mail address, a phone number or the like",
    "boundary": "the instruction repeats the prompt's frame",
    "length": "the instruction is too short or too long",
    "language": "the instruction is not in the language asked for",
    "not_self_contained": "the instruction points at a text that its reader does not see",
    "copied": "the instruction quotes its content, so that the answer stands in the question",
    "generic": "the instruction fits many contents",
    "ungrounded": "another content fits the instruction better, or none does",
    "too_long": "instruction and content exceed max_pair_tokens",
    "judge": "the judge's score is below min_judge_score",
    "duplicate": "the same pair stands in the dataset already",
    "near_duplicate": "nearly the same pair stands in the dataset already",
    "leak": "its content stands too close to one on the other side of the split",
    "tied": "it ties contents that the previous dataset put on different sides",
}
# Their value is the id of the pair that is kept.
COPIES = ("duplicate", "near_duplicate")


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a pair is accepted, and if not the rule's name and the value that broke it."""

    accepted: bool
    reason: str = ""
    value: str = ""


ACCEPTED = Decision(accepted=True)


def rejected(reason: str, value: object = "") -> Decision:
    """Reject for one of `REASONS`; floats are shown with the four decimals that measures have."""
    if reason not in REASONS:
        raise ValueError(f"unknown reason {reason!r}")
    shown = f"{value:.4f}" if isinstance(value, float) else str(value)
    return Decision(accepted=False, reason=reason, value=shown)


# Letters; shorter texts say nothing.
FEWEST_LETTERS = 200
# Letters; in these languages so long a text without one accent does not occur.
ACCENTED = {"es": 250, "fr": 200, "de": 250, "pt": 200, "pl": 150, "cs": 150, "sv": 250, "tr": 150, "vi": 100,
            "hu": 150, "ro": 250, "da": 300, "no": 400, "sk": 150, "it": 500, "ca": 250}  # fmt: skip
# Characters that the language is read from.
LANGUAGE_CHARS = 400
# Blanks among all characters: English has 0.17, indented code more, a minified file 0.02.
FEWEST_BLANKS = 0.02
# Commas and the like for each letter: English has 0.02, dense code 0.2, what deleted letters leave has 0.6.
MOST_MARKS = 0.5
# Line breaks deleted without a blank in their place leave "end.Then it"; code such as "io.Writer" is none.
GLUED = re.compile(r"[a-z]{2}[.!?][A-Z][a-z]* [a-z]")
FEWEST_GLUED = 3
_MARKS = regex.compile(r"[,:;?!]")
_LETTERS = regex.compile(r"\p{L}")
# Code, tags, link targets, and words with a mark that only addresses, paths, queries and code have. What is
# longer than an address is a text without blanks; only embedded pictures are as long as they like.
_NO_PROSE = regex.compile(
    r"""(?xs) (?P<fence>```|~~~).*?(?:(?P=fence)|\Z) | `[^`\n]+` | <[/!]?\p{L}[^<>]*+>
    | \](?:\([^()\s]*\)|:[ ]*\S{1,300}) | data:[\w/+.-]+;base64,[\w+/=]+
    | (?:\w{2,20}://|www\.)[!-~]{1,300}
    | (?<![!-~])(?=[!-~]{1,200}(?![!-~]))[!-~]*?(?:[/\\=&@{}|^$*+]|\w\.\w+\?\w|\?\w+:\w)[!-~]*+
    """
)
_MANGLED = regex.compile(r"\ufffd|Ã[\u0080-\u00bf]|â€|\p{Latin}\?\p{Ll}")


def damage_of(text: str) -> str:
    """Name the first sign that a person should look at, or give an empty string for a whole text."""
    if "\ufffd" in text:
        return "bytes that could not be read (U+FFFD)"
    if len(GLUED.findall(_prose(text))) >= FEWEST_GLUED:
        return "sentences glued together"
    return sign_of_loss(text)


def sign_of_loss(text: str) -> str:
    """Name the letters or blanks that a text seems to have lost, which stops a run; empty for none."""
    letters = len(_LETTERS.findall(text))
    marks = len(_MARKS.findall(text))
    if text.isascii() and marks >= 6 and marks > MOST_MARKS * letters:
        return "letters deleted, their punctuation left"
    prose = _prose(text)
    if len(_MANGLED.findall(prose)) >= 3:
        return "letters replaced by ? or read in the wrong encoding"
    letters = len(_LETTERS.findall(prose))
    if letters < FEWEST_LETTERS:
        return ""
    if prose.count(" ") < FEWEST_BLANKS * len(prose) and script_of(prose) in ("Latn", "Cyrl", "Grek"):
        return "all blanks deleted"
    return "all accents deleted" if text.isascii() and letters >= _accented_from(prose) else ""


def _prose(text: str) -> str:
    return _NO_PROSE.sub(" ", text)


def _accented_from(text: str) -> float:
    return ACCENTED.get(language_of(text[:LANGUAGE_CHARS]), float("inf"))


def reject_copies(pairs: Sequence[Pair], decisions: list[Decision], *, threshold: float) -> None:
    """Reject those accepted so far that copy an earlier pair which stays; the value is that pair's id.

    A chunk copies another at the threshold. Short texts of one habit share most of their words, so that an
    instruction copies another only halfway from there to equality; punctuation is ignored.
    """
    left = [place for place, decision in enumerate(decisions) if decision.accepted]
    numbers: dict[Span, int] = {}
    chunks = [numbers.setdefault(pairs[place].chunk.span, len(numbers)) for place in left]
    texts = dict(zip(chunks, (pairs[place].chunk.text for place in left), strict=True))
    contents = NearCopies(list(texts.values()), threshold=threshold)
    spoken = [" ".join(words(pairs[place].instruction)) for place in left]
    instructions = NearCopies(spoken, threshold=(1 + threshold) / 2)
    kept: dict[int, str] = {}
    for number, (place, chunk) in enumerate(zip(left, chunks, strict=True)):
        if chunk not in kept and (copied := contents.find(chunk)):
            decisions[place] = _copy(kept[copied[0]], equal=copied[1])
        elif repeated := instructions.find(number):
            decisions[place] = _copy(pairs[left[repeated[0]]].id, equal=repeated[1])
        else:
            instructions.keep(number)
            if kept.setdefault(chunk, pairs[place].id) == pairs[place].id:
                contents.keep(chunk)


def _copy(original: str, *, equal: bool) -> Decision:
    return rejected("duplicate" if equal else "near_duplicate", original)


# Share of other chunks; on the sample good instructions stay below 0.02 and empty phrases are above 0.3.
MAX_GENERIC = 0.2
# Words; characters in scripts without spaces. The longest good instruction of the sample has 29.
MIN_WORDS, MAX_WORDS = 3, 250
# Share of an instruction's 8-word windows that may come from the prompt's own words.
MAX_PROMPT_WORDS = 0.5
_NUMBER_LINE = regex.compile(r"content number \d+ [0-9a-f]{6}\b", regex.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Rules:
    """Thresholds, named as in the params and with their defaults; 0, 1, 0 and 0 switch four rules off.

    ``near_duplicate`` of 1 still rejects equal texts. An instruction is made anew, so one with a secret or
    personal data is rejected, also under ``mask``.
    """

    min_grounding: float = 0.5
    max_copied: float = 0.6
    near_duplicate: float = 0.8
    max_pair_tokens: int = 2048
    min_judge_score: int = 0
    instruction_language: str = "same"
    secrets: str = "drop"
    personal_data: str = "keep"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judge said of one pair: 1 for another content's instruction, 5 for one that fits only this."""

    score: int
    reason: str


@dataclass(frozen=True, slots=True)
class _Case:
    pair: Pair
    measures: Measures
    rules: Rules
    verdict: Verdict | None
    turned_down: bool
    prompt_words: str


def curate(
    pairs: Sequence[Pair],
    measures: Sequence[Measures],
    *,
    rules: Rules,
    verdicts: Mapping[str, Verdict] | None = None,
    turned_down: AbstractSet[str] = frozenset(),
    prompt_words: str = "",
) -> list[Decision]:
    """Decide on each pair, in order; the first rule broken, in the order of `REASONS`, gives the reason.

    Parameters
    ----------
    verdicts
        By pair id. A pair without a verdict is rejected once ``min_judge_score`` is above 0.
    turned_down
        Ids of the pairs that a person rejected; nobody can save a pair from the other rules.
    prompt_words
        What the model was told; an instruction that repeats it gives the prompt away.

    Notes
    -----
    Copies are looked for in order among the pairs that broke no other rule, and each is compared only with
    those that stay, so that no pair falls for the sake of one that is not published. The value of a copy is
    the id of the pair that is kept.
    """
    told = verdicts or {}
    decisions = [
        _judge_alone(_Case(pair, measured, rules, told.get(pair.id), pair.id in turned_down, prompt_words))
        for pair, measured in zip(pairs, measures, strict=True)
    ]
    reject_copies(pairs, decisions, threshold=rules.near_duplicate)
    return decisions


def _judge_alone(case: _Case) -> Decision:
    for reason, rule in _RULES.items():
        value = rule(case)
        if value is not None:
            return rejected(reason, value)
    return ACCEPTED


def _review(case: _Case) -> object:
    return "rejected by a person" if case.turned_down else None


def _secret(case: _Case) -> object:
    if case.rules.secrets == "keep":
        return None
    return next((found.kind for found in find_secrets(case.pair.instruction)), None)


def _personal_data(case: _Case) -> object:
    if case.rules.personal_data == "keep":
        return None
    return next((found.kind for found in find_personal_data(case.pair.instruction)), None)


def _boundary(case: _Case) -> object:
    if _NUMBER_LINE.search(case.pair.instruction):
        return "number line"
    told = case.prompt_words and copied_fractions(case.pair.instruction, case.prompt_words)[0]
    return told if told and told >= MAX_PROMPT_WORDS else None


def _length(case: _Case) -> object:
    found = len(words(case.pair.instruction))
    return None if MIN_WORDS <= found <= MAX_WORDS else counted(found, "word")


def _language(case: _Case) -> object:
    return None if case.measures.language_ok else case.measures.language


def _self_contained(case: _Case) -> object:
    return None if case.measures.self_contained else "leans on a text"


def _copied(case: _Case) -> object:
    return case.measures.copied if case.measures.copied > case.rules.max_copied else None


def _generic(case: _Case) -> object:
    return case.measures.genericness if case.measures.genericness > MAX_GENERIC else None


def _ungrounded(case: _Case) -> object:
    found = case.measures.grounding
    return found if found is not None and found < case.rules.min_grounding else None


def _too_long(case: _Case) -> object:
    most = case.rules.max_pair_tokens
    return case.measures.tokens if most and case.measures.tokens > most else None


def _judge(case: _Case) -> object:
    if not case.rules.min_judge_score:
        return None
    if case.verdict is None:
        return "no verdict"
    return case.verdict.score if case.verdict.score < case.rules.min_judge_score else None


_RULES: dict[str, Callable[[_Case], object]] = {
    "review": _review,
    "secret": _secret,
    "personal_data": _personal_data,
    "boundary": _boundary,
    "length": _length,
    "language": _language,
    "not_self_contained": _self_contained,
    "copied": _copied,
    "generic": _generic,
    "ungrounded": _ungrounded,
    "too_long": _too_long,
    "judge": _judge,
}


# Fewer pairs than this say nothing about a run.
FEWEST_PAIRS = 8
# An instruction retrieves its own chunk from this share of the best chunk's score. On the sample written
# instructions do so in 95 of 100 pairs, shuffled ones in 1; people's titles have a recall of 0.76.
RETRIEVED = 0.9
FEWEST_RETRIEVED = 0.5
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


@dataclass(frozen=True, slots=True)
class _Run:
    pairs: Sequence[Pair]
    measures: Sequence[Measures]
    instruction_language: str

    def examples(self, chosen: Callable[[Measures], bool]) -> tuple[str, ...]:
        """Show the first three pairs chosen by their measures."""
        both = zip(self.pairs, self.measures, strict=True)
        return _examples(pair for pair, measured in both if chosen(measured))


def raise_alarms(
    pairs: Sequence[Pair], measures: Sequence[Measures], *, instruction_language: str = "same"
) -> list[Alarm]:
    """Give the alarms of a run, before curation hides what went wrong.

    ``ungrounded``: instructions do not retrieve their own chunks. ``collapsed``: the same instruction for
    many chunks, or words that fit any chunk. ``language``: not the language asked for. ``destroyed``:
    contents lost their letters or blanks before they came here. ``one_content``: one content fills the set;
    only a warning. One author is no alarm, since a twin has one.
    """
    run = _Run(pairs, measures, instruction_language)
    if len(pairs) < FEWEST_PAIRS:
        return []
    checks = (_alarm_ungrounded, _collapsed, _alarm_generic, _wrong_language, _destroyed, _one_content)
    found = [alarm for check in checks if (alarm := check(run)) is not None]
    return list({alarm.name: alarm for alarm in reversed(found)}.values())[::-1]


def alarm_of_none(rows: Iterable[LedgerRow], pairs: Sequence[Pair]) -> list[Alarm]:
    """Return the alarm ``empty`` where instructions were asked for, however few, and none is accepted."""
    asked = [row for row in rows if row.state != "skipped"]
    if not asked or any(row.state == "accepted" for row in asked):
        return []
    fates = Counter(f"{row.state} {row.reason}".replace("_", " ") for row in asked)
    told = ", ".join(f"{fate} {count}" for fate, count in fates.most_common())
    return [
        Alarm(
            EMPTY,
            f"0 of {counted(len(asked), 'instruction')} accepted; {told}",
            "at least 1",
            _examples(pairs),
        )
    ]


def shortened(text: str) -> str:
    """Give a text as one short line."""
    line = " ".join(text.split())
    return line if len(line) <= EXAMPLE_CHARS else f"{line[:EXAMPLE_CHARS]}…"


def _alarm_ungrounded(run: _Run) -> Alarm | None:
    measured = [item for item in run.measures if item.grounding is not None]
    retrieved = sum((item.grounding or 0) >= RETRIEVED for item in measured)
    if len(measured) < FEWEST_PAIRS or retrieved >= FEWEST_RETRIEVED * len(measured):
        return None
    return Alarm(
        "ungrounded",
        f"{retrieved} of {len(measured)} instructions retrieve their own chunk among all chunks",
        f"at least {FEWEST_RETRIEVED:.0%}; was the content in the prompt, and in the right place?",
        run.examples(lambda item: item.grounding is not None and item.grounding < RETRIEVED),
    )


def _collapsed(run: _Run) -> Alarm | None:
    asked = {(pair.chunk.text, pair.k): " ".join(words(pair.instruction)) for pair in run.pairs}
    used = Counter(asked.values())
    repeated = len(asked) - len(used)
    if len(asked) < FEWEST_PAIRS or repeated <= MOST_REPEATED * len(asked):
        return None
    often = [pair for pair in run.pairs if used[" ".join(words(pair.instruction))] > 1]
    return Alarm(
        "collapsed",
        f"{repeated} of {len(asked)} instructions repeat another, the commonest {max(used.values())} times",
        f"at most {MOST_REPEATED:.0%} repeats",
        _examples(often),
    )


def _alarm_generic(run: _Run) -> Alarm | None:
    generic = sum(item.genericness >= MOST_GENERIC for item in run.measures)
    if generic < MOST_GENERIC * len(run.measures):
        return None
    return Alarm(
        "collapsed",
        f"{generic} of {len(run.measures)} instructions fit at least half of all chunks as well as their own",
        f"fewer than {MOST_GENERIC:.0%}; an instruction should name its subject",
        run.examples(lambda item: item.genericness >= MOST_GENERIC),
    )


def _wrong_language(run: _Run) -> Alarm | None:
    wrong = Counter(item.language for item in run.measures if not item.language_ok)
    if wrong.total() <= MOST_WRONG_LANGUAGE * len(run.measures):
        return None
    asked = "that of each content" if run.instruction_language == "same" else run.instruction_language
    shown = ", ".join(f"{language} {count}" for language, count in wrong.most_common(3))
    return Alarm(
        "language",
        f"{wrong.total()} of {len(run.measures)} instructions in another language ({shown})",
        f"{asked}, in at least {1 - MOST_WRONG_LANGUAGE:.0%}",
        run.examples(lambda item: not item.language_ok),
    )


def _destroyed(run: _Run) -> Alarm | None:
    texts: dict[str, dict[str, None]] = defaultdict(dict)
    for pair in run.pairs:
        texts[pair.chunk.collection][pair.chunk.text] = None
    for collection, found in texts.items():
        looked_at = list(found)[:: len(found) // MOST_LOOKED_AT + 1]
        signs = {text: sign for text in looked_at if (sign := sign_of_loss(text))}
        if len(signs) >= EXAMPLES and len(signs) > MOST_DESTROYED * len(looked_at):
            common = Counter(signs.values()).most_common(1)[0][0]
            return Alarm(
                "destroyed",
                f"{len(signs)} of {len(looked_at)} texts of {collection} look destroyed upstream: {common}",
                "texts as their authors wrote them; look at the cleaner that filled the collection",
                tuple(shortened(text) for text in list(signs)[:EXAMPLES]),
            )
    return None


def _one_content(run: _Run) -> Alarm | None:
    contents = Counter(f"{pair.chunk.collection}/{pair.chunk.content_id}" for pair in run.pairs)
    name, count = contents.most_common(1)[0]
    if count <= MOST_OF_ONE_CONTENT * len(run.pairs):
        return None
    seen = f"content {name} has {count} of {counted(len(run.pairs), 'pair')}"
    return Alarm("one_content", seen, f"at most {MOST_OF_ONE_CONTENT:.0%}", (), "warning")


def _examples(pairs: Iterable[Pair]) -> tuple[str, ...]:
    chosen = [pair for pair, _ in zip(pairs, range(EXAMPLES), strict=False)]
    return tuple(f"{shortened(pair.instruction)} → {shortened(pair.chunk.text)}" for pair in chosen)
