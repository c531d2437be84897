"""The last word of each notebook: Markdown made of its numbers, never typed by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmtwin_data.endpoints.embedded import PACKAGED
from llmtwin_data.generation import LedgerRow
from llmtwin_data.summaries import UNCLEAR
from llmtwin_data.summaries.displays import Markdown, code, format_usd, in_usd
from llmtwin_data.summaries.run_tables import spent

if TYPE_CHECKING:
    import pandas

    from llmtwin_data.endpoints import Endpoint
    from llmtwin_data.params import Params

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
    settings: Params,
    personal: int = 0,
) -> Markdown:
    """Say in numbers what the collection is, what will be lost, what it will cost, and the params for it.

    Parameters
    ----------
    personal
        Findings of secret or personal data that are sent and published as they are.
    """
    if contents.empty:
        return Markdown(
            f"**There is nothing to make pairs of**: 0 contents are usable, {skipped:,} were skipped. "
            "Look at `collections`, `authors` and `platforms`, or load contents with `llmtwin-data load`."
        )
    chunks, damaged = int(contents["chunks"].sum()), int((contents["damage"] != "").sum())
    cut = int((contents["characters"] > settings.chunk_chars).sum())
    languages = len({*contents["language"]} - {UNCLEAR})
    lines = [
        f"**{len(contents):,} contents** by {contents['author'].nunique():,} authors in "
        f"{languages:,} languages give **{chunks:,} chunks**; {cut:,} contents are "
        f"longer than {settings.chunk_chars:,} characters and are cut at sentence ends.",
        f"{skipped:,} are skipped, with their reasons above; {_damage_line(damaged)}.",
        f"{exact:,} chunks repeat another exactly and {near:,} nearly; curation drops their pairs, and an "
        "exact repetition is not paid twice.",
        _cost_line(cost_usd),
    ]
    params = "\n".join(_exploration_params(contents, settings, cost_usd, personal))
    return Markdown(f"{_bullets(lines)}\n\nParams that follow from it:\n\n```yaml\n{params}\n```")


def conclude_generation(
    ledger: Iterable[LedgerRow], *, sides: Sequence[str], fields: Mapping[str, Any]
) -> Markdown:
    """Say in numbers what was published, and what the run cost by ``fields``, its run.json."""
    states = Counter(row.state for row in ledger if row.state != "skipped")
    asked, accepted = states.total(), states["accepted"]
    if not asked:
        return Markdown("**There was nothing to ask**: no usable chunk was found; the dataset is empty.")
    train, test = (sum(side == name for side in sides) for name in ("train", "test"))
    total = spent(fields.get("asked", {}).values())
    lines = [
        f"**{accepted:,} of {asked:,} instructions are published** ({100 * accepted / asked:.1f} %): "
        f"{train:,} pairs to train on, {test:,} to test with.",
        f"{states['rejected']:,} were rejected and {states['failed']:,} failed for good; each has its row "
        "and its reason in `ledger.jsonl`.",
        f"Tuning and judging included, this run sent {total['requests']:,} requests "
        f"(cost: {in_usd(total['cost_usd'])}); the same command again sends none.",
    ]
    return Markdown(_bullets(lines))


def highest_cost(forecast: pandas.DataFrame) -> float | None:
    """Give the upper end of a forecast's cost, None where a price is unknown."""
    names = [name for name in forecast.columns if "cost" in str(name)]
    if forecast.empty or not names:
        return 0.0
    costs = [_number(value) for value in forecast[names[-1]].tolist()]
    return None if None in costs else sum(cost for cost in costs if cost)


def model_notice(endpoint: Endpoint, forecast: pandas.DataFrame) -> Markdown:
    """Say who is asked and how much, and plainly what the packaged model is."""
    requests = int(forecast["requests"].sum())
    who = f"Endpoint {code(endpoint.identity)}, model {code(endpoint.model)}"
    is_small = (endpoint.identity, endpoint.model) == ("embedded", PACKAGED)
    return Markdown(f"{who}: {requests:,} requests to send." + (f"\n\n> {SMALL_MODEL}" if is_small else ""))


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


def _exploration_params(
    contents: pandas.DataFrame, settings: Params, cost_usd: float | None, personal: int
) -> Iterator[str]:
    """Give lines of a params file, each with the number that it follows from."""
    longest = int(contents["characters"].quantile(0.95))
    yield f"collections: [{', '.join(settings.collections)}]  # {len(contents):,} contents"
    yield f"chunk_chars: {settings.chunk_chars}  # 95 % of the contents have at most {longest:,} characters"
    if personal:
        yield f"personal_data: mask  # {personal:,} findings would be sent and published as they are"
    if cost_usd:
        yield f"max_cost_usd: {format_usd(1.2 * cost_usd)}  # the forecast's upper end and a fifth"


def _number(value: Any) -> float | None:
    return None if value is None or value != value else float(value)
