"""The spine: from a collection to a published dataset, one step a method, each made once and resumable."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtwin_data import accounts, endpoints, sources
from llmtwin_data.alarms import Alarm, raise_alarms
from llmtwin_data.answers import AnswerStore
from llmtwin_data.curation import Decision, Rules, curate
from llmtwin_data.datasets import dataset_rows, publish_dataset, run_fields
from llmtwin_data.endpoints import Endpoint
from llmtwin_data.environment import read_environ
from llmtwin_data.errors import LlmTwinError, QualityGate
from llmtwin_data.fetching import Fetched, fetch_chunks
from llmtwin_data.folders import RunFolder, resolve
from llmtwin_data.generation import GenerationReport, LedgerRow, Pair, ask, collect_pairs
from llmtwin_data.judging import Verdict, read_verdicts, verdict_question
from llmtwin_data.ledgers import write_ledger
from llmtwin_data.manifests import Manifest
from llmtwin_data.measures import Measures
from llmtwin_data.once import once
from llmtwin_data.pacing import Patience
from llmtwin_data.params import Params
from llmtwin_data.previous import dataset_name_of, previous_sides, remember
from llmtwin_data.progress import shown_progress
from llmtwin_data.prompts import DataFormatter, Question
from llmtwin_data.questions import asking_of, judge_recipe, question_maker
from llmtwin_data.reviews import Review, read_reviews, reviews_file, reviews_of
from llmtwin_data.sessions import finish, new_run_dir, opening_fields, recorded
from llmtwin_data.splits import Split, split_pairs

if TYPE_CHECKING:
    pass

# Set by the driver for `--retry-failed`.
RETRY_FAILED = "LLMTWIN_RETRY_FAILED"
# Chunks that are looked at before the rest is paid for.
PILOT_CHUNKS = 32


class DatasetGenerator:
    """Fetch, generate, curate and publish one dataset; each step calls the one before it when needed.

    Parameters
    ----------
    environ
        Addresses and keys; the process's own and ``.env`` where none is given.
    open_source, open_endpoint
        The seams to Qdrant and to the LLM.
    formatter
        Contents to prompt, as in the course.
    """

    def __init__(
        self,
        settings: Params,
        *,
        environ: Mapping[str, str] | None = None,
        open_source: Callable[..., Any] = sources.open_source,
        open_endpoint: Callable[..., Any] = endpoints.open_endpoint,
        formatter: type[DataFormatter] = DataFormatter,
        patience: Patience | None = None,
    ) -> None:
        self.settings = settings
        self.environ = read_environ() if environ is None else environ
        self.run = RunFolder(resolve(settings.run_dir) if settings.run_dir else new_run_dir("notebook"))
        self.formatter = formatter
        self._open_source, self._open_endpoint = open_source, open_endpoint
        self._patience = patience or Patience()
        self._open = ExitStack()
        self._results: dict[str, Any] = {}

    def __enter__(self) -> DatasetGenerator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the endpoint and the store of answers; a later step opens them again."""
        for name in ("answers", "endpoint", "question"):
            self._results.pop(name, None)
        self._open.close()

    @once
    def answers(self) -> AnswerStore:
        """Open the store of answers."""
        return self._open.enter_context(AnswerStore(resolve(self.settings.answers)))

    @once
    def endpoint(self) -> Endpoint:
        """Open the endpoint that the settings and the environment mean."""
        opened = self._open_endpoint(self.settings.endpoint, model=self.settings.model, environ=self.environ)
        found: Endpoint = self._open.enter_context(opened)
        return found

    @once
    def source(self) -> str:
        """Give the address of the contents, as the settings and the environment mean it."""
        return sources.source_address(self.settings.qdrant, environ=self.environ)

    @once
    def fetch(self) -> Fetched:
        """Read, cut and screen the contents; the chunks lie on disk."""
        forgotten = self.answers().forgotten_hashes()
        spool = self.run.work / "chunks.jsonl"
        with self._open_source(self.source(), api_key=self.environ.get("QDRANT_API_KEY", "")) as source:
            return fetch_chunks(source, self.settings, path=spool, forgotten=forgotten)

    @once
    def question(self) -> Callable[[Any], Question]:
        """Give the function from a chunk to what is asked about it."""
        return question_maker(self.settings, self.endpoint())

    @once
    def generate(self) -> GenerationReport:
        """Ask for every instruction that is not stored; after an interrupt or fault, all answers are."""
        chunks = self.fetch().chunks
        with recorded(self.run), self._partial_ledger():
            self.run.update(**opening_fields(self.settings, self.endpoint(), source=self.source()))
            if self.environ.get(RETRY_FAILED):
                self.answers().retry_failed([self.question()(chunk).key for chunk in chunks])
            questions = map(self.question(), chunks)
            return self._ask(questions, len(chunks), endpoint=self.endpoint(), pilot=self._pilot)

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
        opened = self._open_endpoint(self.settings.endpoint, model=model, environ=self.environ)
        with recorded(self.run), opened as endpoint:
            recipe = judge_recipe(self.settings, endpoint)
            questions = [verdict_question(pair, recipe) for pair in self.pairs()]
            report = self._ask(questions, len(questions), endpoint=endpoint, what="verdicts")
            self._results["judging"] = report
            return read_verdicts(self.pairs(), recipe, self.answers())

    @once
    def curate(self) -> list[Decision]:
        """Decide on each pair by measures, verdicts and reviews, parallel to ``pairs``."""
        verdicts, reviews = self.judge(), self.reviews()
        return curate(self.pairs(), self.measure(), rules=self.rules(), verdicts=verdicts, reviews=reviews)

    @once
    def alarms(self) -> list[Alarm]:
        """Look at all pairs together for what should stop a run."""
        language = self.settings.instruction_language
        return raise_alarms(self.pairs(), self.measure(), instruction_language=language)

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

    @once
    def decisions(self) -> list[Decision]:
        """Give the last word on each pair, parallel to ``pairs``: curation's, then the split's."""
        return accounts.final_decisions(self.curate(), self.split())

    @once
    def ledger(self) -> list[LedgerRow]:
        """Give one row per chunk and instruction in its final state, skipped contents last."""
        decided = dict(zip(map(accounts.pair_place, self.pairs()), self.decisions(), strict=True))
        return accounts.final_rows(self.collected()[1], decided, self.fetch().skipped)

    def publish(self) -> Path:
        """Write ledger and dataset, whole or not at all, and give the dataset's folder.

        Raises
        ------
        QualityGate
            An alarm, and ``quality_gate`` is ``stop``: the ledger is written, the dataset is not.
        RunIncomplete
            Some instructions are pending.
        """
        with recorded(self.run):
            write_ledger(self.run.ledger_file, self.ledger())
            self.run.update(totals=self.totals(), source_changed=self.fetch().source_changed)
            self._heed(self.alarms())
            manifest = self._write()
            remember(self.settings, manifest)
            self.run.update(**run_fields(self.run, manifest))
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
        reports = [self._results[step] for step in ("generate", "judging") if step in self._results]
        return accounts.totals_of(self.ledger(), reports, contents=self.fetch().contents)

    def _ask(
        self,
        questions: Iterable[Question],
        total: int,
        *,
        endpoint: Endpoint,
        what: str = "instructions",
        pilot: Callable[[], None] | None = None,
    ) -> GenerationReport:
        asking = asking_of(self.settings, endpoint, pilot=pilot, patience=self._patience)
        with shown_progress(total, run=self.run, what=what) as progress:
            return ask(questions, endpoint=endpoint, answers=self.answers(), asking=asking, progress=progress)

    def _pilot(self) -> None:
        """Look at the first answers before the rest is paid for."""
        chunks = list(islice(self.fetch().chunks, PILOT_CHUNKS))
        pairs, _ = collect_pairs(chunks, self.question(), self.answers())
        language = self.settings.instruction_language
        measures = accounts.measured(pairs, chunks, asked_language=language)
        self._heed(raise_alarms(pairs, measures, instruction_language=language))

    def _heed(self, found: Iterable[Alarm]) -> None:
        stopping = [alarm for alarm in found if alarm.level == "alarm"]
        if stopping and self.settings.quality_gate == "stop":
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
                self.run.update(totals=accounts.totals_of(ledger, (), contents=self.fetch().contents))
            raise

    def _write(self) -> Manifest:
        train, test = dataset_rows(self.pairs(), self.measure(), self.judge(), self.split().sides)
        return publish_dataset(
            train,
            test,
            run=self.run,
            name=self.dataset_name(),
            ledger=self.ledger(),
            certificate=self.split().certificate,
            rules=asdict(self.rules()),
            previous_sides=self.previous(),
            notes=accounts.notes_of(self.settings, self.endpoint()),
        )
