"""The sequence: one table that gains columns, from what Qdrant holds to a dataset; no row is ever dropped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llmtwin_data import contents, curation, embeddings, judging, measures, prices, sessions
from llmtwin_data.answers import AnswerStore
from llmtwin_data.batches import run_batches
from llmtwin_data.contents import places_of, records_of, row_id, rows_of, screened_counts, with_columns
from llmtwin_data.curation import EMPTY, RULES, Alarm
from llmtwin_data.datasets import ledger_totals, publish_dataset, run_fields, write_ledger
from llmtwin_data.endpoints import (
    PACKAGED,
    Endpoint,
    endpoint_of,
    is_named,
    model_identity,
    serving,
    with_embeddings,
    with_model,
)
from llmtwin_data.engine import Asking, GenerationReport, Reference, ask, run_live
from llmtwin_data.errors import ParamsError, QualityGate, RunIncomplete
from llmtwin_data.folders import PROMPTS, RunFolder, project_path, resolve
from llmtwin_data.lineage import previous_sides, remember
from llmtwin_data.measures import measured_counts, texts_to_embed
from llmtwin_data.params import Params, read_environ, withheld_key
from llmtwin_data.prices import spent
from llmtwin_data.prompts import (
    EMBEDDINGS,
    Question,
    Recipe,
    Template,
    answer_key,
    build_messages,
    key_of,
    load_template,
)
from llmtwin_data.reviews import labels_of, read_reviews, reviews_file, with_reviews
from llmtwin_data.sources import Source, open_source, source_address
from llmtwin_data.splits import with_sides as with_sides
from llmtwin_data.tables import write_pairs
from llmtwin_data.texts import NORMAL_FORM, estimate_tokens

# Chunks that are asked about, and looked at, before the rest is paid for.
PILOT_CHUNKS = 32
JUDGE_TEMPLATE = "judge"
# Texts in one request for vectors: what servers of one's own take at most by default.
EMBEDDED_TOGETHER = 32
# What a reader of the packaged model's dataset must know before all else.
SMALL_MODEL = (
    "A model of 135M parameters wrote these instructions, to show the way; for training, name a real one."
)
COSTS = ["requests", "prompt_tokens", "completion_tokens", "cost_usd"]
# What a row costs whose answer was paid for in another, or is not there.
FREE: tuple[int, int, int, float | None] = (0, 0, 0, 0.0)
ANSWERED = ["id", "instruction", "state", "reason", "value"]


def open_study(
    settings: Params, *, environ: Mapping[str, str] | None = None
) -> tuple[Params, Source, Endpoint, AnswerStore]:
    """Return the settings with each value resolved, and what they name: source, endpoint and store.

    Nothing is read or sent, but for the list of models where an address is named without a model.

    Raises
    ------
    ParamsError, KeyRejected, DiskFailed
        What is named cannot be used.
    """
    environ = read_environ() if environ is None else environ
    endpoint = endpoint_of(settings.endpoint, model=settings.model, environ=environ)
    address = source_address(settings.qdrant, environ=environ)
    batch_size, concurrency, usual = settings.batch_size, settings.concurrency, Params()
    if endpoint.identity == "embedded":  # it has one slot; what was set by hand stays
        batch_size = 1 if batch_size == usual.batch_size else batch_size
        concurrency = 1 if concurrency == usual.concurrency else concurrency
    resolved = replace(
        settings,
        qdrant=address,
        endpoint=endpoint.identity,
        model=settings.model or endpoint.model,
        batch_size=batch_size,
        concurrency=concurrency,
        run_dir=settings.run_dir or project_path(sessions.new_run_dir("notebook")),
    )
    with_embeddings(endpoint, settings.embedding_model)
    source = open_source(address, api_key=environ.get("QDRANT_API_KEY", ""))
    store = AnswerStore(resolve(settings.answers))
    withheld = (
        withheld_key(address, "QDRANT_API_KEY", environ=environ),
        withheld_key(endpoint.base_url, "OPENAI_API_KEY", environ=environ),
    )
    for note in filter(None, [*withheld, *store.notes]):
        sessions.tell(run_of(resolved), note)
    return resolved, source, endpoint, store


def read_chunks(source: Source, settings: Params, store: AnswerStore) -> pd.DataFrame:
    """Return the table of chunks, see `contents.read_chunks`, and say at once if texts look destroyed.

    ``attrs["destroyed"]`` is that sentence, empty where they look whole.
    """
    stored, recipe = store.answered(), _recipes(settings)

    def answered(content: contents.Chunk) -> list[contents.Piece]:
        pieces = stored.get((content.collection, content.content_id), [])
        own = recipe(content.data_type).sha256 if pieces else ""
        return [(start, end, sha) for start, end, sha, key in pieces if key == key_of(sha, own)]

    chunks = contents.read_chunks(source, settings, forgotten=store.forgotten_hashes(), answered=answered)
    alarm = curation.destroyed(chunks[chunks.state == "pending"])
    chunks.attrs["destroyed"] = f"destroyed: expected {alarm.expected}, found {alarm.seen}" if alarm else ""
    if alarm:
        sessions.tell(run_of(settings), chunks.attrs["destroyed"])
    return chunks


def forecast(chunks: pd.DataFrame, settings: Params, endpoint: Endpoint, store: AnswerStore) -> pd.DataFrame:
    """Return what asking about these chunks, and judging what comes back, will take and cost.

    A row a step, collection and data type: ``what`` and what a row of `prices.forecast` holds.
    """
    return forecast_steps({"instructions": settings}, chunks, endpoint, store)


def forecast_steps(
    steps: Mapping[str, Params],
    chunks: pd.DataFrame,
    endpoint: Endpoint,
    store: AnswerStore,
    *,
    trials: Mapping[str, str] | None = None,
    seen: set[int] | None = None,
) -> pd.DataFrame:
    """Return what asking about these chunks takes; what one step will have asked, the next finds stored.

    Parameters
    ----------
    steps
        The settings of each step by its name; one that begins with ``tuning`` names its verdicts so, too.
    trials
        By the names of steps whose answers are their own, see `question_maker`.
    seen
        Hashes of the keys that steps before these will have asked; those of these steps are added.
    """
    rows: list[dict[str, Any]] = []
    seen = set() if seen is None else seen
    for what, settings in steps.items():
        trial = (trials or {}).get(what, "")
        questions = map(question_maker(settings, trial=trial), rows_of(chunks[chunks.state == "pending"]))
        asked = with_model(endpoint, settings.model)
        rows += _forecast(what, questions, settings, asked, answered=store.answers, seen=seen)
        if settings.judge_model:
            ledger = with_answers(chunks, settings, store, trial=trial)
            pairs = rows_of(ledger[ledger.state.isin(["accepted", "pending"])])
            judge = with_model(endpoint, settings.judge_model)
            name = f"{what}, verdicts" if what.startswith("tuning") else "verdicts"
            one = replace(settings, batch_size=1)
            questions = map(verdict_maker(settings), pairs)
            rows += _forecast(name, questions, one, judge, answered=store.answers, seen=seen)
        if is_named(settings.embedding_model):
            ledger = with_answers(chunks, settings, store, trial=trial)
            # Of what is not written yet, words may measure all or nothing: the key stands for it.
            to_come = ledger.answer_key.where(ledger.state == "pending")
            texts = texts_to_embed(ledger.assign(instruction=ledger.instruction.fillna(to_come)), settings)
            questions = map(embedding_maker(settings), rows_of(texts))
            name = f"{what}, embeddings" if what.startswith("tuning") else "embeddings"
            embedder = with_embeddings(endpoint, settings.embedding_model)
            one = _asked_for_vectors(settings)
            rows += _forecast(name, questions, one, embedder, answered=store.answers, seen=seen)
    columns = ["what", "collection", "data_type", *prices.COUNTS, *prices.COSTS]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(prices.COSTS, float))


def _forecast(
    what: str,
    questions: Iterable[Question],
    settings: Params,
    endpoint: Endpoint,
    *,
    answered: Callable[[Sequence[str]], Container[str]],
    seen: set[int] | None = None,
) -> list[dict[str, Any]]:
    rows = prices.forecast(
        questions,
        answered=answered,
        price=price_for(settings, endpoint),
        batch_size=settings.batch_size,
        frame_tokens=_frame_tokens,
        seen=seen,
        one_by_one=endpoint.identity == "embedded",
    )
    return [{"what": what} | row for row in rows]


@cache
def _frame_tokens(recipe: Recipe, count: int) -> int:
    messages = build_messages(recipe, [""] * count, boundary="0" * 6)
    return sum(estimate_tokens(message["content"]) for message in messages)


def announce(forecast: pd.DataFrame, settings: Params) -> None:
    """Keep in run.json what the steps that were not forecast yet will take; the driver says it."""
    run = run_of(settings)
    known = run.read().get("forecast", {})
    new = {
        step: prices.add_up(rows)
        for step, rows in forecast.groupby(forecast.what.str.split(":").str[0], sort=False)
        if step not in known
    }
    run.update(forecast=known | new)
    for step, total in new.items():
        sessions.tell(run, f"Forecast of {step}: {prices.forecast_words(total)}", aloud=False)
    if len(new) > 1:
        whole = prices.forecast_words(prices.add_up(new.values()))
        sessions.tell(run, f"Forecast of all: {whole}", aloud=False)


def narrowed(
    forecast: pd.DataFrame, pilot: pd.DataFrame, settings: Params, endpoint: Endpoint
) -> pd.DataFrame:
    """Return the forecast of the instructions as it becomes by what a pilot took; ``pilot`` is its ledger."""
    chunks = pilot[(pilot.k == 1) & pilot.state.isin(["accepted", "rejected", "failed"])]
    questions = map(question_maker(settings), rows_of(chunks))
    rough = pd.DataFrame(_forecast("pilot", questions, settings, endpoint, answered=lambda keys: frozenset()))
    sides = ("prompt", "completion") if len(rough) else ()
    shares = {side: pilot[f"{side}_tokens"].sum() / rough[f"{side}_tokens"].sum() for side in sides}
    rows = forecast[forecast.what == "instructions"].reset_index(drop=True).assign(what=prices.REFINED)
    return prices.refine(rows, price=price_for(settings, endpoint), **shares) if shares else rows


def price_for(settings: Params, endpoint: Endpoint) -> prices.Price:
    """Return the price of the endpoint's model: a list's, or for ``model`` that of the params."""
    batch = settings.mode == "batch"
    listed = prices.price_of(endpoint.model, base_url=endpoint.identity, batch=batch)
    if endpoint.model != settings.model and listed.is_known:
        return listed
    return prices.price_of(
        endpoint.model,
        base_url=endpoint.identity,
        usd_per_million_input=settings.usd_per_million_input,
        usd_per_million_output=settings.usd_per_million_output,
        batch=batch,
    )


def check_limit(chunks: pd.DataFrame, settings: Params, endpoint: Endpoint, store: AnswerStore) -> None:
    """Raise ParamsError if ``max_cost_usd`` needs a price, or does not pay for the first request."""
    if not settings.max_cost_usd:
        return
    check_prices(settings, endpoint)
    first = chunks[chunks.state == "pending"].head(settings.batch_size)
    lowest = float(
        forecast(first, replace(settings, judge_model="", embedding_model=""), endpoint, store)
        .cost_usd_low.fillna(0)
        .sum()
    )
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

    Raises
    ------
    ParamsError
        ``max_cost_usd`` cannot hold without a price, or does not pay for one request.
    RunIncomplete
        Some are pending; what was answered is stored.
    """
    check_limit(chunks, settings, endpoint, store)
    asked = chunks[chunks.state == "pending"]
    return ask_rows("instructions", asked, question_maker(settings), settings, endpoint, store)


