"""The sequence, from what Qdrant holds to a dataset; no row is ever dropped."""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from llmtwin_data import contents, curation, embeddings, judging, measures, prices
from llmtwin_data.answers import AnswerStore, Note, vectors_of
from llmtwin_data.batches import BatchSession
from llmtwin_data.cluster import HERE, blocks, check_cluster, processes, workers_of
from llmtwin_data.contents import PLACE, places_of, records_of, row_id, rows_of, screened_counts, with_columns
from llmtwin_data.curation import EMPTY, RULES, Alarm
from llmtwin_data.datasets import ledger_totals, publish_dataset, run_fields, seal_run, write_ledger
from llmtwin_data.endpoints import (
    Endpoint,
    endpoint_of,
    is_named,
    is_packaged,
    model_identity,
    serving,
    with_embeddings,
    with_model,
)
from llmtwin_data.engine import Asking, GenerationReport, LiveSession, Session, ask
from llmtwin_data.errors import RUN_STATES, ParamsError, QualityGate, RunIncomplete, exit_code_of
from llmtwin_data.folders import (
    PROMPTS,
    RunFolder,
    new_run_dir,
    now,
    process_of,
    project_path,
    resolve,
    run_lock,
)
from llmtwin_data.lineage import previous_sides, remember, version_of
from llmtwin_data.measures import measured_counts
from llmtwin_data.params import Params, read_environ, withheld_key
from llmtwin_data.partitions import FEWEST_QUESTIONS, PartedSession
from llmtwin_data.prompts import EMBEDDINGS, Kind, Question, Recipe, answer_key, key_of, load_template
from llmtwin_data.reviews import labels_of, read_reviews, reviews_file, with_reviews
from llmtwin_data.sources import Source, open_source, source_address
from llmtwin_data.splits import with_sides as with_sides
from llmtwin_data.tables import SMALL_MODEL, write_pairs
from llmtwin_data.texts import NORMAL_FORM, text_sha256

# Chunks that are asked about, and looked at, before the rest is paid for.
PILOT_CHUNKS = 32
JUDGE_TEMPLATE = "judge"
# Texts in one request for vectors: what servers of one's own take at most by default.
EMBEDDED_TOGETHER = 32
COSTS = ["requests", "prompt_tokens", "completion_tokens", "cost_usd"]
# Set for the kernel by the driver's `--retry-failed`.
RETRY_FAILED = "LLMTWIN_RETRY_FAILED"
# What is computed, and not asked; the driver says how far it is.
VECTORS = "vectors"
# The params that `engine.Asking` takes as they are.
ASKED_BY = ("batch_size", "concurrency", "timeout_seconds", "requests_per_minute", "max_cost_usd", "seed")
# Seconds between two entries in run.json; each is a durable write.
STATE_EVERY = 2.0
# Seconds between two drawings of the bar, so that a log of any length stays small (N11).
DRAW_EVERY = 1.0
# The versions that show in a result; the lock file names all others.
SHOWING = [
    *("llmtwin_data", "qdrant-client", "qdrant-edge-py", "openai", "aiohttp", "xllamacpp", "papermill"),
    "genai-prices",
]


def open_study(
    settings: Params, *, environ: Mapping[str, str] | None = None
) -> tuple[Params, Source, Endpoint, AnswerStore]:
    """Return the settings with each value resolved, and what they name: source, endpoint and store.

    Nothing is read or sent, but for the list of models where an address is named without a model. Raises
    ParamsError, KeyRejected or DiskFailed for what cannot be used.
    """
    environ = read_environ() if environ is None else environ
    check_cluster(settings.cluster)
    endpoint = endpoint_of(settings.endpoint, model=settings.model, environ=environ)
    with_embeddings(endpoint, settings.embedding_model)
    address = source_address(settings.qdrant, environ=environ)
    changes: dict[str, Any] = {"qdrant": address, "endpoint": endpoint.identity}
    changes["model"] = settings.model or endpoint.model
    changes["run_dir"] = settings.run_dir or project_path(new_run_dir("notebook"))
    if endpoint.identity == "embedded":  # it has one slot; what is not the default stays
        names = ("batch_size", "concurrency")
        changes |= {name: 1 for name in names if getattr(settings, name) == getattr(Params(), name)}
    settings = replace(settings, **changes)
    source = open_source(address, api_key=environ.get("QDRANT_API_KEY", ""))
    store = AnswerStore(resolve(settings.answers))
    store.retries = bool(environ.get(RETRY_FAILED))
    addresses = {"QDRANT_API_KEY": address, "OPENAI_API_KEY": endpoint.base_url}
    withheld = [withheld_key(url, name, environ=environ) for name, url in addresses.items()]
    for line in filter(None, [*withheld, *store.notes]):
        run_of(settings).note(line)
    return settings, source, endpoint, store


