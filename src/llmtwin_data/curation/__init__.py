"""Rules over measures, verdicts, reviews and near-duplicates: every rejection has its reason and value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING

import regex

from llmtwin_data.curation.copies import reject_copies
from llmtwin_data.curation.decisions import ACCEPTED, REASONS, Decision, rejected
from llmtwin_data.languages import words
from llmtwin_data.measures import Measures, copied_fractions
from llmtwin_data.screening import find_personal_data, find_secrets

if TYPE_CHECKING:
    from llmtwin_data.generation import Pair
    from llmtwin_data.judging import Verdict

__all__ = ["REASONS", "Decision", "Rules", "curate"]

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
    return None if MIN_WORDS <= found <= MAX_WORDS else f"{found} words"


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
