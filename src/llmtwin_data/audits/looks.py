"""What may be wrong with a dataset as a whole: looks at its rows, each with a name, a share, examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from llmtwin_data.audits.audited import Audited, Finding, finding_of, places_of, plain_words
from llmtwin_data.audits.crossings import asked_before, leaked
from llmtwin_data.curation import MAX_GENERIC, Rules
from llmtwin_data.curation.alarms import EXAMPLES
from llmtwin_data.measures import Measures
from llmtwin_data.measures.near_duplicates import near_duplicates
from llmtwin_data.measures.origins import coverage_of, origins_of
from llmtwin_data.screening import find_secrets

# Shares of rows up to which a decent dataset may go; 77 written instructions of the sample have none at all.
MOST_UNGROUNDED = 0.15
MOST_COPIED = 0.05
MOST_GENERIC = 0.1
MOST_DUPLICATES = 0.01
MOST_WRONG_LANGUAGE = 0.1
# Thresholds for a single row.
RULES = Rules()
# Share of contents that are reached, over what a set as large would reach by chance.
LEAST_COVERAGE = 0.7
# Shuffled pairs of the sample reach 1.3 times that share, instructions written without a text 0.7 times.
SHUFFLED_COVERAGE = 0.9


def look_at(audited: Audited) -> list[Finding]:
    """Give every look, raised or not, in a fixed order."""
    looks = (_ungrounded, _reach, _copied, _duplicates, _generic, _language, leaked, asked_before, _secrets)
    return [finding for look in looks for finding in look(audited)]


def _ungrounded(audited: Audited) -> Iterable[Finding]:
    judged = places_of(audited, lambda item: item.grounding is not None)
    strays = [place for place in judged if (audited.measures[place].grounding or 0.0) < RULES.min_grounding]
    what = "instructions fit another text of the dataset much better than their own"
    if len(strays) > MOST_UNGROUNDED * len(judged):
        what += f"; {_cause(audited, judged)}"
    unjudged, total = len(audited.rows) - len(judged), len(audited.rows)
    why = "instruction and text are in two languages and share no name"
    note = f"{unjudged} of {total} rows could not be judged: {why}" if unjudged else ""
    yield finding_of("ungrounded", what, audited, strays, len(judged), MOST_UNGROUNDED, note)


def _cause(audited: Audited, judged: Sequence[int]) -> str:
    """Tell exchanged instructions, which together reach most texts, from those written without any text."""
    reached, expected = coverage_of([audited.rows[place].instruction for place in judged], audited.texts)
    if reached >= SHUFFLED_COVERAGE * expected:
        return "together they reach the texts, as shuffled pairs do"
    return "together they reach few texts, as if the source was missing from the prompt"


def _reach(audited: Audited) -> Iterable[Finding]:
    """Where texts are not the contents' own, ask whether they could have been written from them."""
    if not audited.contents or len(audited.rows) < 2:
        return
    origins = origins_of(audited.texts, audited.contents)
    if 2 * origins.count(None) <= len(origins):
        return
    exchanges = [f"{row.instruction}\n{row.text}" for row in audited.rows]
    reached, expected = coverage_of(exchanges, [content.text for content in audited.contents])
    what = "contents that so many rows should reach are reached by none, as if the source was missing"
    missed = max(round(expected) - reached, 0)
    yield Finding("ungrounded", what, missed, round(expected), 1 - LEAST_COVERAGE)


def _copied(audited: Audited) -> Iterable[Finding]:
    copies = places_of(
        audited, lambda item: max(item.copied_instruction, item.copied_content) > RULES.max_copied
    )
    what = "instructions quote the text that answers them"
    yield finding_of("copied", what, audited, copies, len(audited.rows), MOST_COPIED)


def _duplicates(audited: Audited) -> Iterable[Finding]:
    seen: Counter[str] = Counter()
    repeats = []
    for place, row in enumerate(audited.rows):
        seen[plain_words(row)] += 1
        if seen[plain_words(row)] > 1:
            repeats.append(place)
    what = "instructions repeat an earlier one word for word"
    yield finding_of("duplicates", what, audited, repeats, len(audited.rows), MOST_DUPLICATES)
    copies = near_duplicates(audited.texts, threshold=RULES.near_duplicate)
    rows = [place for place, owner in enumerate(audited.owners) if copies[owner] is not None]
    what = "rows hold a text that nearly copies an earlier one"
    yield finding_of("duplicates", what, audited, rows, len(audited.rows), MOST_DUPLICATES)


def _generic(audited: Audited) -> Iterable[Finding]:
    empty = [n for n, row in enumerate(audited.rows) if not (row.instruction.strip() and row.text.strip())]
    what = "rows have an empty instruction or content"
    yield finding_of("generic", what, audited, empty, len(audited.rows), 0.0)
    fits_all = places_of(audited, lambda item: item.genericness > MAX_GENERIC)
    what = f"instructions fit more than {MAX_GENERIC:.0%} of all texts as well as the one they fit best"
    yield finding_of("generic", what, audited, fits_all, len(audited.rows), MOST_GENERIC)
    leaning = places_of(audited, lambda item: not item.self_contained)
    what = 'instructions lean on a text that their reader does not see ("the extract")'
    yield finding_of("generic", what, audited, leaning, len(audited.rows), MOST_GENERIC)


def _language(audited: Audited) -> Iterable[Finding]:
    """One language throughout is a choice, also where texts have another; a mixture is not."""
    told = Counter(item.language for item in audited.measures if item.language != "und")
    chosen, times = told.most_common(1)[0] if told else ("und", 0)
    kept = chosen if times >= (1 - MOST_WRONG_LANGUAGE) * told.total() else ""
    wrong = places_of(audited, lambda item: not item.language_ok and not _is_choice(item, kept))
    what = "instructions are in another language than their text"
    yield finding_of("language", what, audited, wrong, len(audited.rows), MOST_WRONG_LANGUAGE)


def _is_choice(measured: Measures, kept: str) -> bool:
    """Tell whether the language is the set's own; the other Chinese script is a model's habit, no choice."""
    spoken, asked = measured.language.split("-")[0], measured.language_asked.split("-")[0]
    return measured.language == kept and spoken != asked


def _secrets(audited: Audited) -> Iterable[Finding]:
    texts = {number for number, text in enumerate(audited.texts) if find_secrets(text)}
    owned = zip(audited.rows, audited.owners, strict=True)
    rows = [row for row, owner in owned if owner in texts or find_secrets(row.instruction)]
    places = tuple(row.place for row in rows[:EXAMPLES])
    yield Finding("secrets", "rows hold a key, token or password", len(rows), len(audited.rows), 0.0, places)