def read_chunks(source: Source, settings: Params, store: AnswerStore) -> pd.DataFrame:
    """Return the table of chunks, see `contents.read_chunks`.

    ``attrs["destroyed"]`` says in a sentence that texts look destroyed, empty where they look whole.
    """
    pieces_of, forgotten = _own_pieces(settings, store), store.forgotten_hashes()
    chunks = contents.read_chunks(
        source, settings, forgotten=forgotten, answered=lambda it: [piece[:3] for piece in pieces_of(it)]
    )
    waiting = chunks.loc[chunks.state == "pending", ["collection", "content"]]
    alarm = curation.destroyed(waiting, workers=workers_of(len(waiting), settings.cluster))
    chunks.attrs["destroyed"] = f"destroyed: found {alarm.seen}; expected {alarm.expected}" if alarm else ""
    return chunks


def _own_pieces(settings: Params, store: AnswerStore) -> Callable[[Any], list[tuple[Any, ...]]]:
    """Return what tells the pieces of a row's content answered by these settings: start, end, hash, key."""
    stored, recipe = store.answered(), recipe_maker(settings)

    def pieces_of(row: Any) -> list[tuple[Any, ...]]:
        of_content = stored.get((row.collection, row.content_id), [])
        own = recipe(row.data_type).sha256 if of_content else ""
        return [piece for piece in of_content if piece[3] == key_of(piece[2], own)]

    return pieces_of


class Step(NamedTuple):
    """What one step of a study asks: a question about each row, by these settings, of this endpoint."""

    what: str
    rows: pd.DataFrame
    make: Callable[[Any], Question]
    settings: Params
    endpoint: Endpoint


def instructions_step(chunks: pd.DataFrame, settings: Params, endpoint: Endpoint, *, trial: str = "") -> Step:
    """Return what asks for instructions; the answers of a named trial are its own."""
    waiting, make = chunks[chunks.state == "pending"], question_maker(settings, trial=trial)
    return Step("instructions", waiting, make, settings, with_model(endpoint, settings.model))


def verdicts_step(ledger: pd.DataFrame, settings: Params, endpoint: Endpoint) -> Step:
    """Return what asks the judge about every pair."""
    pairs, judge = ledger[ledger.instruction.notna()], with_model(endpoint, settings.judge_model)
    return Step("verdicts", pairs, verdict_maker(settings), settings, judge)


def embeddings_step(ledger: pd.DataFrame, texts: Iterable[str], settings: Params, endpoint: Endpoint) -> Step:
    """Return what asks for the vectors of these texts, which are contents and instructions of the table."""
    chunks = ledger[ledger.k == 1]
    rows = pd.concat([chunks.assign(text=chunks.content), ledger.assign(text=ledger.instruction)])
    rows = rows[rows.text.isin(set(texts))]
    together = replace(settings, batch_size=EMBEDDED_TOGETHER, candidates=1, mode="live")
    embedder, recipe = with_embeddings(endpoint, settings.embedding_model), _embedding_recipe(settings)
    return Step("embeddings", rows, lambda row: question_of(row, recipe, row.text), together, embedder)


def steps_of(
    chunks: pd.DataFrame, settings: Params, endpoint: Endpoint, store: AnswerStore, *, trial: str = ""
) -> Iterator[Step]:
    """Return what will be asked about these chunks, verdicts and vectors of what comes back included.

    What is asked again because its content was cut anew is a step by itself.
    """
    step = instructions_step(chunks, settings, endpoint, trial=trial)
    # The answers of a trial are under keys of its own, which tell nothing of cuts.
    again = np.zeros(len(step.rows), dtype=bool) if trial else _cut_anew(step, store)
    yield step._replace(rows=step.rows[~again])
    yield step._replace(what=f"{step.what}: again, for their contents are cut anew", rows=step.rows[again])
    if settings.judge_model or is_named(settings.embedding_model):
        ledger = with_answers(chunks, settings, store, trial=trial)
        # Of what is not written yet, words may measure all or nothing: the key stands for it.
        to_come = ledger.answer_key.where(ledger.state == "pending")
        ledger = ledger.assign(instruction=ledger.instruction.fillna(to_come))
        if settings.judge_model:
            yield verdicts_step(ledger, settings, endpoint)
        if is_named(settings.embedding_model):
            texts = list[str]()
            with_measures(ledger, settings, store, before=texts.extend)
            yield embeddings_step(ledger, texts, settings, endpoint)


def _cut_anew(step: Step, store: AnswerStore) -> NDArray[np.bool_]:
    """Return which chunks are asked about though their contents are answered, in other cuts."""
    pieces_of, again = _own_pieces(step.settings, store), []
    for row in rows_of(step.rows):
        here = {digest for start, end, digest, _ in pieces_of(row) if start < row.end and row.start < end}
        again.append(bool(here) and text_sha256(row.content) not in here)
    return np.array(again, dtype=bool)


def forecast(chunks: pd.DataFrame, settings: Params, endpoint: Endpoint, store: AnswerStore) -> pd.DataFrame:
    """Return what asking about these chunks, and judging what comes back, will take and cost."""
    return forecast_steps(steps_of(chunks, settings, endpoint, store), store.settled)