def ask_pilot(chunks: pd.DataFrame, settings: Params, endpoint: Endpoint, store: AnswerStore) -> pd.DataFrame:
    """Ask about the first chunks, to be looked at before the rest is paid for, and return them.

    Where ``quality_gate`` is ``warn`` the look cannot stop the run, so all are asked about at once.
    """
    pilot = chunks.head(PILOT_CHUNKS)
    ask_instructions(pilot if settings.quality_gate == "stop" else chunks, settings, endpoint, store)
    return pilot


def ask_rows(
    what: str,
    rows: pd.DataFrame,
    make: Callable[[Any], Question],
    settings: Params,
    endpoint: Endpoint,
    store: AnswerStore,
) -> GenerationReport:
    """Ask the question of each row that has no stored answer; keep in run.json what it took.

    Raises
    ------
    QualityGate
        The texts look destroyed, and ``quality_gate`` is ``stop``: nothing was sent.
    RunIncomplete
        Some are pending; what was answered is stored.
    """
    run, damage = run_of(settings), rows.attrs.get("destroyed", "")
    if damage and settings.quality_gate == "stop":
        with sessions.recorded(run):
            raise QualityGate(f"{damage}\nnothing was asked; mend the texts, or set quality_gate: warn")
    with sessions.recorded(run), sessions.shown_progress(len(rows), run=run, what=what) as progress:
        if what == "instructions":  # a trial's settings are not the run's
            run.update(state="running", params=_resolved(settings, endpoint), versions=sessions.versions())
        encode = embeddings.encode_packaged if settings.embedding_model != "off" else None
        compared = rows.attrs.get("reference", ()) if settings.candidates > 1 else ()
        asking = Asking(
            price=price_for(settings, endpoint),
            batch_size=settings.batch_size,
            concurrency=settings.concurrency,
            timeout_seconds=settings.timeout_seconds,
            requests_per_minute=settings.requests_per_minute,
            max_cost_usd=settings.max_cost_usd,
            spent_usd=sessions.begin_asking(run, store) if settings.max_cost_usd else 0.0,
            patience=endpoint.patience,
            reference=Reference(tuple(compared), encode),
            # Set by the driver for its kernel.
            retry_failed=bool(os.environ.get(sessions.RETRY_FAILED)),
        )
        with serving(endpoint) as live:
            report = ask(
                map(make, rows_of(rows)),
                endpoint=live,
                answers=store,
                asking=asking,
                progress=progress,
                on_report=lambda report: sessions.keep_report(run, what, report),
                run=run_batches if settings.mode == "batch" else run_live,
            )
        sessions.tell_report(run, endpoint.model, report)
        if report.pending:
            raise RunIncomplete(
                f"{report.pending} of {report.questions} {what} are pending, {report.stopped}; "
                "the same command goes on"
            )
    return report


