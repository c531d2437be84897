"""The doors of a run: store of answers, endpoint and source, each opened when it is first needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, Self

from llmtwin_data import endpoints, sources
from llmtwin_data.answers import AnswerStore
from llmtwin_data.endpoints import Endpoint
from llmtwin_data.endpoints.pacing import Patience
from llmtwin_data.environment import read_environ
from llmtwin_data.folders import RunFolder, resolve
from llmtwin_data.generation import GenerationReport
from llmtwin_data.generator.once import once
from llmtwin_data.generator.progress import tell
from llmtwin_data.params import Params
from llmtwin_data.processes.sessions import new_run_dir
from llmtwin_data.prompts import DataFormatter


class Openings:
    """The store of answers, the endpoint and the source of a run.

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
        self.patience = patience or Patience()
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
        opened = self._open_endpoint(self.settings.endpoint, model=self.settings.model, environ=self.environ)
        found: Endpoint = self._open.enter_context(opened)
        return found

    def _tell_notes(self, store: AnswerStore) -> None:
        """Say what had to be mended in the store."""
        while store.notes:
            tell(self.run, store.notes.pop(0))

    def _opened(self, model: str) -> AbstractContextManager[Endpoint]:
        """Open the endpoint for a model; the settings' own stays open until the run is closed."""
        if model == self.settings.model:
            return nullcontext(self.endpoint())
        opened: AbstractContextManager[Endpoint] = self._open_endpoint(
            self.settings.endpoint, model=model, environ=self.environ
        )
        return opened

    @once
    def source(self) -> str:
        """Give the address of the contents, as the settings and the environment mean it."""
        return sources.source_address(self.settings.qdrant, environ=self.environ)
