"""What is decided on a pair: accepted, or rejected for one reason with its value."""

from __future__ import annotations

from dataclasses import dataclass

# Every word that may stand as a rejection's reason in a ledger.
REASONS = (
    "review", "secret", "personal_data", "boundary", "length", "language", "not_self_contained", "copied",
    "generic", "ungrounded", "too_long", "judge", "duplicate", "near_duplicate", "leak", "tied",
)  # fmt: skip


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
