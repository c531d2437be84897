"""Which trial wins, whether the difference is real, and the lines that follow for the params file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from llmtwin_data.summaries.displays import Markdown, code, in_usd
from llmtwin_data.summaries.leaderboards import FACTORS, Trial, cost_of, interval, rank, usable

# Contents. Five that all fall on one side do so by chance in 1 of 16 cases, six in 1 of 32; a bootstrap over
# so few would call either certain.
FEWEST_DIFFERENT = 6


@dataclass(frozen=True, slots=True)
class Duel:
    """The two best of the trials that differ in one factor alone: how much more is usable, of 0 to 1."""

    factor: str
    winner: Trial
    other: Trial
    difference: float
    low: float
    high: float
    different: int  # contents whose usable share differs

    @property
    def is_real(self) -> bool:
        """Whether the 95 % interval is above zero, and enough contents differ to believe it."""
        return self.low > 0 and self.different >= FEWEST_DIFFERENT


def duels(trials: Sequence[Trial], *, seed: int) -> list[Duel]:
    """Compare the two best for each thing that varies, content by content, one thing at a time."""
    return [_duel(factor, *pair, seed=seed) for factor in FACTORS for pair in _best_two(trials, factor)]


def conclude_tuning(trials: Sequence[Trial], batch_trials: Sequence[Trial] = (), *, seed: int) -> Markdown:
    """Say what wins, whether the differences are real, and the lines for the params file."""
    if not trials or not trials[0].chunks:
        return Markdown("**There was nothing to compare**: no usable chunk, or no prompt, was found.")
    best, fought = rank(trials)[0], duels(trials, seed=seed)
    batches = duels(batch_trials, seed=seed)
    lines = [_verdict(duel) for duel in [*fought, *batches]]
    lines += [] if fought else [f"Only {code(best.prompt)} was tried, so no prompts were compared."]
    judged = "; the judge's verdicts come on top" if best.verdicts else ""
    cost = f"The instructions of 1,000 accepted pairs cost {_usd(best)} with the lines below{judged}."
    lines += [cost, *_untried(best, fought)]
    lines.append("What was answered here is stored: notebook 3 pays for none of it again.")
    bullets = "\n".join(f"- {line}" for line in lines)
    return Markdown(f"{bullets}\n\nFor the params file:\n\n```yaml\n{_params(best, fought, batches)}```")


def _best_two(trials: Sequence[Trial], factor: str) -> Iterator[tuple[Trial, Trial]]:
    groups: defaultdict[tuple[Any, ...], list[Trial]] = defaultdict(list)
    for trial in rank(trials):
        groups[tuple(getattr(trial, other) for other in FACTORS if other != factor)].append(trial)
    return ((group[0], group[1]) for group in groups.values() if len(group) > 1)


def _duel(factor: str, winner: Trial, other: Trial, *, seed: int) -> Duel:
    difference = usable(winner) - usable(other)
    low, high = interval(difference, np.ones(len(difference)), seed)
    different = int(np.count_nonzero(difference))
    return Duel(factor, winner, other, float(difference.mean()), low, high, different)


def _verdict(duel: Duel) -> str:
    winner, other = (code(getattr(trial, duel.factor)) for trial in (duel.winner, duel.other))
    subject, contents = duel.factor.replace("_", " ").capitalize(), f"{len(duel.winner.chunks):,} contents"
    span = f"95 % interval {100 * duel.low:+.1f} to {100 * duel.high:+.1f}"
    said = f"{subject}: {winner} beats {other} by {100 * duel.difference:.1f} points of usable pairs ({span})"
    if duel.is_real:
        return f"**{said}. The difference is real** on these {contents}."
    costs = " against ".join(_usd(trial) for trial in (duel.winner, duel.other))
    spent = f"{costs} for the instructions of 1,000 accepted pairs"
    choose = f"Choose by reading and by cost ({spent}), or raise `tune_sample`."
    if duel.difference == 0:
        return f"**{subject}: {winner} and {other} give equally many usable pairs** of {contents}. {choose}"
    why = "the interval holds zero" if duel.low <= 0 else f"only {duel.different} contents tell them apart"
    return f"**{said}. The difference may be chance**: {why} on these {contents}. {choose}"


def _usd(trial: Trial) -> str:
    cost = cost_of(trial)
    return "an unknown sum" if cost is None else in_usd(cost)


def _untried(best: Trial, fought: Sequence[Duel]) -> list[str]:
    """Name what won beside another prompt or model than the best trial's, and so was not tried with it."""
    return [
        f"{code(getattr(duel.winner, duel.factor))} won among its like, but was not tried with the lines "
        "below; put them in and run this notebook again to see whether it still does."
        for duel in fought
        if getattr(duel.winner, duel.factor) != getattr(best, duel.factor)
    ]


def _params(best: Trial, fought: Sequence[Duel], batches: Sequence[Duel]) -> str:
    """Give the lines of the best trial, as it was tried; and a batch size if it is really better."""
    keys = ["prompt", *(FACTORS[duel.factor] for duel in fought if duel.factor != "prompt")]
    lines = {key: best.given[key] for key in keys if key in best.given}
    lines |= {FACTORS[duel.factor]: duel.winner.batch_size for duel in batches if duel.is_real}
    return yaml.safe_dump(lines, sort_keys=False, allow_unicode=True)
