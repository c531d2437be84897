"""Alarms over a whole run: what was seen, what was expected, three examples."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from llmtwin_data.curation.damage import sign_of_loss
from llmtwin_data.languages import words

if TYPE_CHECKING:
    from llmtwin_data.generation import LedgerRow, Pair
    from llmtwin_data.measures import Measures

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
    checks = (_ungrounded, _collapsed, _generic, _wrong_language, _destroyed, _one_content)
    found = [alarm for check in checks if (alarm := check(run)) is not None]
    return list({alarm.name: alarm for alarm in reversed(found)}.values())[::-1]


def alarm_of_none(rows: Iterable[LedgerRow], pairs: Sequence[Pair]) -> list[Alarm]:
    """Return the alarm ``empty`` where instructions were asked for, however few, and none is accepted."""
    asked = [row for row in rows if row.state != "skipped"]
    if not asked or any(row.state == "accepted" for row in asked):
        return []
    fates = Counter(f"{row.state} {row.reason}".replace("_", " ") for row in asked)
    told = ", ".join(f"{fate} {count}" for fate, count in fates.most_common())
    return [Alarm(EMPTY, f"0 of {len(asked)} instructions accepted; {told}", "at least 1", _examples(pairs))]


def shortened(text: str) -> str:
    """Give a text as one short line."""
    line = " ".join(text.split())
    return line if len(line) <= EXAMPLE_CHARS else f"{line[:EXAMPLE_CHARS]}…"


def _ungrounded(run: _Run) -> Alarm | None:
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


def _generic(run: _Run) -> Alarm | None:
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
    seen = f"content {name} has {count} of {len(run.pairs)} pairs"
    return Alarm("one_content", seen, f"at most {MOST_OF_ONE_CONTENT:.0%}", (), "warning")


def _examples(pairs: Iterable[Pair]) -> tuple[str, ...]:
    chosen = [pair for pair, _ in zip(pairs, range(EXAMPLES), strict=False)]
    return tuple(f"{shortened(pair.instruction)} → {shortened(pair.chunk.text)}" for pair in chosen)
