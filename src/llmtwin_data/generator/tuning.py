"""Prompts, models, languages and batch sizes tried on one sample, through the dataset's store of answers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtwin_data.answers import AnswerStore
from llmtwin_data.chunks import Chunk
from llmtwin_data.curation import curate
from llmtwin_data.endpoints import Endpoint
from llmtwin_data.errors import RunIncomplete
from llmtwin_data.folders import resolve
from llmtwin_data.generation import ask, collect_pairs
from llmtwin_data.generation.pairs import Pair
from llmtwin_data.generator.accounts import measured
from llmtwin_data.generator.progress import shown_progress
from llmtwin_data.generator.questions import (
    asking_of,
    judge_recipe,
    prompt_words,
    question_maker,
    sizes_of,
)
from llmtwin_data.judging import Verdict, read_verdicts, verdict_question
from llmtwin_data.params import Params
from llmtwin_data.processes.sessions import recorded
from llmtwin_data.prompts import Question
from llmtwin_data.summaries.leaderboards import FACTORS, Trial

if TYPE_CHECKING:
    from llmtwin_data.generator import DatasetGenerator


def variants_of(settings: Params) -> list[Params]:
    """Give the settings of every trial: each prompt, each model and each language, one at a time.

    Notes
    -----
    Not every combination: with three of each that is seven trials instead of 27. The price in the params is
    that of ``model``; any other model has the listed one, or none.
    """
    free: dict[str, Any] = {"usd_per_million_input": 0.0, "usd_per_million_output": 0.0}
    found = [replace(settings, prompt=prompt) for prompt in settings.prompts]
    found += [
        settings if model == settings.model else replace(settings, model=model, **free)
        for model in settings.models
    ]
    found += [replace(settings, instruction_language=language) for language in settings.languages]
    return [one for place, one in enumerate(found) if one not in found[:place]] or [settings]


def try_variants(generator: DatasetGenerator, sample: Sequence[Chunk]) -> list[Trial]:
    """Ask about the sample with each variant of the settings, measure and curate what comes back.

    Notes
    -----
    ``max_cost_usd`` is for all of them together. Answers go to the settings' store, so that the dataset's
    notebook finds there those of the variant it is made with.
    """
    return _try_all(generator, sample, [(settings, None) for settings in variants_of(generator.settings)])


def try_batch_sizes(generator: DatasetGenerator, sample: Sequence[Chunk]) -> list[Trial]:
    """Ask the settings' prompt about the sample in batches of each size, and of the settings' own.

    Notes
    -----
    An answer's key does not name the batch it came in. So every size but the settings' own has a store of
    its own beside the settings', where a second run finds its answers.
    """
    plans = [(generator.settings, None), *sizes_tried(generator.settings, generator.endpoint())]
    return sorted(_try_all(generator, sample, plans), key=lambda trial: trial.batch_size)


def sizes_tried(settings: Params, endpoint: Endpoint) -> list[tuple[Params, Path]]:
    """Give the settings of every other batch size that is tried, and the store of its answers."""
    store = resolve(settings.answers)
    others = sorted({*(settings.batch_sizes or (1,))} - {sizes_of(settings, endpoint)[0]})
    return [
        (replace(settings, batch_size=size), store.with_name(f"{store.stem}.batch{size}{store.suffix}"))
        for size in others
    ]


def _try_all(
    generator: DatasetGenerator, sample: Sequence[Chunk], plans: Sequence[tuple[Params, Path | None]]
) -> list[Trial]:
    trials: dict[tuple[object, ...], Trial] = {}
    with recorded(generator.run):
        generator.announce_trials()
        for settings, path in plans if sample else ():
            store = nullcontext(generator.answers()) if path is None else AnswerStore(path)
            with generator.endpoint_for(settings.model) as endpoint, store as answers:
                trying = _Trying(generator, settings, endpoint, answers)
                # A model may be named, and also be what an empty name stands for.
                name = (settings.prompt, endpoint.model_identity, settings.instruction_language, trying.size)
                if name not in trials:
                    trials[name] = trying.trial(sample)
    return list(trials.values())


class _Trying:
    """One trial in the making."""

    def __init__(
        self, generator: DatasetGenerator, settings: Params, endpoint: Endpoint, answers: AnswerStore
    ) -> None:
        self.generator, self.settings, self.endpoint = generator, settings, endpoint
        self.answers = answers
        self.size = sizes_of(settings, endpoint)[0]

    def trial(self, sample: Sequence[Chunk]) -> Trial:
        settings, question = self.settings, question_maker(self.settings, self.endpoint)
        self._ask(self.endpoint, list(map(question, sample)), what="instructions")
        pairs, ledger = collect_pairs(sample, question, self.answers)
        language = settings.instruction_language
        measures = measured(pairs, self.generator.fetch().chunks, asked_language=language)
        verdicts = self._judge(pairs)
        rules = replace(self.generator.rules(), instruction_language=language)
        words = prompt_words(settings)
        decisions = curate(pairs, measures, rules=rules, verdicts=verdicts, prompt_words=words)
        return Trial(
            settings.prompt,
            self.endpoint.model,
            language,
            self.size,
            tuple(sample),
            tuple(pairs),
            tuple(measures),
            tuple(decisions),
            tuple(ledger),
            verdicts,
            given={key: getattr(settings, key) for key in FACTORS.values() if getattr(settings, key)},
        )

    def _ask(self, endpoint: Endpoint, questions: Sequence[Question], *, what: str) -> None:
        # The Batch API takes hours; a few dozen contents are compared while someone waits.
        settings, spent = replace(self.settings, mode="live"), self.generator.begin_asking(self.answers)
        asking = asking_of(
            settings,
            endpoint,
            chunks=self.generator.fetch().chunks,
            pilot=None,
            patience=self.generator.patience,
            spent_usd=spent,
        )
        what = f"{self.settings.prompt} · {self.endpoint.model} · {settings.instruction_language}: {what}"
        what += f" in batches of {self.size}"
        with shown_progress(len(questions), run=self.generator.run, what=what) as progress:
            report = ask(
                questions,
                endpoint=endpoint,
                answers=self.answers,
                asking=asking,
                progress=progress,
                on_report=lambda report: self.generator.keep_report(f"tuning: {what}", report),
            )
        if report.pending:
            # A trial that lacks answers would lose by faults that are not its own.
            raise RunIncomplete(f"{what}: {report.pending} pending, {report.stopped}; the same cell goes on")

    def _judge(self, pairs: Sequence[Pair]) -> dict[str, Verdict]:
        model = self.settings.judge_model
        if not model or not pairs:
            return {}
        with self.generator.endpoint_for(model) as endpoint:
            recipe = judge_recipe(self.settings, endpoint)
            self._ask(endpoint, [verdict_question(pair, recipe) for pair in pairs], what="verdicts")
            return read_verdicts(pairs, recipe, self.answers)
