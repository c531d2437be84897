"""The first steps of the spine: what it opens and reads, what asking will cost, and if it may."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Self

from llmtwin_data.answers import AnswerStore
from llmtwin_data.chunks import Chunk
from llmtwin_data.endpoints import Endpoint, address_of, open_endpoint
from llmtwin_data.endpoints.pacing import Patience
from llmtwin_data.environment import read_environ, withheld_key
from llmtwin_data.errors import SourceError
from llmtwin_data.folders import RunFolder, resolve
from llmtwin_data.generation import GenerationReport, LedgerRow
from llmtwin_data.generator import accounts, forecasts
from llmtwin_data.generator.fetching import Fetched, fetch_chunks
from llmtwin_data.generator.forecasts import Outlook, Row
from llmtwin_data.generator.once import once
from llmtwin_data.generator.progress import tell
from llmtwin_data.generator.questions import question_maker
from llmtwin_data.params import Params
from llmtwin_data.prices import Forecast, add_up
from llmtwin_data.processes.sessions import new_run_dir
from llmtwin_data.prompts import Question
from llmtwin_data.sources import Source, open_source, source_address
from llmtwin_data.summaries.run_tables import REFINED, forecast_words
from llmtwin_data.summaries.sampling import stratified_sample

if TYPE_CHECKING:
    import pandas

TOO_LONG = (
    "batch_size: the endpoint refused batches as too long for its context; they are sent in smaller ones. "
    "A smaller batch_size or chunk_chars spares the refusals"
)
CANNOT_COPY = (
    "batch_size: the endpoint does not copy the first words of a text, by which an answer shows which one it "
    "read; each request holds one content. batch_size 1 spares the first ones"
)


class Planning:
    """Fetch and forecast; each step calls the one before it, and opens what it needs, when that is needed.

    Parameters
    ----------
    environ
        Addresses and keys; the process's own and ``.env`` where none is given.
    open_source, open_endpoint
        How contents and models are reached, called as those of ``sources`` and ``endpoints`` are.
    """

    def __init__(
        self,
        settings: Params,
        *,
        environ: Mapping[str, str] | None = None,
        patience: Patience | None = None,
        open_source: Callable[..., AbstractContextManager[Source]] = open_source,
        open_endpoint: Callable[..., AbstractContextManager[Endpoint]] = open_endpoint,
    ) -> None:
        self.settings = settings
        self.environ = read_environ() if environ is None else environ
        self.run = RunFolder(resolve(settings.run_dir) if settings.run_dir else new_run_dir("notebook"))
        self.patience = patience or Patience()
        self._open_source = open_source
        self._open_endpoint = open_endpoint
        self._open = ExitStack()
        self._results: dict[str, Any] = {}
        self._reports: dict[str, GenerationReport] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the endpoint and the store of answers; a later step opens them again."""
        if "answers" in self._results:
            self._tell_notes(self.answers())
        for name in ("answers", "endpoint", "question"):
            self._results.pop(name, None)
        self._open.close()

    @once
    def answers(self) -> AnswerStore:
        """Open the store of answers."""
        store = self._open.enter_context(AnswerStore(resolve(self.settings.answers)))
        self._tell_notes(store)
        return store

    @once
    def endpoint(self) -> Endpoint:
        """Open the endpoint that the settings and the environment mean."""
        return self._open.enter_context(self._opened(self.settings.model))

    def endpoint_for(self, model: str) -> AbstractContextManager[Endpoint]:
        """Open the endpoint for a model; the settings' own stays open until the run is closed."""
        return nullcontext(self.endpoint()) if model == self.settings.model else self._opened(model)

    @once
    def source(self) -> str:
        """Give the address of the contents, as the settings and the environment mean it."""
        return source_address(self.settings.qdrant, environ=self.environ)

    @once
    def fetch(self) -> Fetched:
        """Read, cut and screen the contents; the chunks lie on disk.

        Raises
        ------
        SourceError
            There is nothing to ask about: no content, or none that is not skipped.
        ParamsError
            ``max_cost_usd`` cannot hold without a price, or does not pay for one request.
        """
        self._tell_withheld(self.source(), "QDRANT_API_KEY")
        forgotten = self.answers().forgotten_hashes()
        spool = self.run.work / "chunks.jsonl"
        with self._open_source(self.source(), api_key=self.environ.get("QDRANT_API_KEY", "")) as source:
            fetched = fetch_chunks(source, self.settings, path=spool, forgotten=forgotten)
        if not fetched.chunks:
            raise SourceError(accounts.nothing_text(self.settings, fetched.skipped))
        self.check_limit(self.settings.max_cost_usd, fetched.chunks)
        return fetched

    def check_limit(self, max_cost_usd: float, chunks: Iterable[Chunk]) -> None:
        """Raise ParamsError if such a limit cannot hold without a price, or does not pay for one request."""
        settings = replace(self.settings, max_cost_usd=max_cost_usd)
        if max_cost_usd:
            forecasts.check_prices(settings, environ=self.environ, open_endpoint=self._open_endpoint)
            answered = self.answers().answered
            forecasts.check_limit(chunks, settings, endpoint=self.endpoint(), answered=answered)

    @once
    def question(self) -> Callable[[Any], Question]:
        """Give the function from a chunk to what is asked about it."""
        return question_maker(self.settings, self.endpoint())

    @once
    def forecast(self) -> pandas.DataFrame:
        """Say what generating and judging will take, one row a step, collection and data type."""
        return forecasts.forecast_frame(self._rows())

    @once
    def forecast_trials(self) -> pandas.DataFrame:
        """Say what notebook 2 will take."""
        return forecasts.forecast_frame(self._trials().rows)

    @once
    def forecast_run(self) -> pandas.DataFrame:
        """Say what notebooks 2 and 3 will take together, and keep it in the file of a run."""
        outlook = self._trials()
        outlook.add("instructions", self.settings, self.fetch().chunks, self.answers())
        if self.run.read():
            self._announce(outlook.rows)
        return forecasts.forecast_frame(outlook.rows)

    @once
    def forecast_variants(self) -> pandas.DataFrame:
        """Say what the instructions for all chunks will take with each prompt, model and language named."""
        rows = forecasts.variant_rows(self.settings, self.fetch().chunks, self.endpoint_for, self.answers())
        return forecasts.forecast_frame(rows)

    def announce_trials(self) -> None:
        """Say and keep what tuning will ask, if the run has not said so."""
        self._announce(self._trials().rows)

    def announce(self) -> None:
        """Say and keep what generating and judging will take, if the run has not said so."""
        self._announce(self._rows())

    def refine(self, chunks: Sequence[Chunk], asked: Sequence[LedgerRow]) -> None:
        """Say what the forecast becomes by what the first chunks took, whose ledger is given."""
        rows = forecasts.refined(
            self._rows(), chunks, asked, settings=self.settings, endpoint=self.endpoint()
        )
        whole = add_up(forecasts.by_step(rows)["instructions"])
        words = forecast_words(whole)
        tell(self.run, f"Forecast of instructions after the first {len(chunks)} chunks: {words}")
        known = self.run.read().get("forecast", {})
        self.run.update(forecast=known | {REFINED: asdict(whole)})

    def keep_report(self, what: str, report: GenerationReport) -> None:
        """Count what was asked towards this run, here and in run.json."""
        self._reports[what] = report
        told = self.run.read().get("asked", {})
        asked = told | {what: accounts.added_report(told.get(what), report)}
        self.run.update(asked=asked, asking=None)
        if report.too_long:
            tell(self.run, TOO_LONG)
        if report.cannot_copy:
            tell(self.run, CANNOT_COPY)

    def begin_asking(self, answers: AnswerStore) -> float:
        """Give what counts towards this run's limit, 0 without one, before this store is added to."""
        return accounts.begin_asking(self.run, answers) if self.settings.max_cost_usd else 0.0

    def _opened(self, model: str) -> AbstractContextManager[Endpoint]:
        self._tell_withheld(address_of(self.settings.endpoint, self.environ), "OPENAI_API_KEY")
        return self._open_endpoint(self.settings.endpoint, model=model, environ=self.environ)

    def _tell_withheld(self, address: str, name: str) -> None:
        if note := withheld_key(address, name, environ=self.environ):
            tell(self.run, note)

    def _tell_notes(self, store: AnswerStore) -> None:
        """Say what had to be mended in the store."""
        while store.notes:
            tell(self.run, store.notes.pop(0))

    @once
    def _rows(self) -> list[Row]:
        outlook = Outlook(self.endpoint_for)
        outlook.add("instructions", self.settings, self.fetch().chunks, self.answers())
        return outlook.rows

    def _trials(self) -> Outlook:
        sample = stratified_sample(
            self.fetch().chunks, most=self.settings.tune_sample, seed=self.settings.seed
        )
        outlook = Outlook(self.endpoint_for)
        forecasts.add_trials(outlook, self.settings, sample, self.answers())
        return outlook

    def _announce(self, rows: Iterable[Row]) -> None:
        """Say and keep what the steps that are not forecast yet will take."""
        known = self.run.read().get("forecast", {})
        new = {step: found for step, found in forecasts.by_step(rows).items() if step not in known}
        totals = known | {step: asdict(add_up(found)) for step, found in new.items()}
        self.run.update(forecast=totals)
        for step, found in new.items():
            for name in dict.fromkeys(row.collection for row in found if row.requests):
                words = forecast_words(add_up(row for row in found if row.collection == name))
                tell(self.run, f"Forecast of {step} for {name}: {words}", aloud=False)
        if new:
            whole = add_up(Forecast(**total) for step, total in totals.items() if step != REFINED)
            tell(self.run, f"Forecast of all: {forecast_words(whole)}", aloud=False)