def forecast_steps(
    steps: Iterable[Step], answered: Callable[[Sequence[str]], Container[str]]
) -> pd.DataFrame:
    """Return what steps will take, one after another; what one will have asked, the next finds stored.

    A row a step, collection and data type: ``what``, and the columns of `prices.forecast`.
    """
    seen = set[int]()
    parts = [
        prices.forecast(
            map(step.make, rows_of(step.rows)),
            answered=answered,
            price=price_for(step.settings, step.endpoint),
            batch_size=step.settings.batch_size,
            seen=seen,
            one_by_one=step.endpoint.identity == "embedded",
        ).assign(what=step.what)
        for step in steps
    ]
    forecast = pd.concat(parts, ignore_index=True)
    return forecast[["what", *forecast.columns.drop("what")]]


def announce(forecast: pd.DataFrame, settings: Params) -> None:
    """Keep in run.json what the steps that were not forecast yet will take; the driver says it."""
    run = run_of(settings)
    known = run.read().get("forecast", {})
    groups = forecast.groupby(forecast.what.str.split(":").str[0], sort=False)
    new = {step: prices.add_up(rows) for step, rows in groups if step not in known}
    run.update(forecast=known | new)
    for step, total in (new | ({"all": prices.add_up(new.values())} if len(new) > 1 else {})).items():
        # Where all is stored one line a step says so.
        if total["requests"] or step not in ("all", prices.REFINED):
            run.note(f"Forecast of {step}: {prices.forecast_words(total)}", aloud=False)


def narrowed(
    forecast: pd.DataFrame, pilot: pd.DataFrame, settings: Params, endpoint: Endpoint
) -> pd.DataFrame:
    """Return the forecast of the instructions as it becomes by what a pilot took; ``pilot`` is its ledger."""
    rows = forecast[forecast.what.str.startswith("instructions")].assign(what=prices.REFINED)
    chunks = pilot[(pilot.k == 1) & pilot.state.isin(["accepted", "rejected", "failed"])]
    step = Step("pilot", chunks, question_maker(settings), settings, endpoint)
    rough, sides = forecast_steps([step], lambda keys: ()), ["prompt_tokens", "completion_tokens"]
    if rough.empty:
        return rows
    tokens = rows[sides] * (pilot[sides].sum() / rough[sides].sum())
    cost = prices.cost_usd(price_for(settings, endpoint), *(tokens[side] for side in sides))
    low, high = (None if cost is None else cost * (1 + way * prices.ESTIMATE_ERROR) for way in (-1, 1))
    table = rows.assign(**tokens.round().astype(int), cost_usd_low=low, cost_usd_high=high)
    return table.astype(dict.fromkeys(prices.COSTS, float))


def price_for(settings: Params, endpoint: Endpoint) -> prices.Price:
    """Return the price of the endpoint's model: a list's, or for ``model`` that of the params."""
    of_model: dict[str, Any] = {"base_url": endpoint.identity, "batch": settings.mode == "batch"}
    listed = prices.price_of(endpoint.model, **of_model)
    if endpoint.model != settings.model and listed.is_known:
        return listed
    names = ("usd_per_million_input", "usd_per_million_output")
    return prices.price_of(endpoint.model, **of_model, **{name: getattr(settings, name) for name in names})


def check_limit(chunks: pd.DataFrame, settings: Params, endpoint: Endpoint, store: AnswerStore) -> None:
    """Raise ParamsError if ``max_cost_usd`` needs a price, or does not pay for the first request."""
    if not settings.max_cost_usd:
        return
    check_prices(settings, endpoint)
    first = instructions_step(chunks[chunks.state == "pending"].head(settings.batch_size), settings, endpoint)
    lowest = float(forecast_steps([first], store.settled).cost_usd_low.fillna(0).sum())
    if lowest > settings.max_cost_usd:
        raise ParamsError(
            f"max_cost_usd: expected at least {prices.format_usd(lowest)} USD, the lowest estimate for the "
            f"first request, found {settings.max_cost_usd:g}; give a higher limit, or a smaller batch_size"
        )


def check_prices(settings: Params, endpoint: Endpoint) -> None:
    """Raise ParamsError if there is a limit, and a model has no known price by which it could hold."""
    embedder = settings.embedding_model if is_named(settings.embedding_model) else ""
    for model in filter(None, (settings.model or endpoint.model, settings.judge_model, embedder)):
        price = price_for(settings, with_model(endpoint, model))
        prices.check_price(price, model=model, max_cost_usd=settings.max_cost_usd)


def ask_instructions(
    chunks: pd.DataFrame, settings: Params, endpoint: Endpoint, store: AnswerStore
) -> GenerationReport:
    """Ask for the instructions of every chunk whose answer is not stored; it spends, and can be run again.

    Raises as `check_limit` and `ask_step` do.
    """
    check_limit(chunks, settings, endpoint, store)
    return ask_step(instructions_step(chunks, settings, endpoint), store)


