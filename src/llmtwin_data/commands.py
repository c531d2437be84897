"""What each command does besides `run`; lines go to ``say``, an exit code comes back."""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmtwin_data.environment import redact, secret_values, withheld_key
from llmtwin_data.errors import ParamsError, QualityGate, TrackingFailed
from llmtwin_data.folders import PROJECT_ROOT, RunFolder, resolve, told

Say = Callable[[str], None]
Environ = Mapping[str, str]


def load(given: Namespace, environ: Environ, say: Say) -> int:
    """Load a JSONL file into a collection."""
    from llmtwin_data.sources.loading import load_jsonl

    with _source(given.qdrant, environ, say) as source:
        before = source.count(given.collection) if given.collection in source.collections() else 0
        count = load_jsonl(source, given.file, collection=given.collection)
        new = source.count(given.collection) - before
        lines = _counted(count, "line") + (f" ({new or 'none'} new)" if new < count else "")
        say(f"Loaded {lines} into {given.collection} at {source.address}")
    return 0


def check(given: Namespace, environ: Environ, say: Say) -> int:
    """Verify a run from its files."""
    from llmtwin_data.datasets.checks import check_run

    findings = check_run(_run_dir(given.run_dir).path)
    for finding in findings:
        say(finding)
    say(
        f"{given.run_dir}: {_counted(len(findings), 'finding')}"
        if findings
        else f"{given.run_dir}: every promise holds"
    )
    return QualityGate.exit_code if findings else 0


def publish(given: Namespace, environ: Environ, say: Say) -> int:
    """Attach a finished run to Comet, whatever its params say about that."""
    from llmtwin_data.tracking import publish_run

    done = publish_run(_run_dir(given.run_dir).path, environ=environ, mode="online")
    say(redact(done.line, secret_values(environ)))
    codes = {"pending": TrackingFailed.exit_code, "refused": QualityGate.exit_code}
    return codes.get(done.state, 0)


def report(given: Namespace, environ: Environ, say: Say) -> int:
    """Write a report again, or compare runs."""
    from llmtwin_data.reports import write_report
    from llmtwin_data.reports.compare_reports import FILE_NAME, compare_report
    from llmtwin_data.runs import file_hashes

    # A pattern such as runs/mine/* also gives the link to the latest, and an earlier comparison.
    found = [path for path in given.run_dirs if path.name != FILE_NAME]
    runs = list(dict.fromkeys(_run_dir(path) for path in found or given.run_dirs))
    if len(runs) > 1:
        say(f"Comparison: {told(compare_report([run.path for run in runs]))}")
        return 0
    say(f"Report: {told(write_report(runs[0].path))}")
    runs[0].update(files=file_hashes(runs[0]))
    return 0


def audit(given: Namespace, environ: Environ, say: Say) -> int:
    """Measure anyone's dataset."""
    from llmtwin_data.audits import audit as look_through

    if not given.dataset.exists():
        raise ParamsError(f"{given.dataset}: expected a dataset file or folder, found nothing")
    # Not beside the dataset: that may be a run folder, or one that is not the reader's to write in.
    out = given.out or Path(f"{given.dataset.resolve().name}-audit")
    of_run = (given.dataset / "run.json").is_file()
    dataset = given.dataset / "dataset" if of_run else given.dataset
    with _contents(given, environ, say) as contents:
        result = look_through(dataset, contents=contents, out_dir=out)
    for line in [*result.findings, *(f"note: {note}" for note in result.notes)]:
        say(line)
    found = _counted(len(result.findings), "finding")
    say(f"{found} in {result.rows}; report: {result.report}")
    return QualityGate.exit_code if result.findings else 0


def label(given: Namespace, environ: Environ, say: Say) -> int:
    """Turn what people decided in notebook 4 into labels of a run, and set its judge beside them."""
    from llmtwin_data.generator.reviews import LABELS, label_run, read_reviews, reviews_file
    from llmtwin_data.judging import FILE, chooser_frame, compare_choosers, read_judged
    from llmtwin_data.params import Params

    run = _run_dir(given.run_dir)
    params = Params().as_dict() | run.read().get("params", {})
    reviews = reviews_file(resolve(params["answers"]))
    labels = label_run(run, read_reviews(reviews))
    if not labels:
        raise ParamsError(
            f"{told(reviews)}: expected decisions about pairs of this run, found none; "
            "open notebooks/4_review_pairs.ipynb with its params, and accept, reject or edit some"
        )
    good, edits = sum(it.accepted for it in labels), sum(bool(it.edit) for it in labels)
    say(f"{told(run.path / LABELS)}: {_counted(len(labels), 'label')}, {good} good as worded, {edits} edited")
    known = {(it.id, it.instruction): it.accepted for it in labels}
    judged = read_judged(run.path / FILE)
    choosers = compare_choosers(judged, known, min_judge_score=params["min_judge_score"])
    say(
        chooser_frame(choosers).to_string(index=False, na_rep="-")
        if judged
        else "No judge: judge_model is empty"
    )
    return 0