def _resolved(settings: Params, endpoint: Endpoint) -> dict[str, Any]:
    """Return the params as run.json holds them from the first request on."""
    qdrant = settings.qdrant if "://" in settings.qdrant else project_path(settings.qdrant)
    extra = ({"reasoning_effort": endpoint.effort} if endpoint.effort else {}) | settings.request_extra
    places = {"qdrant": qdrant, "run_dir": project_path(settings.run_dir)}
    return settings.as_dict() | places | {"request_extra": extra}


def question_maker(settings: Params, *, trial: str = "") -> Callable[[Any], Question]:
    """Return the function that makes the question about a row; the answers of a named trial are its own."""
    recipe = _recipes(settings, trial=trial)
    return lambda row: _question(row, recipe(row.data_type), row.content)


def _recipes(settings: Params, *, trial: str = "") -> Callable[[str], Recipe]:
    """Return the function that makes the recipe for a data type."""
    template = load_template(settings.prompt, folder=PROMPTS, kind="instructions")
    model = model_identity(settings.endpoint, settings.model)

    @cache
    def recipe(data_type: str) -> Recipe:
        return replace(_recipe(settings, template, model=model, data_type=data_type), trial=trial)

    return recipe


def _recipe(settings: Params, template: Template, *, model: str, data_type: str) -> Recipe:
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
    )


