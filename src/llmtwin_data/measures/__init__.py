"""Numbers about instruction pairs that need no LLM: grounding, copying, genericness, language, length."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmtwin_data.languages import (
    WINDOW_WORDS,
    estimate_tokens,
    language_matches,
    language_of,
    normal_form,
    script_of,
    words,
)
from llmtwin_data.measures.grounding import ChunkIndex, Grounding
from llmtwin_data.measures.references import leans_on_text
from llmtwin_data.measures.swaps import find_swapped, ground_among, weigh_among

__all__ = [
    "Measures",
    "choose_candidate",
    "copied_fractions",
    "find_swapped",
    "ground_among",
    "measure_pairs",
]

# Characters of a content that its language and script are read from.
LANGUAGE_CHARS = 200
# Words; a candidate outside of this is a fragment or an essay, not a request.
CANDIDATE_WORDS = (4, 80)
# Share of different words; a small model that loops falls below ("a phone, a phone, a phone").
FRESH_WORDS = 0.5


@dataclass(frozen=True, slots=True)
class Measures:
    """What is measured of one pair.

    ========================  ==================  ===========================================================
    field                     range               what
    ========================  ==================  ===========================================================
    ``grounding``             0.0 to 1.0, None    own chunk's BM25 score over the best chunk's; None where
                                                  nothing can be compared: two languages, no common name
    ``grounding_rank``        from 1, None        place of the own chunk among all, equal scores share one
    ``grounding_margin``      -1.0 to 1.0, None   own minus best other score, over the larger
    ``copied_instruction``    0.0 to 1.0          share of the instruction's 8-word windows in its chunk
    ``copied_content``        0.0 to 1.0          share of the chunk's 8-word windows in the instruction
    ``genericness``           0.0 to 1.0          share of other chunks scoring 0.9 or more of the best score
    ``repeats``               from 0              other instructions with the same words in the same order
    ``language``              BCP 47, und         of the instruction; ``language_asked`` of what was asked
    ``characters``            from 0              code points of the instruction
    ``tokens``                from 0              estimated tokens of instruction and chunk together
    ``self_contained``                            leans on no text that its reader does not see
    ========================  ==================  ===========================================================

    Sources: BM25 in `grounding`; windows of words as in the overlap check of Brown et al. 2020 (13 words),
    shortened to the length of an instruction; phrases in `references`. Floats have four decimals.
    """

    grounding: float | None
    grounding_rank: int | None
    grounding_margin: float | None
    copied_instruction: float
    copied_content: float
    genericness: float
    repeats: int
    language: str
    language_asked: str
    language_ok: bool
    characters: int
    tokens: int
    self_contained: bool

    @property
    def copied(self) -> float:
        """What ``max_copied`` limits: the larger share of words that one has from the other."""
        return max(self.copied_instruction, self.copied_content)


def measure_pairs(
    instructions: Sequence[str], owners: Sequence[int], texts: Sequence[str], *, asked_language: str
) -> list[Measures]:
    """Measure each instruction against the chunk it was written for and against all chunks.

    Parameters
    ----------
    owners
        For each instruction the position of its chunk in ``texts``.
    texts
        All chunks; read once, in order, so they may stay on disk.
    asked_language
        A BCP 47 tag, or ``same`` for the language of each chunk.
    """
    written = defaultdict(list)
    for position, owner in enumerate(owners):
        written[owner].append(position)
    index, alone = ChunkIndex(instructions), dict[int, dict[str, Any]]()
    for place, text in enumerate(texts):
        index.add(text)
        for position in written.get(place, ()):
            alone[position] = _measure_alone(instructions[position], text, asked_language)
    spoken = [" ".join(words(instruction)) for instruction in instructions]
    uttered = Counter(spoken)
    grounded = index.ground(owners)
    return [
        Measures(
            **_grounded(grounding, foreign=alone[position].pop("foreign")),
            **alone[position],
            repeats=uttered[said] - 1,
        )
        for position, (grounding, said) in enumerate(zip(grounded, spoken, strict=True))
    ]


def copied_fractions(instruction: str, content: str) -> tuple[float, float]:
    """Give the share of the instruction's 8-word windows found in the content, and of the content's in it."""
    asked, told = _spoken(instruction), _spoken(content)
    back = _copied(asked, told)
    return back, _copied(told, asked) if back or len(told) < WINDOW_WORDS else 0.0


def choose_candidate(
    candidates: Sequence[str], own: str, others: Sequence[str], *, prompt_words: str = ""
) -> int:
    """Give the position of the candidate that is a request, not a quotation, and fits its own chunk best.

    Judged by the chunk ``own`` and these others only, so that the choice can be stored with the answer; of
    those that fit it equally well, the one that shares most telling words with it.

    Parameters
    ----------
    prompt_words
        What the model was told; a candidate that repeats it, as small models do with examples, is no request.
    """
    ranked = [
        (_is_request(candidate, own, prompt_words), *weigh_among(candidate, own, others), -place)
        for place, candidate in enumerate(candidates)
    ]
    return -max(ranked)[3]


def _is_request(candidate: str, own: str, prompt_words: str) -> bool:
    said, (least, most) = words(candidate), CANDIDATE_WORDS
    fits = least <= len(said) <= most and len(set(said)) >= FRESH_WORDS * len(said)
    copied = max(*copied_fractions(candidate, own), copied_fractions(candidate, prompt_words)[0])
    return fits and copied < 0.5 and not leans_on_text(candidate)


def _measure_alone(instruction: str, text: str, asked_language: str) -> dict[str, Any]:
    copied_instruction, copied_content = copied_fractions(instruction, text)
    opening = text[:LANGUAGE_CHARS]
    found, own = language_of(instruction), language_of(opening)
    asked = own if asked_language == "same" else asked_language
    return {
        "copied_instruction": copied_instruction,
        "copied_content": copied_content,
        "language": found,
        "language_asked": asked,
        "language_ok": language_matches(found, asked),
        "characters": len(instruction),
        "tokens": estimate_tokens(instruction) + estimate_tokens(text),
        "self_contained": not leans_on_text(instruction),
        "foreign": _is_foreign((instruction, found), (opening, own)),
    }


def _is_foreign(one: tuple[str, str], other: tuple[str, str]) -> bool:
    """Tell whether two texts, each with its language, may have no word in common."""
    if "und" not in (one[1], other[1]):
        return not language_matches(one[1], other[1])
    # Hant, Hans and Hani (either) share most characters.
    scripts = {script_of(text).replace("Hant", "Hani").replace("Hans", "Hani") for text, _ in (one, other)}
    return len(scripts) > 1


def _grounded(grounding: Grounding, *, foreign: bool) -> dict[str, Any]:
    """Across languages only names and numbers can be found again; none found says nothing."""
    if foreign and grounding.score == 0:
        return {"grounding": None, "grounding_rank": None, "grounding_margin": None, "genericness": 0.0}
    return {
        "grounding": grounding.score,
        "grounding_rank": grounding.rank,
        "grounding_margin": grounding.margin,
        "genericness": grounding.genericness,
    }


def _spoken(text: str) -> list[str]:
    """Give the words as a reader sees them: without characters that only hide a quotation."""
    return words(text if text.isascii() else normal_form(text))


def _copied(inner: Sequence[str], outer: Sequence[str]) -> float:
    """Look windows up as pieces of one line, which is faster than hashing those of the longer text."""
    size = min(WINDOW_WORDS, len(inner))
    line = f" {' '.join(outer)} "
    windows = {" ".join(inner[start : start + size]) for start in range(len(inner) - size + 1)} - {""}
    return round(sum(f" {window} " in line for window in windows) / max(len(windows), 1), 4)
