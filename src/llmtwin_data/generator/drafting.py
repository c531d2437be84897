"""The middle of the spine: from chunks to pairs with measures and verdicts, nothing decided yet."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import islice
from typing import Any

from llmtwin_data.curation.alarms import Alarm, alarm_of_none, raise_alarms
from llmtwin_data.datasets.ledgers import write_ledger
from llmtwin_data.endpoints import Endpoint
from llmtwin_data.errors import LlmTwinError, QualityGate, RunIncomplete
from llmtwin_data.folders import resolve
from llmtwin_data.generation import GenerationReport, LedgerRow, Pair, ask, collect_pairs
from llmtwin_data.generator import accounts
from llmtwin_data.generator.once import once
from llmtwin_data.generator.planning import Planning
from llmtwin_data.generator.progress import shown_progress, tell
from llmtwin_data.generator.questions import (
    Questions,
    asking_of,
    judge_recipe,
)
from llmtwin_data.generator.resolved import opening_fields
from llmtwin_data.generator.reviews import Review, read_reviews, reviews_file, reviews_of
from llmtwin_data.judging import Verdict, read_verdicts, verdict_question
from llmtwin_data.measures import Measures
from llmtwin_data.processes.sessions import RETRY_FAILED, recorded

# Chunks that are looked at before the rest is paid for.
PILOT_CHUNKS = 32


class Drafting(Planning):
    """Generate, measure and judge; each step calls the one before it when needed."""

    @once
    def generate(self) -> GenerationReport:
        """Ask for every instruction that is not stored; after an interrupt or fault, all answers are."""
        chunks = self.fetch().chunks
        with recorded(self.run), self._partial_ledger():
            self.run.update(**opening_fields(self.settings, self.endpoint(), source=self.source()))
            self.announce()
            questions = Questions(chunks, self.question())
            return self._ask(questions, endpoint=self.endpoint(), what="instructions", pilot=self._pilot)

    @once
    def collected(self) -> tuple[list[Pair], list[LedgerRow]]:
        """Give the pairs that stored answers make, and a ledger row for every instruction asked for."""
        self.generate()
        return collect_pairs(self.fetch().chunks, self.question(), self.answers())

    @once
    def reviews(self) -> dict[str, Review]:
        """Give what people decided about these pairs, by pair id."""
        path = reviews_file(resolve(self.settings.answers))
        return reviews_of(self.collected()[0], read_reviews(path))

    @once
    def pairs(self) -> list[Pair]:
        """Give all pairs, before curation, in the order of their chunks, in their reviewers' words."""
        return [accounts.edited(pair, self.reviews().get(pair.id)) for pair in self.collected()[0]]

    @once
    def measure(self) -> list[Measures]:
        """Measure each pair, parallel to ``pairs``."""
        language = self.settings.instruction_language
        return accounts.measured(self.pairs(), self.fetch().chunks, asked_language=language)

    @once
    def judge(self) -> dict[str, Verdict]:
        """Ask the judge about every pair and give the verdicts by pair id; none without a judge model."""
        model = self.settings.judge_model
        if not model:
            return {}
        pairs = self.pairs()
        with recorded(self.run), self.endpoint_for(model) as endpoint:
            recipe = judge_recipe(self.settings, endpoint)
            questions = Questions(pairs, lambda pair: verdict_question(pair, recipe))
            self._ask(questions, endpoint=endpoint, what="verdicts")
            return read_verdicts(pairs, recipe, self.answers())

    def _ask(
        self,
        questions: Questions[Any],
        *,
        endpoint: Endpoint,
        what: str,
        pilot: Callable[[], None] | None = None,
    ) -> GenerationReport:
        spent = self.begin_asking(self.answers())
        asking = asking_of(
            self.settings,
            endpoint,
            chunks=self.fetch().chunks,
            pilot=pilot,
            patience=self.patience,
            spent_usd=spent,
        )
        asking = replace(asking, retry_failed=bool(self.environ.get(RETRY_FAILED)))
        with shown_progress(len(questions), run=self.run, what=what) as progress:
            report = ask(
                questions,
                endpoint=endpoint,
                answers=self.answers(),
                asking=asking,
                progress=progress,
                on_report=lambda report: self.keep_report(what, report),
            )
        if line := accounts.other_model(endpoint.model, report):
            tell(self.run, line)
        if report.pending:
            raise RunIncomplete(
                f"{report.pending} of {report.questions} {what} are pending, {report.stopped}; "
                "the same command goes on"
            )
        return report

    def _pilot(self) -> None:
        """Look at the first answers before the rest is paid for."""
        chunks = list(islice(self.fetch().chunks, PILOT_CHUNKS))
        pairs, rows = collect_pairs(chunks, self.question(), self.answers())
        self.refine(chunks, rows)
        language = self.settings.instruction_language
        measures = accounts.measured(pairs, chunks, asked_language=language)
        found = raise_alarms(pairs, measures, instruction_language=language)
        self._heed(alarm_of_none(rows, pairs) + found)

    def _heed(self, found: Iterable[Alarm], *, always: Collection[str] = ()) -> None:
        """Stop by an alarm, if the gate says so or it is one of those that always stop."""
        gate = self.settings.quality_gate
        stopping = [one for one in found if one.level == "alarm" and (gate == "stop" or one.name in always)]
        if stopping:
            raise QualityGate(accounts.alarm_text(stopping))

    @contextmanager
    def _partial_ledger(self) -> Iterator[None]:
        """On an error, leave a ledger that says what is answered and what is pending."""
        try:
            yield
        except BaseException:
            with suppress(LlmTwinError):
                _, rows = collect_pairs(self.fetch().chunks, self.question(), self.answers())
                ledger = accounts.final_rows(rows, {}, self.fetch().skipped)
                write_ledger(self.run.ledger_file, ledger)
                totals = accounts.totals_of(ledger, self._reports.values(), contents=self.fetch().contents)
                self.run.update(totals=totals)
            raise