def _question(row: Any, recipe: Recipe, text: str) -> Question:
    return Question(
        text=text,
        recipe=recipe,
        content_id=row.content_id,
        collection=row.collection,
        start=row.start,
        end=row.end,
        author=row.author,
        link=row.link,
    )


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
    keys = [question.key for question in map(question_maker(settings, trial=trial), rows_of(chunks[waiting]))]
    table = chunks.assign(answer_key=pd.Series(keys, chunks.index[waiting], dtype="str"))
    table = table.loc[table.index.repeat(np.where(waiting, settings.instructions_per_content, 1))]
    table = table.assign(k=table.groupby(level=0).cumcount() + 1).reset_index(drop=True)
    asked, stored, paid = table[table.state == "pending"], store.answers(keys), set[str]()
    rows: list[tuple[Any, ...]] = []
    for place, key in zip(places_of(asked), asked.answer_key, strict=True):
        answer, costs = stored.get(key), FREE
        if answer and key not in paid:
            costs = (answer.requests, answer.prompt_tokens, answer.completion_tokens, answer.cost_usd)
            paid.add(key)
        if answer is None:
            rows.append((row_id(place), None, "pending", "", "", *costs))
        elif answer.state == "ok":
            words = answer.values[place[-1] - 1]
            rows.append((row_id(place), words, "accepted", answer.reason, answer.value, *costs))
        else:
            rows.append((row_id(place), None, "failed", answer.reason, answer.value, *costs))
    template = load_template(settings.prompt, folder=PROMPTS, kind="instructions")
    answers = pd.DataFrame(rows, columns=[*ANSWERED, *COSTS], index=asked.index).assign(
        prompt=template.name,
        prompt_sha256=template.sha256,
        model=model_identity(settings.endpoint, settings.model),
    )
    table = with_columns(table, answers)
    table[COSTS] = table[COSTS].where(table.state != "skipped", 0)
    table = table.astype(dict.fromkeys(COSTS[:-1], int) | {"cost_usd": float})
    return with_reviews(table, read_reviews(reviews_file(store.path)) if reviewed else ())


