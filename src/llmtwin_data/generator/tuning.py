"""Prompts and batch sizes tried on one sample, through the same store of answers as the dataset."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from llmtwin_data.answers import AnswerStore
from llmtwin_data.chunks import Chunk
from llmtwin_data.curation import Rules, curate
from llmtwin_data.endpoints import Endpoint, open_endpoint
from llmtwin_data.endpoints.pacing import Patience
from llmtwin_data.folders import RunFolder, resolve
from llmtwin_data.generation import GenerationReport, ask, collect_pairs
from llmtwin_data.generation.pairs import Pair
from llmtwin_data.generator.progress import shown_progress
from llmtwin_data.generator.questions import asking_of, judge_recipe, question_maker, sizes_of
from llmtwin_data.judging import Verdict, read_verdicts, verdict_question
from llmtwin_data.measures import Measures, measure_pairs
from llmtwin_data.params import Params
from llmtwin_data.processes.sessions import recorded
from llmtwin_data.prompts import Question
from llmtwin_data.summaries.leaderboards import Trial

# Dollars; a limit of 0 would mean none, so this is what is left of a spent one.
SPENT = 1e-9


class Spine(Protocol):
    """What tuning needs of a `DatasetGenerator`."""

    settings: Params
    environ: Any
    run: RunFolder

    def fetch(self) -> Any: ...
    def endpoint(self) -> Endpoint: ...
    def answers(self) -> AnswerStore: ...
    def rules(self) -> Rules: ...
    def keep_report(self, what: str, report: GenerationReport) -> None: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """One trial to be made; without a ``store`` its answers go to the settings' own."""

    prompt: str
    settings: Params
    store: Path | None = None


def try_prompts(generator: Spine, sample: Sequence[Chunk], *, prompts: Sequence[str] = ()) -> list[Trial]:
    """Ask each prompt about the sample, measure and curate what comes back.

    Parameters
    ----------
    generator
        Gives settings, endpoint, store, and all chunks that grounding is measured among.
    prompts
        Names under ``params/prompts/``; none given takes the settings' ``prompts``.

    Notes
    -----
    ``max_cost_usd`` is for all prompts together. Answers go to the settings' store, so that the dataset's
    notebook finds those of its prompt there.
    """
    names = list(dict.fromkeys(prompts or generator.settings.prompts))
    return _try_all(generator, sample, [Plan(name, generator.settings) for name in names])


def try_batch_sizes(generator: Spine, sample: Sequence[Chunk], *, sizes: Iterable[int] = ()) -> list[Trial]:
    """Ask the settings' prompt about the sample in batches of these sizes, one by one if none are given.

    Notes
    -----
    An answer's key does not name the batch it came in. So every size but the settings' own has a store of
    its own beside the settings', where a second run finds its answers.
    """
    settings, usual = generator.settings, sizes_of(generator.settings, generator.endpoint())[0]
    wanted = sorted({*(sizes or (1,)), usual})
    plans = [
        Plan(
            settings.prompt,
            replace(settings, batch_size=size),
            None if size == usual else _store_beside(resolve(settings.answers), size),
        )
        for size in wanted
    ]
    return _try_all(generator, sample, plans)


def _try_all(generator: Spine, sample: Sequence[Chunk], plans: Sequence[Plan]) -> list[Trial]:
    texts = [chunk.text for chunk in generator.fetch().chunks]
    trials: list[Trial] = []
    with recorded(generator.run):
        for plan in plans if sample else ():
            left = _left_of(plan.settings, trials)
            store = nullcontext(generator.answers()) if plan.store is None else AnswerStore(plan.store)
            with store as answers:
                trials.append(_try(generator, replace(plan, settings=left), sample, texts, answers))
    return trials


def _try(
    generator: Spine, plan: Plan, sample: Sequence[Chunk], texts: Sequence[str], answers: AnswerStore
) -> Trial:
    endpoint, settings = generator.endpoint(), plan.settings
    question = question_maker(settings, endpoint, prompt=plan.prompt)
    report = _ask(generator, settings, endpoint, answers, list(map(question, sample)), what=plan.prompt)
    pairs, ledger = collect_pairs(sample, question, answers)
    measures = _measure(pairs, texts, settings.instruction_language)
    verdicts = _judge(generator, settings, pairs, answers)
    decisions = curate(pairs, measures, rules=generator.rules(), verdicts=verdicts)
    size = sizes_of(settings, endpoint)[0]
    found = (tuple(sample), tuple(pairs), tuple(measures), tuple(decisions), tuple(ledger))
    return Trial(plan.prompt, endpoint.model, size, *found, report, verdicts)


def _ask(
    generator: Spine,
    settings: Params,
    endpoint: Endpoint,
    answers: AnswerStore,
    questions: Sequence[Question],
    *,
    what: str,
) -> GenerationReport:
    # The Batch API takes hours; a few dozen contents are compared while someone waits.
    asking = asking_of(replace(settings, mode="live"), endpoint, pilot=None, patience=Patience())
    with shown_progress(len(questions), run=generator.run, what=what) as progress:
        return ask(
            questions,
            endpoint=endpoint,
            answers=answers,
            asking=asking,
            progress=progress,
            on_report=lambda report: generator.keep_report(f"tuning: {what}", report),
        )


def _measure(pairs: Sequence[Pair], texts: Sequence[str], language: str) -> list[Measures]:
    places = {text: place for place, text in reversed(list(enumerate(texts)))}
    owners = [places[pair.chunk.text] for pair in pairs]
    return measure_pairs([pair.instruction for pair in pairs], owners, texts, asked_language=language)


def _judge(
    generator: Spine, settings: Params, pairs: Sequence[Pair], answers: AnswerStore
) -> dict[str, Verdict]:
    if not settings.judge_model or not pairs:
        return {}
    opened = open_endpoint(settings.endpoint, model=settings.judge_model, environ=generator.environ)
    with opened as endpoint:
        recipe = judge_recipe(settings, endpoint)
        questions = [verdict_question(pair, recipe) for pair in pairs]
        _ask(generator, settings, endpoint, answers, questions, what="verdicts")
        return read_verdicts(pairs, recipe, answers)


def _left_of(settings: Params, trials: Iterable[Trial]) -> Params:
    if not settings.max_cost_usd:
        return settings
    spent = sum(trial.report.cost_usd or 0.0 for trial in trials)
    return replace(settings, max_cost_usd=max(settings.max_cost_usd - spent, SPENT))


def _store_beside(store: Path, size: int) -> Path:
    return store.with_name(f"{store.stem}.batch{size}{store.suffix}")
