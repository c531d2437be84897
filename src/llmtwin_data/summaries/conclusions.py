"""The last word of each notebook: Markdown made of its numbers, never typed by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from llmtwin_data.generation import GenerationReport, LedgerRow
from llmtwin_data.summaries.displays import Markdown, code, format_usd

if TYPE_CHECKING:
    import pandas

# A model below about 1 B parameters writes instructions that a person should not train on unread.
SMALL_MODEL = (
    "**A tiny embedded model wrote these instructions.** It has 135 million parameters and comes as a "
    "package, so that everything runs without a key. Its instructions are often vague or wrong; they show "
    "the way, they are no training data. For a real model set `OPENAI_API_KEY`, or `endpoint` and `model` "
    "in the params file, and run again."
)


def conclude_exploration(
    contents: pandas.DataFrame,
    *,
    skipped: int,
    exact: int,
    near: int,
    cost_usd: float | None,
    chunk_chars: int,
) -> Markdown:
    """Say in numbers what the collection is, what will be lost and what it will cost."""
    if contents.empty:
        return Markdown(
            f"**There is nothing to make pairs of**: 0 contents are usable, {skipped:,} were skipped. "
            "Look at `collections`, `authors` and `platforms`, or load contents with `llmtwin-data load`."
        )
    chunks, damaged = int(contents["chunks"].sum()), int((contents["damage"] != "").sum())
    cut = int((contents["characters"] > chunk_chars).sum())
    lines = [
        f"**{len(contents):,} contents** by {contents['author'].nunique():,} authors in "
        f"{contents['language'].nunique():,} languages give **{chunks:,} chunks**; {cut:,} contents are "
        f"longer than {chunk_chars:,} characters and are cut at sentence ends.",
        f"{skipped:,} are skipped, with their reasons above; {_damage_line(damaged)}.",
        f"{exact:,} chunks repeat another exactly and {near:,} nearly; curation drops their pairs, and an "
        "exact repetition is not paid twice.",
        _cost_line(cost_usd),
    ]
    return Markdown(f"{_bullets(lines)}\n\n{_exploration_params(contents, damaged)}")


def conclude_generation(
    ledger: Iterable[LedgerRow], *, sides: Sequence[str], report: GenerationReport
) -> Markdown:
    """Say in numbers what was published and what it cost."""
    states = Counter(row.state for row in ledger if row.state != "skipped")
    asked, accepted = states.total(), states["accepted"]
    if not asked:
        return Markdown("**There was nothing to ask**: no usable chunk was found; the dataset is empty.")
    train, test = (sum(side == name for side in sides) for name in ("train", "test"))
    lines = [
        f"**{accepted:,} of {asked:,} instructions are published** ({100 * accepted / asked:.1f} %): "
        f"{train:,} pairs to train on, {test:,} to test with.",
        f"{states['rejected']:,} were rejected and {states['failed']:,} failed for good; each has its row "
        "and its reason in `ledger.jsonl`.",
        f"This run sent {report.requests:,} requests for {format_usd(report.cost_usd)} USD; the same command "
        "again sends none.",
    ]
    return Markdown(_bullets(lines))


def highest_cost(forecast: pandas.DataFrame) -> float | None:
    """Give the upper end of a forecast's cost, None where a price is unknown."""
    names = [name for name in forecast.columns if "cost" in str(name)]
    if forecast.empty or not names:
        return 0.0
    costs = [_number(value) for value in forecast[names[-1]].tolist()]
    return None if None in costs else sum(cost for cost in costs if cost)


def model_notice(endpoint: str) -> Markdown:
    """Say plainly what wrote the instructions: a warning for the embedded model, one line for any other."""
    if endpoint == "embedded":
        return Markdown(f"> {SMALL_MODEL}")
    return Markdown(f"The instructions are written by the model behind {code(endpoint)}.")


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _damage_line(damaged: int) -> str:
    if not damaged:
        return "none looks destroyed upstream"
    return f"**{damaged:,} look destroyed upstream** and should be fetched again rather than trained on"


def _cost_line(cost_usd: float | None) -> str:
    if cost_usd is None:
        return "The price of the model is unknown: set `usd_per_million_input` and `usd_per_million_output`."
    if cost_usd == 0:
        return "What this run asks costs nothing with this endpoint, or is answered already."
    return f"All that is still to be asked costs at most about **{format_usd(cost_usd)} USD**."


def _exploration_params(contents: pandas.DataFrame, damaged: int) -> str:
    kinds: Sequence[str] = sorted(contents["collection"].unique())
    longest = int(contents["characters"].quantile(0.95))
    advice = f"# 95 % of the contents have at most {longest:,} characters\ncollections: [{', '.join(kinds)}]"
    note = f"\n# {damaged} contents look destroyed: fetch them again first" if damaged else ""
    return f"Params that follow from it:\n\n```yaml\n{advice}{note}\n```"


def _number(value: Any) -> float | None:
    return None if value is None or value != value else float(value)