def ask_pilot(chunks: pd.DataFrame, settings: Params, endpoint: Endpoint, store: AnswerStore) -> pd.DataFrame:
    """Ask about the first chunks, to be looked at before the rest is paid for, and return them.

    Where ``quality_gate`` is ``warn`` the look cannot stop the run, so all are asked about at once; not in a
    batch, whose lines are all paid before the first answer is read.
    """
    pilot = chunks.head(PILOT_CHUNKS)
    waits = settings.quality_gate == "stop" or settings.mode == "batch"
    ask_instructions(pilot if waits else chunks, settings, endpoint, store)
    return pilot


def ask_verdicts(ledger: pd.DataFrame, settings: Params, endpoint: Endpoint, store: AnswerStore) -> None:
    """Ask the judge about every pair that has no stored verdict; nothing where ``judge_model`` is empty."""
    if settings.judge_model:
        ask_step(verdicts_step(ledger, settings, endpoint), store)


def ask_step(step: Step, store: AnswerStore) -> GenerationReport:
    """Ask the question of each row that has no stored answer; keep in run.json what it took.

    Raises QualityGate where texts look destroyed and ``quality_gate`` is ``stop``: nothing was sent; and
    RunIncomplete where some are pending: what was answered is stored.
    """
    what, rows, make, settings, endpoint = step
    run, damage = run_of(settings), rows.attrs.get("destroyed", "")
    with recorded(run):
        if damage and settings.quality_gate == "stop":
            raise QualityGate(f"{damage}\nnothing was asked; mend the texts, or set quality_gate: warn")
        if damage:
            run.note(damage)
        if what == "instructions":  # a trial's settings are not the run's
            run.update(state="running", **_resolved(settings, endpoint))
        encode = embeddings.encode_packaged if settings.embedding_model != "off" else None
        reference = rows.attrs.get("reference", ()) if settings.candidates > 1 else ()
        spent, pledged = _begin_asking(run, store) if settings.max_cost_usd else (0.0, None)
        asking = Asking(
            price=price_for(settings, endpoint),
            spent_usd=spent,
            pledge=pledged.pledge if pledged else None,
            patience=endpoint.patience,
            reference=tuple(reference),
            encode=encode,
            retry_failed=store.retries,
            **{name: getattr(settings, name) for name in ASKED_BY},
        )
        with shown_progress(len(rows), run=run, what=what) as progress, serving(endpoint) as live:
            report = ask(
                map(make, rows_of(rows)),
                endpoint=live,
                answers=store,
                asking=asking,
                progress=progress,
                on_report=lambda report: _keep_report(run, what, report),
                session=_session_of(settings, live, len(rows)),
            )
        for line in _remarks(report, endpoint.model):
            run.note(line)
        if report.pending:
            raise RunIncomplete(
                f"{report.pending} of {report.questions} {what} are pending, {report.stopped}; "
                "the same command goes on"
            )
    return report


def _session_of(settings: Params, endpoint: Endpoint, count: int) -> Callable[..., Session]:
    """Return how so many questions go out: in a batch, in parts, or live from this process."""
    if settings.mode == "batch":
        return BatchSession
    workers = processes(settings.partitions) if settings.partitions > 1 else HERE
    workers = workers_of(count, settings.cluster) if settings.cluster else workers
    parts = settings.partitions or workers.count
    if parts == 1 or workers is HERE or endpoint.gguf or count < 2 * FEWEST_QUESTIONS:
        return LiveSession
    return partial(PartedSession, parts=parts, workers=workers)


@contextmanager
def recorded(run: RunFolder) -> Iterator[None]:
    """Hold the folder while the block works; an error leaves its state in run.json."""
    with nullcontext() if _is_driven(run) else run_lock(run):
        try:
            yield
        except BaseException as error:
            run.update(state=RUN_STATES.get(exit_code_of(type(error).__name__), "failed"))
            raise


def _is_driven(run: RunFolder) -> bool:
    """Return whether this process is the kernel of the driver that holds the folder's lock."""
    return bool(run.read().get("driver") == process_of(os.getppid()))


@contextmanager
def shown_progress(
    total: int, *, run: RunFolder, what: str, unit: str = "chunk"
) -> Iterator[Callable[[int, int], None]]:
    """Show how many of the chunks are answered, and how many of these failed, while the block runs."""
    from tqdm.auto import tqdm

    last = time.monotonic() - STATE_EVERY

    def step(answered: int, failed: int) -> None:
        nonlocal last
        if failed:
            bar.set_postfix(failed=failed, refresh=False)
        bar.update(answered - bar.n)
        if answered == total or time.monotonic() - last >= STATE_EVERY:
            last = time.monotonic()
            run.update(progress={"answered": answered, "failed": failed, "total": total, "what": what})

    bar: Any
    with tqdm(total=total, desc=what, unit=unit, mininterval=DRAW_EVERY, dynamic_ncols=True) as bar:
        yield step