def trace(given: Namespace, environ: Environ, say: Say) -> int:
    """Print where a row comes from."""
    from llmtwin_data.datasets.lineage import trace as tell

    with _store(given) as answers:
        say(tell(given.row_id, _run_dirs(given), answers))
    return 0


def diff(given: Namespace, environ: Environ, say: Say) -> int:
    """Say what became of one dataset in another."""
    from llmtwin_data.datasets.versions import diff_datasets

    say(str(diff_datasets(given.before, given.after)))
    return 0


def forget(given: Namespace, environ: Environ, say: Say) -> int:
    """Take an author, a link or a content out of answers and datasets."""
    from llmtwin_data.datasets.forgetting import forget as take_out
    from llmtwin_data.datasets.mentions import Wanted, find_wanted
    from llmtwin_data.generator.reviews import reviews_file

    wanted = Wanted(given.author, given.link, given.content, given.collection)
    runs, named = _run_dirs(given), [path.resolve() for path in given.runs]
    with _store(given) as answers:
        if given.dry_run:
            mentions, _ = find_wanted(answers, runs, wanted, named=named)
            lines = [str(item) for item in mentions] or ["nothing is left of it"]
            say("\n".join(["would go, and rows that quote it:", *lines, "nothing was changed"]))
            return 0
        say(str(take_out(answers, runs, wanted, named=named, reviews=reviews_file(answers.path))))
    return 0


def answers(given: Namespace, environ: Environ, say: Say) -> int:
    """Show what is stored and what it cost."""
    from llmtwin_data.answers import AnswerStore

    with _store(given) as store:
        totals = store.totals()
        for note in store.notes:
            say(note)
        path = store.path
    for name, value in totals.items():
        for line in _lines(name, value):
            say(line)
    for trials in sorted(path.parent.glob(f"{path.stem}.batch*{path.suffix}")):
        with AnswerStore(trials) as store:
            sums = store.totals()
        words = "{requests} requests, {cost_usd:.4f} USD, {cost_unknown} of unknown cost".format(**sums)
        say(f"{trials.name}, trials of a batch size: {words}")
    return 0


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _lines(name: str, value: Any) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{name.replace('_', ' ')}: {round(value, 4) if isinstance(value, float) else value}"
        return
    yield f"{name}:" if value else f"{name}: none"
    for key, part in value.items():
        words = part if not isinstance(part, dict) else ", ".join(f"{k} {v}" for k, v in part.items())
        yield f"  {key or 'ok'}: {words}"


@contextmanager
def _source(qdrant: str, environ: Environ, say: Say) -> Iterator[Any]:
    from llmtwin_data.sources import open_source, source_address

    address = source_address(qdrant, environ=environ)
    if note := withheld_key(address, "QDRANT_API_KEY", environ=environ):
        say(note)
    with open_source(address, api_key=environ.get("QDRANT_API_KEY", "")) as source:
        yield source


@contextmanager
def _contents(given: Namespace, environ: Environ, say: Say) -> Iterator[Any]:
    """Give the contents of a collection, or of a JSONL file, which is loaded into a passing one."""
    from llmtwin_data.contents import Content, read_contents
    from llmtwin_data.sources.loading import load_jsonl

    if not given.contents:
        yield None
        return
    file = Path(given.contents)
    with tempfile.TemporaryDirectory() as folder:
        place, name = (folder, "contents") if file.is_file() else (given.qdrant, given.contents)
        with _source(place, environ, say) as source:
            if file.is_file():
                load_jsonl(source, file, collection=name)
            yield [item for item in read_contents(source, name) if isinstance(item, Content)]


@contextmanager
def _store(given: Namespace) -> Iterator[Any]:
    from llmtwin_data.answers import AnswerStore

    path = resolve(given.answers)
    if not path.exists():
        raise ParamsError(f"--answers {told(path)}: expected a store of answers, found no such file")
    with AnswerStore(path) as store:
        yield store


def _run_dir(path: Path) -> RunFolder:
    run = RunFolder(path.resolve())
    if not run.run_file.is_file():
        raise ParamsError(f"{path}: expected a run folder with run.json, found none")
    return run


def _run_dirs(given: Namespace) -> list[Path]:
    # Also those without run.json: notebooks in JupyterLab leave the texts that they only looked at.
    found = sorted(path for path in (PROJECT_ROOT / "runs").glob("*/*") if path.is_dir())
    own = [path.resolve() for path in found if not path.is_symlink()]
    return list(dict.fromkeys(own + [_run_dir(path).path for path in given.runs]))
