"""The seed's front door: its own class and method names, leading into the sequence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from llmtwin_data import pipeline
from llmtwin_data.contents import read_contents, records_of
from llmtwin_data.folders import new_run_dir, project_path
from llmtwin_data.params import Params, read_environ
from llmtwin_data.prompts import DataFormatter
from llmtwin_data.sources import open_source, source_address
from llmtwin_data.tracking import publish_run


class FileHandler(Protocol):
    """Takes the two files that the course's trainer reads."""

    def write_json(self, filename: str, data: list[dict[str, str]]) -> None:
        """Write the pairs under this name."""


class ApiCommunicator(Protocol):
    """Says which endpoint and model are asked: `endpoints.Endpoint` does."""

    base_url: str
    model: str


class DatasetGenerator:
    """From a collection to pairs of instruction and content, published to Comet.

    Parameters
    ----------
    file_handler
        Gets ``{collection}_training.json`` and ``{collection}_testing.json`` as well; the run folder has them
        in any case.
    api_communicator
        Whom to ask; else what settings and environment mean.
    data_formatter
        Words each batch of contents as it is sent.
    settings, environ
        Everything else, as any study says it; the defaults of `Params` and the process's own environment.
    """

    def __init__(
        self,
        file_handler: FileHandler | None = None,
        api_communicator: ApiCommunicator | None = None,
        data_formatter: type[DataFormatter] = DataFormatter,
        *,
        settings: Params | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.file_handler, self.data_formatter = file_handler, data_formatter
        self.settings = settings or Params()
        if api_communicator is not None:
            asked = api_communicator
            self.settings = replace(self.settings, endpoint=asked.base_url, model=asked.model)
        self.environ = read_environ() if environ is None else environ

    def generate_training_data(self, collection_name: str, batch_size: int = 1) -> list[dict[str, str]]:
        """Make the dataset of a collection, push it to Comet, and return its pairs, train before test."""
        settings = replace(
            self.settings,
            collections=(collection_name,),
            batch_size=batch_size,
            run_dir=self.settings.run_dir or project_path(new_run_dir(collection_name)),
        )
        ledger = pipeline.make_dataset(settings, environ=self.environ, formatter=self.data_formatter)
        pairs: list[dict[str, str]] = []
        for side, name in (("train", "training"), ("test", "testing")):
            rows = records_of(ledger.loc[ledger.side == side, ["instruction", "content"]])
            if self.file_handler:
                self.file_handler.write_json(f"{collection_name}_{name}.json", rows)
            pairs += rows
        self.push_to_comet(pipeline.run_of(settings).path, collection_name)
        return pairs

    def fetch_all_cleaned_content(self, collection_name: str) -> list[str]:
        """Read the text of every content of a collection that has one."""
        address = source_address(self.settings.qdrant, environ=self.environ)
        with open_source(address, api_key=self.environ.get("QDRANT_API_KEY", "")) as source:
            contents = read_contents(source, collection_name)
            return [content.text for content in contents if content.text]

    def push_to_comet(self, run_dir: Path, collection_name: str) -> str:
        """Attach a finished run to Comet and return a line about it; what Comet does never harms the run."""
        publication = publish_run(run_dir, environ=self.environ, mode=self.settings.comet)
        return f"{collection_name}: {publication.line}"