def _begin_asking(run: RunFolder, answers: AnswerStore) -> tuple[float, Note]:
    """Return what counts towards a run's limit so far, and where to write what may be spent from now on.

    A session that is killed while it asks leaves no report, but two notes: what its store was paid before it,
    and how much may have been spent at most, calls in flight included. What is more counts.
    """
    fields, pledged = run.read(), Note(run.work / "asking")
    answers.take_in_left()
    before, spent = fields.get("spent_before", 0.0), spent_usd(fields)
    if (note := fields.get("asking")) and (path := resolve(note["answers"])).exists():
        with AnswerStore(path) as store:
            before += max(0.0, store.totals()["cost_usd"] - note["paid_usd"], pledged.spent - spent)
    asking = {"answers": project_path(answers.path), "paid_usd": answers.totals()["cost_usd"]}
    run.update(spent_before=before, asking=asking)
    spent = spent_usd(fields | {"spent_before": before})
    pledged.write(spent=spent)
    return spent, pledged


def spent_usd(fields: Mapping[str, Any]) -> float:
    """Return what all sessions on a run folder, whose run.json is given, count towards its limit."""
    parts = (part.get("spent_usd", 0.0) for part in fields.get("asked", {}).values())
    return float(sum(parts, fields.get("spent_before", 0.0)))


def _keep_report(run: RunFolder, what: str, report: GenerationReport) -> None:
    """Count in run.json what was asked of one kind, on top of what was before."""
    asked = run.read().get("asked", {})
    before = asked.get(what, {"cost_usd": 0.0, "models": {}})
    costs = [report.cost_usd if report.requests else 0.0, before["cost_usd"]]
    sums = {
        "requests": report.requests,
        "tokens": report.prompt_tokens + report.completion_tokens,
        "reasoning_tokens": report.reasoning_tokens,
        "spent_usd": report.spent_usd,
        "seconds": round(report.seconds, 3),
    }
    part = {name: value + before.get(name, 0) for name, value in sums.items()}
    part |= {
        "answered_before": report.answered_before,
        "cost_usd": None if None in costs else sum(costs),
        "models": dict(Counter(before["models"]) + Counter(report.models)),  # as answers name them
    }
    run.update(asked=asked | {what: part}, asking=None)


def _remarks(report: GenerationReport, model: str) -> Iterator[str]:
    """Return what of a report its reader should know at once."""
    if report.too_long:
        yield (
            "batch_size: the endpoint refused batches as too long for its context; they are sent in smaller "
            "ones. A smaller batch_size or chunk_chars spares the refusals"
        )
    if report.prompts_cut:
        yield (
            f"endpoint: in {report.prompts_cut:,} of {report.paid_requests:,} replies it counted fewer "
            "prompt tokens than were sent, as a server does that cuts a prompt without a word. Raise its "
            "context (num_ctx of Ollama), or set a smaller batch_size or chunk_chars"
        )
    if report.cannot_copy:
        yield (
            "batch_size: the endpoint does not copy the first words of a text, by which an answer shows "
            "which one it read; each request holds one content. batch_size 1 spares the first ones"
        )
    # A dated version of the model asked for is the same.
    others = sorted(name for name in report.models if name and not name.startswith(model.rpartition("/")[2]))
    if others:
        yield f"Asked for the model {model}; answers name {', '.join(others[:5])}"


def _resolved(settings: Params, endpoint: Endpoint) -> dict[str, Any]:
    """Return params and versions as run.json holds them from the first request on."""
    qdrant = settings.qdrant if "://" in settings.qdrant else project_path(settings.qdrant)
    extra = ({"reasoning_effort": endpoint.effort} if endpoint.effort else {}) | settings.request_extra
    places = {"qdrant": qdrant, "run_dir": project_path(settings.run_dir), "request_extra": extra}
    versions = {"python": platform.python_version()} | {name: metadata.version(name) for name in SHOWING}
    return {"params": settings.as_dict() | places, "versions": versions}


def question_maker(settings: Params, *, trial: str = "") -> Callable[[Any], Question]:
    """Return the function that makes the question about a row; the answers of a named trial are its own."""
    recipe = recipe_maker(settings, trial=trial)
    return lambda row: question_of(row, recipe(row.data_type), row.content)


def verdict_maker(settings: Params) -> Callable[[Any], Question]:
    """Return the function that asks the judge about a pair: greedy, one answer, else as for instructions."""
    judge: dict[str, Any] = {"prompt": JUDGE_TEMPLATE, "model": settings.judge_model, "temperature": 0.0}
    of_judge = replace(settings, instructions_per_content=1, candidates=1, **judge)
    recipe, text_of = recipe_maker(of_judge, kind="verdicts")("pairs"), judging.shown_pair
    return lambda row: question_of(row, recipe, text_of(row.data_type, row.instruction, row.content))


