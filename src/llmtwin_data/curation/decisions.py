"""What is decided on a pair: accepted, or rejected for one reason with its value."""

from __future__ import annotations

from dataclasses import dataclass

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