def ask_embeddings(
    ledger: pd.DataFrame,
    settings: Params,
    endpoint: Endpoint,
    store: AnswerStore,
    *,
    what: str = "embeddings",
) -> None:
    """Ask for the vectors that measuring needs and the store has not; nothing unless a model is named.

    Raises
    ------
    ParamsError
        ``embedding_model`` names one, and the endpoint is the embedded one.
    """
    if is_named(settings.embedding_model):
        texts, asked = texts_to_embed(ledger, settings), _asked_for_vectors(settings)
        embedder = with_embeddings(endpoint, settings.embedding_model)
        ask_rows(what, texts, embedding_maker(settings), asked, embedder, store)


def embedding_maker(settings: Params) -> Callable[[Any], Question]:
    """Return the function that asks for the vector of the ``text`` of a row."""
    recipe = _embedding_recipe(settings)
    return lambda row: _question(row, recipe, row.text)


def _embedding_recipe(settings: Params) -> Recipe:
    return Recipe(settings.endpoint, settings.embedding_model, EMBEDDINGS, "texts", k=0, temperature=0.0)


def _asked_for_vectors(settings: Params) -> Params:
    return replace(settings, batch_size=EMBEDDED_TOGETHER, candidates=1, mode="live")


def with_measures(ledger: pd.DataFrame, settings: Params, store: AnswerStore) -> pd.DataFrame:
    """Return the table with the measures of each instruction, see `measures.with_measures`; it asks nothing.

    Where ``embedding_model`` names a model, vectors are those that `ask_embeddings` has stored.
    """
    if not is_named(settings.embedding_model):
        return measures.with_measures(ledger, settings)
    recipe = _embedding_recipe(settings)

    def encode(texts: Sequence[str]) -> embeddings.Vectors:
        keys = [answer_key(text, recipe.sha256) for text in texts]
        stored = store.answers(keys)
        return embeddings.unpack(["".join(stored[key].values) if key in stored else "" for key in keys])

    return measures.with_measures(ledger, settings, encode=encode)


def ask_verdicts(ledger: pd.DataFrame, settings: Params, endpoint: Endpoint, store: AnswerStore) -> None:
    """Ask the judge about every pair that has no stored verdict; nothing where ``judge_model`` is empty."""
    if settings.judge_model:
        pairs, judge = ledger[ledger.instruction.notna()], with_model(endpoint, settings.judge_model)
        ask_rows("verdicts", pairs, verdict_maker(settings), settings, judge, store)


def verdict_maker(settings: Params) -> Callable[[Any], Question]:
    """Return the function that asks the judge about a pair: greedy, one answer, else as for instructions.

    A row that has no instruction yet stands for one of the usual length.
    """
    template = load_template(JUDGE_TEMPLATE, folder=PROMPTS, kind="verdicts")
    model = model_identity(settings.endpoint, settings.judge_model)
    recipe = _recipe(settings, template, model=model, data_type="pairs")
    recipe = replace(recipe, k=1, candidates=1, temperature=0.0)

    def question(row: Any) -> Question:
        words = row.answer_key if pd.isna(row.instruction) else row.instruction
        return _question(row, recipe, judging.shown_pair(row.data_type, words, row.content))

    return question