def recipe_maker(
    settings: Params, *, kind: Kind = "instructions", trial: str = ""
) -> Callable[[str], Recipe]:
    """Return the function that makes the recipe for a data type, from the settings that decide an answer."""
    template = load_template(settings.prompt, folder=PROMPTS, kind=kind)
    model = model_identity(settings.endpoint, settings.model)

    @cache
    def recipe(data_type: str) -> Recipe:
        return Recipe(
            endpoint=settings.endpoint,
            model=model,
            template=template,
            data_type=data_type,
            language=settings.instruction_language,
            k=settings.instructions_per_content,
            candidates=settings.candidates,
            temperature=settings.temperature,
            max_output_tokens=settings.max_output_tokens,
            request_extra=json.dumps(settings.request_extra, sort_keys=True, ensure_ascii=False),
            trial=trial,
        )

    return recipe


def _embedding_recipe(settings: Params) -> Recipe:
    return Recipe(settings.endpoint, settings.embedding_model, EMBEDDINGS, "texts", k=0, temperature=0.0)


def question_of(row: Any, recipe: Recipe, text: str) -> Question:
    """Return the question that sends this text for a row of the table."""
    names = ("content_id", "collection", "start", "end", "author", "link")
    return Question(text, recipe, **{name: getattr(row, name) for name in names})


def with_answers(
    chunks: pd.DataFrame, settings: Params, store: AnswerStore, *, trial: str = "", reviewed: bool = True
) -> pd.DataFrame:
    """Return a row for each chunk and instruction, with what the store holds; it alone adds rows.

    Adds ``k`` (from 1), ``id``, ``answer_key``, ``prompt``, ``prompt_sha256``, ``model``, ``instruction``,
    which is a reviewer's where there is one, and ``review`` (empty, accept, edit, reject); what the answer
    cost, once for equal texts: ``requests``, ``prompt_tokens``, ``completion_tokens``,
    ``cost_usd`` (missing: unknown). Sets ``state`` (accepted, failed, pending; skipped stays), ``reason``
    and ``value``. By row. Unless ``reviewed`` it is as the model wrote it.
    """
    chunks = chunks.reset_index(drop=True)
    waiting = chunks.state == "pending"
    recipe, texts = recipe_maker(settings, trial=trial), chunks.content[waiting]
    sent = zip(texts, chunks.data_type[waiting], strict=True)
    keys = [answer_key(text, recipe(data_type).sha256) for text, data_type in sent]
    table = chunks.assign(answer_key=pd.Series(keys, texts.index, dtype="str"))
    table = table.loc[table.index.repeat(np.where(waiting, settings.instructions_per_content, 1))]
    table = table.assign(k=table.groupby(level=0).cumcount() + 1).reset_index(drop=True)
    asked = table.loc[table.state == "pending", [*PLACE, "answer_key"]]
    asked = asked.assign(pays=~asked.answer_key.duplicated())
    template = load_template(settings.prompt, folder=PROMPTS, kind="instructions")
    answers = pd.concat([_stored_answers(rows, store) for rows in blocks(asked)]).assign(
        prompt=template.name,
        prompt_sha256=template.sha256,
        model=model_identity(settings.endpoint, settings.model),
    )
    table = with_columns(table, answers)
    table[COSTS] = table[COSTS].where(table.state != "skipped", 0)
    table = table.astype(dict.fromkeys(COSTS[:-1], int) | {"cost_usd": float})
    return with_reviews(table, read_reviews(reviews_file(store.path)) if reviewed else ())


def _stored_answers(asked: pd.DataFrame, store: AnswerStore) -> pd.DataFrame:
    """Return what the store holds of these rows; where a row ``pays``, what its answer cost."""
    stored, rows = store.answers(asked.answer_key.tolist()), []
    for place, key, pays in zip(places_of(asked), asked.answer_key, asked.pays, strict=True):
        words, state, reason, value, costs = None, "pending", "", "", (0, 0, 0, 0.0)
        if answer := stored.get(key):
            words = answer.values[place[-1] - 1] if answer.state == "ok" else None
            state, reason, value = "failed" if words is None else "accepted", answer.reason, answer.value
            costs = tuple(getattr(answer, name) for name in COSTS) if pays else costs
        rows.append((row_id(place), words, state, reason, value, *costs))
    dtypes = dict.fromkeys(["id", "instruction", "state", "reason", "value"], "str")
    dtypes |= dict.fromkeys(COSTS, "float64")
    return pd.DataFrame(rows, columns=[*dtypes], index=asked.index).astype(dtypes)


def measure(
    ledger: pd.DataFrame, settings: Params, endpoint: Endpoint, store: AnswerStore, *, of: str = ""
) -> pd.DataFrame:
    """Return the table with its measures, and ask for the vectors that they need and the store has not.

    Only where ``embedding_model`` names a model is anything asked; ``of`` names whose vectors these are.
    Those of the packaged model are computed, and kept beside the store.
    """

    def ask_for(texts: Sequence[str]) -> None:
        step = embeddings_step(ledger, texts, settings, endpoint)
        ask_step(step._replace(what=f"{of}{step.what}"), store)

    progress = partial(shown_progress, run=run_of(settings), what=VECTORS, unit="text")
    file, cluster = vectors_of(store.path), settings.cluster
    packaged = embeddings.PackagedModel(file, writes=True, cluster=cluster, progress=progress)
    return with_measures(ledger, settings, store, before=ask_for, packaged=packaged)


