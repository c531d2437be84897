"""The command `llmtwin-data`: arguments in, lines and an exit code out."""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
import traceback
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtwin_data.errors import DEBUG, Interrupted, LlmTwinError, ParamsError, QualityGate, TrackingFailed
from llmtwin_data.folders import RUNS, RunFolder, display_path, require_clone, resolve
from llmtwin_data.texts import counted, with_escapes

if TYPE_CHECKING:
    from llmtwin_data.answers import AnswerStore
    from llmtwin_data.runs import Study
    from llmtwin_data.sources import Source

EXIT_CODES = """exit codes:
  0 complete              1 unexpected error       2 params or arguments     3 key or billing
  4 contents unreadable   5 incomplete, resumable  6 quality gate or check   7 already running
  8 disk                  130 interrupted, resumable"""
MOST_LINES = 10

Environ = Mapping[str, str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Do one command and return its exit code; an error is shown in few lines, and whole with ``--debug``."""
    given = make_parser().parse_args(arguments)
    # jsonschema would compile a grammar of IRIs as it is imported, for a second; no notebook holds one.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    environ = {DEBUG: "1"} if given.debug else {}
    try:
        # Here and below: what --help needs not is not loaded for it.
        from llmtwin_data.params import read_environ

        environ = read_environ() | environ
        require_clone()
        return int(given.handler(given, environ) or 0)
    except BrokenPipeError:
        # Whoever read our lines has seen enough, as `head` does; Python would complain once more at its exit.
        sys.stdout = None
        return 0
    except KeyboardInterrupt:
        return _fail(Interrupted("stopped"), environ)
    except Exception as error:
        return _fail(error, environ)


def make_parser() -> ArgumentParser:
    """Return the parser of all commands; each sets its ``handler``, which returns a code other than 0."""
    parser = ArgumentParser(
        prog="llmtwin-data",
        description="Instruction datasets from your own texts in Qdrant: generated, measured, proven.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for handler, words, more, arguments in COMMANDS:
        description = f"{words[0].upper()}{words[1:]}. {more}".strip()
        command = commands.add_parser(handler.__name__, help=words, description=description)
        command.set_defaults(handler=handler)
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        for names, options in arguments:
            command.add_argument(*names, **options)
    return parser


def load(given: Namespace, environ: Environ) -> None:
    """Load files into a collection, and say before what was understood of them."""
    from llmtwin_data.loading import read_files

    usual = {"author_id": given.author, "platform": given.platform, "type": given.type}
    loading = read_files(given.paths, text_field=given.text_field, usual=usual)
    # The last line alone is the command's result; what comes before it is for a person to look at.
    print("\n".join(loading.lines()), file=sys.stdout if given.dry_run else sys.stderr, flush=True)
    if given.dry_run:
        return
    with _source(given.qdrant, environ) as source:
        before = changed = 0
        if given.collection in source.collections():
            before, changed = source.count(given.collection), loading.changed(source, given.collection)
        source.write(given.collection, loading.points())
        count, new = len(loading), source.count(given.collection) - before
        noun = "line" if {*loading.files} <= {"", ".jsonl", ".ndjson"} else "text"
        others = f", {changed:,} changed" if changed else ""
        words = counted(count, noun) + (f" ({new or 'none'} new{others})" if new < count else "")
        _say(f"Loaded {words} into {given.collection} at {source.address}")


def run(given: Namespace, environ: Environ) -> int:
    """Run every study, one after another; one that fails does not stop the rest and gives the exit code."""
    from llmtwin_data.prices import add_up, forecast_words
    from llmtwin_data.reports import compare_report
    from llmtwin_data.runs import dry_run, run_params

    codes: list[int] = []
    finished: list[Path] = []
    forecasts: list[dict[str, Any]] = []
    say, progress = _while_heard("stdout")(_say), _while_heard("stdout")(progress_lines())
    studies = _studies(given, environ, codes)
    for study in studies:
        name = f"{study.stem} {study.varied}".strip() + ": " if len(studies) + len(codes) > 1 else ""
        try:
            if given.dry_run:
                forecasts += dry_run(study, environ=environ, say=say, name=name)
                continue
            outcome = run_params(study, environ=environ, say=say, progress=progress)
        except Exception as error:
            codes.append(_fail(error, environ, name=name))
            continue
        if code := outcome.exit_code:
            is_left = outcome.run_dir.exists()
            folder = display_path(outcome.run_dir) if is_left else "none is left, for nothing was asked"
            _print_error(f"{name}{outcome.message}\nrun folder: {folder}", environ, trace=outcome.traceback)
            codes.append(code)
            if code == Interrupted.exit_code:
                return code
        elif 3 in study.notebooks:  # the others alone make no dataset
            finished.append(outcome.run_dir)
    if len(forecasts) > 1:
        shared = "an answer that several of them share is counted for each, and asked once"
        say(f"All {counted(len(forecasts), 'run')}: {forecast_words(add_up(forecasts))}; {shared}")
    if len(finished) > 1:
        say(f"Comparison: {display_path(compare_report(finished))}")
    return next(iter(codes), 0)


def _studies(given: Namespace, environ: Environ, codes: list[int]) -> list[Study]:
    """Return the studies of every file; the code of a file that cannot be read joins the others."""
    from llmtwin_data.runs import studies_of

    studies: list[Study] = []
    for path in given.params:
        try:
            studies += studies_of(path, given.overrides)
        except LlmTwinError as error:
            codes.append(_fail(error, environ))
    if given.out and len(studies) + len(codes) > 1:
        raise ParamsError("--out: expected one run for one folder, found several; leave it out")
    only = tuple(sorted(set(given.only))) or (1, 2, 3)
    wanted = {"notebooks": only, "out": given.out, "retry_failed": given.retry_failed}
    return [replace(study, **wanted) for study in studies]


def check(given: Namespace, environ: Environ) -> int:
    """Verify a run from its files, and with a store of answers that each instruction is the stored one."""
    from llmtwin_data.checks import check_answers, check_run, publication_of
    from llmtwin_data.reviews import read_reviews, reviews_file

    run = _run_of(given.run_dir)
    findings = check_run(run.path)
    if given.answers and not findings:
        with _store(given) as store:
            edits = {(it.pair_id, it.instruction) for it in read_reviews(reviews_file(store.path))}
            findings = check_answers(run.path, store, edits=edits)
    result = counted(len(findings), "finding") if findings else "every promise holds"
    for line in [*findings, f"{given.run_dir}: {result}; {publication_of(run.path)}"]:
        _say(line)
    return QualityGate.exit_code if findings else 0


def publish(given: Namespace, environ: Environ) -> int:
    """Attach a finished run to Comet, whatever its params say about that."""
    from llmtwin_data.params import redact, secret_values
    from llmtwin_data.tracking import publish_run

    publication = publish_run(_run_of(given.run_dir).path, environ=environ, mode="online")
    _say(redact(publication.line, *secret_values(environ)))
    codes = {"pending": TrackingFailed.exit_code, "refused": QualityGate.exit_code}
    return codes.get(publication.state, 0)


def report(given: Namespace, environ: Environ) -> None:
    """Write a report again, or compare runs."""
    from llmtwin_data.reports import FILE_NAME, compare_report
    from llmtwin_data.runs import write_report

    # A pattern such as runs/mine/* also gives the link to the latest, and an earlier comparison.
    paths = [path for path in given.run_dirs if path.name != FILE_NAME] or given.run_dirs
    runs = list({run.path: run for run in map(_run_of, paths)}.values())
    if len(runs) > 1:
        _say(f"Comparison: {display_path(compare_report([run.path for run in runs]))}")
    else:
        _say(f"Report: {display_path(write_report(runs[0]))}")


def label(given: Namespace, environ: Environ) -> None:
    """Turn what people decided in notebook 4 into labels of a run, and set its judge beside them."""
    from llmtwin_data.contents import rows_of
    from llmtwin_data.judging import FILE, compare_judge, read_judged
    from llmtwin_data.params import Params
    from llmtwin_data.reviews import LABELS, label_run, read_reviews, reviews_file

    run = _run_of(given.run_dir)
    params = Params().as_dict() | run.read().get("params", {})
    reviews = reviews_file(resolve(params["answers"]))
    labels = label_run(run, read_reviews(reviews))
    if labels.empty:
        raise ParamsError(
            f"{display_path(reviews)}: expected decisions about pairs of this run, found none; "
            "open notebooks/4_review_pairs.ipynb with its params, and accept, reject or edit some"
        )
    good, edits = labels.accepted.sum(), (labels.edit != "").sum()
    counts = f"{counted(len(labels), 'label')}, {good} good as worded, {edits} edited"
    _say(f"{display_path(run.path / LABELS)}: {counts}")
    judged = read_judged(run.path / FILE)
    known = {(it.id, it.instruction): it.accepted for it in rows_of(labels)}
    choosers = compare_judge(judged, known, min_judge_score=params["min_judge_score"])
    table = choosers.to_string(index=False, na_rep="-")
    _say(table if len(judged) else "No judge: judge_model is empty")


def audit(given: Namespace, environ: Environ) -> int:
    """Measure anyone's dataset."""
    from llmtwin_data import audits

    if not given.dataset.exists():
        raise ParamsError(f"{given.dataset}: expected a dataset file or folder, found nothing")
    # Not beside the dataset: that may be a run folder, or one that is not the reader's to write in.
    out = given.out or Path(f"{given.dataset.resolve().name}-audit")
    is_run = (given.dataset / "run.json").is_file()
    dataset = given.dataset / "dataset" if is_run else given.dataset
    result = audits.audit(dataset, contents=_contents(given, environ), out_dir=out)
    for line in [*result.findings, *(f"note: {note}" for note in result.notes)]:
        _say(line)
    _say(f"{counted(len(result.findings), 'finding')} in {result.rows}; report: {result.report}")
    return QualityGate.exit_code if result.findings else 0


def style(given: Namespace, environ: Environ) -> None:
    """Print where answers lie between other authors' texts and the author's own."""
    from llmtwin_data import twin

    axis, words = twin.score_answers(given.answers, given.dataset)
    if len(axis):
        _say(axis[["texts", "scored", *twin.STYLE.values()]].round(3).to_string(index=False, na_rep="-"))
    _say(words.text.replace("**", "").replace("`", ""))


def trace(given: Namespace, environ: Environ) -> None:
    """Print where a row comes from."""
    from llmtwin_data import lineage

    with _store(given) as store:
        runs = [_run_of(path).path for path in given.runs] or _run_dirs(given)
        _say(lineage.trace(given.row_id, runs, store))


def diff(given: Namespace, environ: Environ) -> None:
    """Print what became of one dataset in another."""
    from llmtwin_data.lineage import describe_changes, diff_datasets

    _say(describe_changes(diff_datasets(given.before, given.after)))


def forget(given: Namespace, environ: Environ) -> None:
    """Take an author, a link or a content out of the answers, and list where else it is."""
    from llmtwin_data import lineage
    from llmtwin_data.answers import Origin
    from llmtwin_data.reviews import reviews_file

    origin = Origin(given.author, given.link, given.content, given.collection)
    runs, named = _run_dirs(given), [resolve(path.absolute()) for path in given.runs]
    with _store(given) as store:
        if not given.dry_run:
            _say(str(lineage.forget(store, runs, origin, named=named, reviews=reviews_file(store.path))))
            return
        pieces, _ = lineage.find_pieces(store, runs, origin, named=named)
    folders = [piece.run for piece in pieces if piece.run]
    parts = [
        counted(len({piece.span[:2] for piece in pieces}), "content"),
        f"{counted(len(pieces) - len(folders), 'piece')} in the store",
        f"{counted(len(folders), 'piece')} in {counted(len(set(folders)), 'run folder')}",
    ]
    lines = map(str, pieces) if pieces else ["nothing is left of it"]
    _say("\n".join(["would go, and what quotes it:", *lines]))
    _say(f"in all {', '.join(parts)}; nothing was changed")


def answers(given: Namespace, environ: Environ) -> None:
    """Print what is stored and what it cost."""
    from llmtwin_data.prices import format_usd

    with _store(given) as store:
        totals = store.totals()
        for note in store.notes:
            _say(note)

    def parts(name: str) -> str:
        return ", ".join(f"{key or 'ok'} {count:,}" for key, count in totals[name].items()) or "none"

    _say(f"Answers: {parts('answers')}" + (f"; failed for {parts('failed')}" if totals["failed"] else ""))
    _say(f"Requests: {parts('outcomes')}" + (f"; batches: {parts('batches')}" if totals["batches"] else ""))
    texts, forgotten = counted(totals["texts"], "text"), counted(totals["forgotten"], "forgotten mark")
    _say(f"Kept: {texts}, {forgotten}, {totals['bytes'] / 1e6:,.1f} MB")
    for model, paid in [*totals["models"].items(), ("All models", totals)]:
        if paid.get("requests"):
            tokens = f"{paid['prompt_tokens']:,} tokens in, {paid['completion_tokens']:,} out"
            cost = f"{format_usd(paid['cost_usd'])} USD"
            if paid["cost_unknown"] == paid["requests"]:
                cost = "cost unknown"
            elif paid["cost_unknown"]:
                cost += f" and {counted(paid['cost_unknown'], 'request')} of unknown cost"
            _say(f"{model}: {counted(paid['requests'], 'request')}, {tokens}, {cost}")


def _source(qdrant: str, environ: Environ) -> Source:
    from llmtwin_data.params import withheld_key
    from llmtwin_data.sources import open_source, source_address

    address = source_address(qdrant, environ=environ)
    if note := withheld_key(address, "QDRANT_API_KEY", environ=environ):
        _say(note)
    return open_source(address, api_key=environ.get("QDRANT_API_KEY", ""))


def _contents(given: Namespace, environ: Environ) -> Any:
    """Return the contents of a collection, or of a file, which is loaded into a passing one."""
    from llmtwin_data.contents import read_contents
    from llmtwin_data.loading import load_files

    if not given.contents:
        return None
    file = Path(given.contents)
    with tempfile.TemporaryDirectory() as folder:
        place, name = (folder, "contents") if file.is_file() else (given.qdrant, given.contents)
        with _source(place, environ) as source:
            if file.is_file():
                load_files(source, [file], collection=name)
            return [item for item in read_contents(source, name) if item.text]


def _store(given: Namespace) -> AnswerStore:
    from llmtwin_data.answers import AnswerStore

    path = resolve(given.answers)
    if not path.exists():
        raise ParamsError(f"--answers {display_path(path)}: expected a store of answers, found no such file")
    return AnswerStore(path)


def _run_of(path: Path) -> RunFolder:
    folder = RunFolder(resolve(path.absolute()))
    if not folder.run_file.is_file():
        raise ParamsError(f"{path}: expected a run folder with run.json, found none")
    return folder


def _run_dirs(given: Namespace) -> list[Path]:
    # Also those without run.json: notebooks in JupyterLab leave the texts that they only looked at.
    folders = sorted(path for path in RUNS.glob("*/*") if path.is_dir())
    own = [path.resolve() for path in folders if not path.is_symlink()]
    return list(dict.fromkeys(own + [_run_of(path).path for path in given.runs]))


def _say(line: str) -> None:
    print(("\r\x1b[K" if sys.stdout.isatty() else "") + with_escapes(line), flush=True)


def progress_lines(*, every_seconds: float = 60.0) -> Callable[[str], None]:
    """Return what shows progress: a line that replaces itself on a terminal, elsewhere one now and then."""
    last = time.monotonic()

    def show(line: str) -> None:
        nonlocal last
        if sys.stdout.isatty():
            print(f"\r\x1b[K{line}", end="", flush=True)
        elif line and time.monotonic() - last >= every_seconds:
            last = time.monotonic()
            print(line, flush=True)

    return show


@contextmanager
def _while_heard(stream: str) -> Iterator[None]:
    """Let a terminal, pipe or file that takes no more lines end no run; its log.txt holds them."""
    try:
        yield
    except OSError:
        setattr(sys, stream, io.StringIO())


def _fail(error: BaseException, environ: Environ, *, name: str = "") -> int:
    """Print what ended a command, and return its exit code."""
    words = f"{name}{error}"
    if not isinstance(error, LlmTwinError):
        words = f"{name}unexpected {type(error).__name__}: {error}\nrun again with --debug to see where"
    _print_error(words, environ, trace="".join(traceback.format_exception(error)))
    return getattr(error, "exit_code", LlmTwinError.exit_code)


@_while_heard("stderr")
def _print_error(message: str, environ: Environ, *, trace: str) -> None:
    from llmtwin_data.params import redact, secret_values

    secrets = secret_values(environ)
    if trace and environ.get(DEBUG):
        print(redact(trace, *secrets), file=sys.stderr)
    lines = with_escapes(redact(f"llmtwin-data: {message}", *secrets)).splitlines()
    last = lines[-1:] if len(lines) > MOST_LINES else []
    print("\n".join(lines[: MOST_LINES - len(last)] + last), file=sys.stderr)


def _argument(*names: str, **options: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    return names, options


RUN_DIR = _argument("run_dir", type=Path, metavar="RUN_DIR", help="the folder of a run")
QDRANT = _argument("--qdrant", default="", metavar="URL|DIR", help="else QDRANT_URL, else .llmtwin/qdrant")
ANSWERS = _argument("--answers", default=".llmtwin/answers.sqlite", metavar="FILE", help="store of answers")
MORE_RUNS = _argument(
    "--runs", type=Path, nargs="*", default=[], metavar="RUN_DIR", help="more than those under runs/"
)
# Handler, whose name is the command's; help; what else its own help says; arguments.
COMMANDS = (
    (
        load, "load files into a collection: JSONL, JSON, CSV, TSV, Parquet, Markdown, text, HTML; zip, gz",
        "First it shows what it understood. Twice changes nothing; a changed text replaces the old one.",
        (
            _argument("paths", type=Path, nargs="+", metavar="PATH", help="files, folders, archives, a pipe"),
            _argument("--collection", required=True, metavar="NAME", help="such as cleaned_posts"),
            _argument("--text-field", default="", metavar="FIELD", help="the column or field of the text"),
            _argument("--author", default="", metavar="NAME", help="of texts that name none"),
            _argument("--platform", default="", metavar="NAME", help="likewise"),
            _argument("--type", default="", metavar="WORD", help="likewise, such as posts or articles"),
            _argument("--dry-run", action="store_true", help="show what was understood; nothing is loaded"),
            QDRANT,
        ),
    ),
    (
        run, "execute the notebooks on params files",
        "What is answered is stored: the same command after any end goes on, and pays for nothing twice.",
        (
            _argument("params", type=Path, nargs="+", metavar="PARAMS.yaml", help="params or sweep files"),
            _argument("-p", dest="overrides", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"),
                      help="a parameter that wins over the file's; may be given again"),
            _argument("--only", type=int, choices=(1, 2, 3, 4, 5), action="append", default=[],
                      help="execute this notebook; may be given again"),
            _argument("--out", type=Path, metavar="DIR", help="the run folder; else a new one under runs/"),
            _argument("--dry-run", action="store_true", help="stop after the forecast; nothing is sent"),
            _argument("--retry-failed", action="store_true", help="ask again what failed for good"),
        ),
    ),
    (
        check, "verify the promises about a run from its files alone",
        "With a store of answers also that each instruction is the stored one.",
        (
            RUN_DIR,
            _argument("--answers", default="", metavar="FILE", help="the store that the run was made of"),
        ),
    ),
    (publish, "attach a finished run to Comet, again or for the first time", "", (RUN_DIR,)),
    (
        report, "write the report of a run again, or a comparison of several", "",
        (_argument("run_dirs", type=Path, nargs="+", metavar="RUN_DIR", help="folders of runs"),),
    ),
    (
        label, "turn the decisions of notebook 4 into labels of a run",
        "Written to RUN_DIR/labels.jsonl; precision and recall of the run's judge are printed.",
        (RUN_DIR,),
    ),
    (
        audit, "measure anyone's instruction dataset", "One line a finding; exit 6 if any.",
        (
            _argument("dataset", type=Path, metavar="DATASET",
                      help="JSON, JSONL, Parquet, CSV, also .gz; a folder, a run folder"),
            _argument("--contents", metavar="FILE|COLLECTION", help="what the dataset was made from"),
            _argument("--out", type=Path, metavar="DIR",
                      help="for table and report; else NAME-audit in this folder"),
            QDRANT,
        ),
    ),
    (
        style, "score how near anyone's answers come to the author's manner, between floor and ceiling",
        "The floor is what other authors reach, the ceiling what the author's own texts of test reach.",
        (
            _argument("answers", type=Path, metavar="ANSWERS.jsonl",
                      help="a line an answer: instruction, answer, model"),
            _argument("--dataset", type=Path, required=True, metavar="DIR", help="a run, or a dataset"),
        ),
    ),
    (
        trace, "print where a row comes from: point, prompt, request, raw answer", "",
        (
            _argument("row_id", metavar="ROW_ID", help="whole, or at least its first six characters"),
            _argument("--runs", type=Path, nargs="*", default=[], metavar="RUN_DIR",
                      help="whose datasets are meant; else those under runs/"),
            ANSWERS,
        ),
    ),
    (
        diff, "say what is added, removed, changed and moved from one dataset to another", "",
        (
            _argument("before", type=Path, metavar="A", help="run folder, dataset folder or manifest"),
            _argument("after", type=Path, metavar="B", help="likewise"),
        ),
    ),
    (
        forget, "take an author, a link or a content out of the answers, and list where else it is", "",
        (
            _argument("--author", default="", metavar="ID", help="whose contents go"),
            _argument("--link", default="", metavar="URL", help="the content that has it goes"),
            _argument("--content", default="", metavar="ID", help="the point's id"),
            _argument("--collection", default="", metavar="NAME", help="where the content is"),
            _argument("--dry-run", action="store_true", help="list what would go; nothing is changed"),
            MORE_RUNS, ANSWERS,
        ),
    ),
    (answers, "show what is stored and what it cost", "", (ANSWERS,)),
)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