def with_verdicts(ledger: pd.DataFrame, settings: Params, store: AnswerStore) -> pd.DataFrame:
    """Return the table with ``judge_score`` (1 to 5, missing: none) and ``judge_reason``. By row."""
    pairs, keys = ledger[ledger.instruction.notna() & bool(settings.judge_model)], list[str]()
    if settings.judge_model:
        keys = [question.key for question in map(verdict_maker(settings), rows_of(pairs))]
    stored = store.answers(keys)
    values = [judging.verdict_of(stored[key].values) if key in stored else (None, None) for key in keys]
    columns = pd.DataFrame(values, columns=["judge_score", "judge_reason"], index=pairs.index)
    return with_columns(ledger, columns.astype({"judge_score": "Int64", "judge_reason": "str"}))


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
    return curation.alarms_of(ledger, instruction_language=settings.instruction_language)


def check_gate(ledger: pd.DataFrame, settings: Params) -> None:
    """Raise QualityGate if there is an alarm and ``quality_gate`` is ``stop``; run.json says so.

    Whether texts look destroyed was asked of all of them before.
    """
    alarms = alarms_of(ledger, settings) if settings.quality_gate == "stop" else []
    with sessions.recorded(run := run_of(settings)):
        run.update(alarms=[asdict(alarm) for alarm in alarms])
        _stop_by(alarm for alarm in alarms if alarm.name != "destroyed")


def _stop_by(alarms: Iterable[Alarm]) -> None:
    stopping = [alarm for alarm in alarms if alarm.level == "alarm"]
    if stopping:
        lines = [f"{alarm.name}: expected {alarm.expected}, found {alarm.seen}" for alarm in stopping[:5]]
        passable = any(alarm.name != EMPTY for alarm in stopping)
        next_step = "set quality_gate: warn" if passable else "change how is asked"
        raise QualityGate("\n".join([*lines, f"nothing is published; look at the pairs, or {next_step}"]))


def publish(ledger: pd.DataFrame, settings: Params) -> Path:
    """Write ledger and dataset into the run folder, whole or not at all, and return the dataset's folder.

    Raises
    ------
    QualityGate
        Nothing is accepted, or an alarm, and ``quality_gate`` is ``stop``: the ledger is written, the
        dataset is not.
    RunIncomplete
        Some instructions are pending.
    """
    run, counts = run_of(settings), ledger.attrs["source_counts"]
    changed = any(before != after for before, after in counts.values())
    with sessions.recorded(run):
        write_ledger(run.ledger_file, ledger)
        write_pairs(run.pairs, ledger)
        run.update(totals=totals_of(ledger, run), source_changed=changed, source_counts=counts)
        if settings.judge_model:
            judging.write_judged(run.path / judging.FILE, judging.judged_of(ledger))
            run.update(judge=records_of(judge_comparison(ledger, settings)))
        alarms = alarms_of(ledger, settings)
        run.update(alarms=[asdict(alarm) for alarm in alarms])
        _stop_by(alarm for alarm in alarms if settings.quality_gate == "stop" or alarm.name == EMPTY)
        rules = {name: getattr(settings, name) for name in (*RULES, "chunk_chars")}
        manifest = publish_dataset(
            ledger,
            run,
            name=name_of(ledger, settings),
            rules=rules | {"normal_form": NORMAL_FORM},
            screened=screened_counts(ledger[ledger.k == 1], settings),
            notes=[SMALL_MODEL] if (settings.endpoint, settings.model) == ("embedded", PACKAGED) else [],
        )
        changes = remember(settings, manifest, run)
        run.update(**run_fields(run, manifest), changes=changes)
        sessions.finish(run)
    return run.dataset


def totals_of(ledger: pd.DataFrame, run: RunFolder) -> dict[str, Any]:
    """Return the ``totals`` of run.json: states from the ledger, costs from what the run has asked."""
    counts = {"measured": measured_counts(ledger)} if "measured_by" in ledger else {}
    return (
        ledger_totals(ledger)
        | counts
        | spent(run.read().get("asked", {}).values())
        | sessions.process_costs()
    )


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
        ask_embeddings(first, settings, endpoint, store)
        first = with_measures(first, settings, store)
        announce(narrowed(expected, first, settings, endpoint), settings)
        check_gate(first, settings)
        ask_instructions(chunks, settings, endpoint, store)
        ledger = with_answers(chunks, settings, store)
        ask_embeddings(ledger, settings, endpoint, store)
        ledger = with_measures(ledger, settings, store)
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