def with_measures(
    ledger: pd.DataFrame,
    settings: Params,
    store: AnswerStore,
    *,
    before: Callable[[Sequence[str]], None] = lambda texts: None,
    packaged: embeddings.PackagedModel | None = None,
) -> pd.DataFrame:
    """Return the table with the measures of each instruction, see `measures.with_measures`; it asks nothing.

    Where ``embedding_model`` names a model, vectors are those that are stored, once ``before`` has the texts.
    """
    if not is_named(settings.embedding_model):
        packaged = packaged or embeddings.PackagedModel(vectors_of(store.path), cluster=settings.cluster)
        return measures.with_measures(ledger, settings, encode=packaged)
    recipe = _embedding_recipe(settings)

    def encode(texts: Sequence[str]) -> embeddings.Vectors:
        before(texts)
        keys = [answer_key(text, recipe.sha256) for text in texts]
        stored = store.answers(keys)
        return embeddings.unpack(["".join(stored[key].values) if key in stored else "" for key in keys])

    return measures.with_measures(ledger, settings, encode=encode)


def with_verdicts(ledger: pd.DataFrame, settings: Params, store: AnswerStore) -> pd.DataFrame:
    """Return the table with ``judge_score`` (1 to 5, missing: none) and ``judge_reason``. By row."""
    pairs = ledger[ledger.instruction.notna() & bool(settings.judge_model)]
    make = verdict_maker(settings) if settings.judge_model else None
    tables = []
    for rows in blocks(pairs):
        keys = [make(row).key for row in rows_of(rows)] if make else []
        stored = store.answers(keys)
        values = [judging.verdict_of(stored[key].values) if key in stored else (None, None) for key in keys]
        columns = pd.DataFrame(values, columns=["judge_score", "judge_reason"], index=rows.index)
        tables.append(columns.astype({"judge_score": "Int64", "judge_reason": "str"}))
    return with_columns(ledger, pd.concat(tables))


def judge_comparison(ledger: pd.DataFrame, settings: Params) -> pd.DataFrame:
    """Return the judge beside length and chance, and all three against the decisions of people."""
    labels = labels_of(read_reviews(reviews_file(resolve(settings.answers))))
    known = {(it.id, it.instruction): it.accepted for it in rows_of(labels)}
    judged = judging.judged_of(ledger)
    return judging.compare_judge(judged, known, min_judge_score=settings.min_judge_score)


def with_decisions(ledger: pd.DataFrame, settings: Params) -> pd.DataFrame:
    """Return the table with the pairs that break a rule rejected, see `curation.with_decisions`."""
    prompt_words = load_template(settings.prompt, folder=PROMPTS).words
    return curation.with_decisions(ledger, settings, prompt_words=prompt_words)


def alarms_of(ledger: pd.DataFrame, settings: Params) -> list[Alarm]:
    """Return what is wrong with the pairs as a whole, see `curation.alarms_of`."""
    workers = workers_of(len(ledger), settings.cluster)
    return curation.alarms_of(ledger, instruction_language=settings.instruction_language, workers=workers)


def check_gate(ledger: pd.DataFrame, settings: Params) -> None:
    """Raise QualityGate if there is an alarm and ``quality_gate`` is ``stop``; run.json says so."""
    if settings.quality_gate == "stop":
        with recorded(run := run_of(settings)):
            if alarms := alarms_of(ledger, settings):
                write_pairs(run.pairs, ledger.assign(side=""))
            # Whether texts look destroyed was asked of all of them before.
            _check_alarms(alarms, settings, passing="destroyed")


def _check_alarms(alarms: Sequence[Alarm], settings: Params, *, passing: str = "") -> None:
    run_of(settings).update(alarms=[asdict(alarm) for alarm in alarms])
    stopping = [it for it in alarms if it.level == "alarm" and it.name != passing]
    if settings.quality_gate != "stop":
        stopping = [alarm for alarm in stopping if alarm.name == EMPTY]
    if stopping:
        lines = [f"{alarm.name}: found {alarm.seen}; expected {alarm.expected}" for alarm in stopping[:5]]
        next_step = "set quality_gate: warn"
        if any(alarm.name == EMPTY for alarm in stopping):  # which no gate lets pass
            next_step = "set another model or prompt; what failed is asked again only with --retry-failed"
        raise QualityGate("\n".join([*lines, f"nothing is published; look at the pairs, or {next_step}"]))


