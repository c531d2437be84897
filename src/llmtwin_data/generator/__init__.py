"""The spine: from a collection to a published dataset, one step a method, each made once and resumable."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from llmtwin_data import judging
from llmtwin_data.curation import Decision, Rules, curate
from llmtwin_data.curation.alarms import EMPTY, Alarm, alarm_of_none, raise_alarms
from llmtwin_data.datasets import Making, dataset_rows, publish_dataset, run_fields
from llmtwin_data.datasets.ledgers import write_ledger
from llmtwin_data.datasets.manifests import Manifest
from llmtwin_data.folders import resolve
from llmtwin_data.generation import LedgerRow
from llmtwin_data.generator import accounts
from llmtwin_data.generator.drafting import Drafting
from llmtwin_data.generator.once import once
from llmtwin_data.generator.previous import dataset_name_of, previous_sides, remember
from llmtwin_data.generator.questions import prompt_words
from llmtwin_data.generator.reviews import labels_of, read_reviews, reviews_file
from llmtwin_data.judging import Chooser, Judged, compare_choosers, write_judged
from llmtwin_data.languages import NORMAL_FORM
from llmtwin_data.processes.sessions import finish, recorded
from llmtwin_data.screening import screened_counts
from llmtwin_data.splits import Split, sides_of_copies, split_pairs


class DatasetGenerator(Drafting):
    """Fetch, generate, curate and publish one dataset; each step calls the one before it when needed."""

    @once
    def curate(self) -> list[Decision]:
        """Decide on each pair by measures, verdicts and reviews, parallel to ``pairs``."""
        return curate(
            self.pairs(),
            self.measure(),
            rules=self.rules(),
            verdicts=self.judge(),
            turned_down={pair_id for pair_id, review in self.reviews().items() if not review.accepted},
            prompt_words=prompt_words(self.settings),
        )

    @once
    def judged(self) -> list[Judged]:
        """Put the judge's verdict on each pair beside what is known without it; empty without a judge."""
        if not self.settings.judge_model:
            return []
        return accounts.judged(self.pairs(), self.measure(), self.judge(), self.curate())

    def choosers(self) -> list[Chooser]:
        """Set the judge beside length and chance, and all three against the decisions of people."""
        reviews = read_reviews(reviews_file(resolve(self.settings.answers)))
        labels = {(label.id, label.instruction): label.accepted for label in labels_of(reviews)}
        return compare_choosers(self.judged(), labels, min_judge_score=self.settings.min_judge_score)

    @once
    def alarms(self) -> list[Alarm]:
        """Look at all pairs together for what should stop a run."""
        language = self.settings.instruction_language
        found = raise_alarms(self.pairs(), self.measure(), instruction_language=language)
        return alarm_of_none(self.ledger(), self.pairs()) + found

    @once
    def split(self) -> Split:
        """Put the accepted pairs on the sides of train and test; its sides are parallel to ``pairs``."""
        decisions = self.curate()
        accepted = [pair for pair, decision in zip(self.pairs(), decisions, strict=True) if decision.accepted]
        found = split_pairs(
            accepted,
            test_fraction=self.settings.test_fraction,
            seed=self.settings.seed,
            previous=self.previous(),
        )
        return accounts.spread_split(found, decisions)

    def sides(self) -> list[str]:
        """Give the side of each pair, parallel to ``pairs``: train, test, or nothing."""
        return self.split().sides

    @once
    def decisions(self) -> list[Decision]:
        """Give the last word on each pair, parallel to ``pairs``: curation's, then the split's."""
        return accounts.final_decisions(self.curate(), self.split())

    @once
    def ledger(self) -> list[LedgerRow]:
        """Give one row per chunk and instruction in its final state, skipped contents last."""
        decided = dict(zip([pair.place for pair in self.pairs()], self.decisions(), strict=True))
        return accounts.final_rows(self.collected()[1], decided, self.fetch().skipped)

    def publish(self) -> Path:
        """Write ledger and dataset, whole or not at all, and give the dataset's folder.

        Raises
        ------
        QualityGate
            Nothing is accepted, or an alarm, and ``quality_gate`` is ``stop``: the ledger is written, the
            dataset is not.
        RunIncomplete
            Some instructions are pending.
        """
        # Before the lock, since the steps that these call take it for themselves.
        ledger, alarms = self.ledger(), self.alarms()
        with recorded(self.run):
            write_ledger(self.run.ledger_file, ledger)
            fetched = self.fetch()
            changed = {"source_changed": fetched.source_changed, "source_counts": fetched.counts}
            self.run.update(totals=self.totals(), **changed)
            self._keep_judged()
            self._heed(alarms, always=(EMPTY,))
            manifest = self._write()
            changes = remember(self.settings, manifest, self.run)
            self.run.update(**run_fields(self.run, manifest), changes=changes)
            finish(self.run)
        return self.run.dataset

    def rules(self) -> Rules:
        """Give the thresholds of curation that the settings hold."""
        return Rules(**{item.name: getattr(self.settings, item.name) for item in fields(Rules)})

    @once
    def dataset_name(self) -> str:
        """Name the dataset: as the settings say, or by the data types of its contents."""
        return dataset_name_of(self.settings, {chunk.data_type for chunk in self.fetch().chunks})

    @once
    def previous(self) -> dict[str, str]:
        """Give the sides that contents have in the dataset before this one."""
        return previous_sides(self.settings, self.dataset_name())

    def totals(self) -> dict[str, Any]:
        """Give what became of everything read, and what this run cost."""
        contents = self.fetch().contents
        return accounts.totals_of(self.ledger(), self._reports.values(), contents=contents)

    def _keep_judged(self) -> None:
        if self.judged():
            write_judged(self.run.path / judging.FILE, self.judged())
            self.run.update(judge=[asdict(chooser) for chooser in self.choosers()])

    def _write(self) -> Manifest:
        train, test = dataset_rows(self.pairs(), self.measure(), self.judge(), self.sides())
        known = self.previous() | self.split().contents
        making = Making(
            name=self.dataset_name(),
            ledger=self.ledger(),
            certificate=self.split().certificate,
            rules=asdict(self.rules())
            | {"chunk_chars": self.settings.chunk_chars, "normal_form": NORMAL_FORM},
            screened=screened_counts(self.fetch().fates),
            previous_sides=known | sides_of_copies(self.pairs(), self.curate(), known),
            notes=accounts.notes_of(self.settings, self.endpoint()),
        )
        return publish_dataset(train, test, making, run=self.run)