def publish(ledger: pd.DataFrame, settings: Params) -> Path:
    """Write ledger and dataset into the run folder, whole or not at all, and return the dataset's folder.

    Raises RunIncomplete where instructions are pending; QualityGate where nothing is accepted, or at an alarm
    and ``quality_gate: stop``: then the ledger is written, the dataset is not.
    """
    run, counts = run_of(settings), ledger.attrs["source_counts"]
    changed = any(before != after for before, after in counts.values())
    workers = workers_of(len(ledger), settings.cluster)
    with recorded(run):
        write_ledger(run.ledger_file, ledger, workers=workers)
        write_pairs(run.pairs, ledger, workers=workers)
        run.update(totals=totals_of(ledger, run), source_changed=changed, source_counts=counts)
        if settings.judge_model:
            judging.write_judged(run.path / judging.FILE, judging.judged_of(ledger))
            run.update(judge=records_of(judge_comparison(ledger, settings)))
        _check_alarms(alarms_of(ledger, settings), settings)
        rules = {name: getattr(settings, name) for name in (*RULES, "chunk_chars", "system")}
        manifest = publish_dataset(
            ledger,
            run,
            name=name_of(ledger, settings),
            rules=rules | {"normal_form": NORMAL_FORM},
            screened=screened_counts(ledger.loc[ledger.k == 1, ["findings", "state"]], settings),
            notes=[SMALL_MODEL] if is_packaged(settings.endpoint, settings.model) else [],
            workers=workers,
        )
        changes = remember(settings, manifest, run, version_of(ledger, run))
        run.update(**run_fields(run, manifest), changes=changes)
        if not _is_driven(run):  # the driver has still to make its report
            seal_run(run, state="complete", ended=now())
    return run.dataset


def totals_of(ledger: pd.DataFrame, run: RunFolder) -> dict[str, Any]:
    """Return the ``totals`` of run.json: states from the ledger, costs from what the run has asked."""
    measured = {"measured": measured_counts(ledger)} if "measured_by" in ledger else {}
    asked = prices.spent(run.read().get("asked", {}).values())
    return ledger_totals(ledger) | measured | asked | process_costs(resource.RUSAGE_SELF)


def process_costs(*whose: int) -> dict[str, float]:
    """Return CPU seconds and peak memory in MiB, summed over what `resource.getrusage` knows."""
    used = [resource.getrusage(who) for who in whose]
    # ru_maxrss is in KiB on Linux and in bytes on macOS.
    unit = 1024 * 1024 if sys.platform == "darwin" else 1024
    return {
        "cpu_seconds": round(sum(one.ru_utime + one.ru_stime for one in used), 2),
        "peak_rss_mb": round(sum(one.ru_maxrss for one in used) / unit, 1),
    }


def asked_so_far(settings: Params) -> str:
    """Return in a line what the run has sent so far, in all its notebooks."""
    return f"This run so far: {prices.spent_words(run_of(settings).read().get('asked', {}))}"


def run_of(settings: Params) -> RunFolder:
    """Return the run folder that resolved settings name."""
    return RunFolder(resolve(settings.run_dir))


def previous_of(ledger: pd.DataFrame, settings: Params) -> dict[str, str]:
    """Return the sides that contents have in the dataset before this one."""
    return previous_sides(settings, name_of(ledger, settings))


def name_of(chunks: pd.DataFrame, settings: Params) -> str:
    """Return the dataset's name: as the settings say, or by the data types of its contents."""
    data_types = set(chunks.data_type[chunks.state != "skipped"])
    kind = min(data_types) if len(data_types) == 1 else "twin"
    return settings.dataset_name or f"{kind}-instruct-dataset"


def make_dataset(settings: Params, *, environ: Mapping[str, str] | None = None, **asked: Any) -> pd.DataFrame:
    """Go the whole way on one study, as notebook 3 does step by step, and return its ledger.

    What the endpoint is to have besides, such as its ``patience``, is given by the names of its fields.
    """
    settings, source, endpoint, store = open_study(settings, environ=environ)
    endpoint = replace(endpoint, **asked)
    with store:
        chunks = read_chunks(source, settings, store)
        expected = forecast(chunks, settings, endpoint, store)
        announce(expected, settings)
        pilot = ask_pilot(chunks, settings, endpoint, store)
        first = with_answers(pilot, settings, store)
        first = measure(first, settings, endpoint, store)
        announce(narrowed(expected, first, settings, endpoint), settings)
        check_gate(first, settings)
        ask_instructions(chunks, settings, endpoint, store)
        ledger = with_answers(chunks, settings, store)
        ledger = measure(ledger, settings, endpoint, store)
        ask_verdicts(ledger, settings, endpoint, store)
        ledger = with_verdicts(ledger, settings, store)
    ledger = with_decisions(ledger, settings)
    ledger = with_sides(ledger, settings, previous_of(ledger, settings))
    publish(ledger, settings)
    return ledger


def keep_ledger(settings: Params, *, environ: Mapping[str, str]) -> None:
    """Write the ledger of a run that came to no decisions: what is answered, failed, skipped, pending."""
    settings, source, _, store = open_study(settings, environ=environ)
    with store:
        chunks = read_chunks(source, settings, store)
        ledger = with_answers(chunks, settings, store)
    write_ledger(run_of(settings).ledger_file, ledger)
    run_of(settings).update(totals=totals_of(ledger, run_of(settings)))
