"""A finished run attached to Comet, from a process of its own; never at the cost of the run."""

from __future__ import annotations

import base64
import json
import logging
import os
import pwd
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal
from urllib.parse import urlsplit

import pandas as pd
import requests

from llmtwin_data.cluster import blocks
from llmtwin_data.datasets import file_entry, read_manifest, stored_sides, write_course_pair
from llmtwin_data.errors import LlmTwinError, QualityGate
from llmtwin_data.folders import (
    PROJECT_ROOT,
    RunFolder,
    display_path,
    numbered_lines,
    project_path,
    run_lock,
    write_atomically,
)
from llmtwin_data.lineage import CHANGES
from llmtwin_data.measures import MEASURES
from llmtwin_data.params import may_be_sent_key, redact, withheld_key

# Everything that comet_ml would otherwise collect, send or print unasked (its own documentation, and tried).
QUIET = {
    "COMET_ERROR_TRACKING_ENABLE": "false",
    "COMET_DISABLE_AUTO_LOGGING": "1",
    "COMET_DISABLE_ANNOUNCEMENT": "1",
    "COMET_LOGGING_CONSOLE": "ERROR",
    "COMET_DISPLAY_SUMMARY_LEVEL": "0",
    # Workers per core: a failing upload is tried for 20 s and must not keep the others waiting.
    "COMET_INTERNAL_FILE_UPLOAD_WORKER_RATIO": "16",
    # What the client calls the person who runs it.
    "LOGNAME": "llmtwin_data",
    # Not even through a proxy that the system itself knows.
    "NO_PROXY": "*",
}
OFF = (
    *("log_code", "log_graph", "parse_args", "log_git_metadata", "log_git_patch", "auto_output_logging"),
    *("log_env_details", "log_env_gpu", "log_env_host", "log_env_cpu", "log_env_network", "log_env_disk"),
    *("auto_param_logging", "auto_metric_logging", "auto_log_co2"),
)
# The process gets no other variable, so that no other key can leave with what it sends.
NEEDED = {"PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH", "SYSTEMROOT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"}
COMET_URL = "https://www.comet.com/clientlib/"
PATIENCE_SECONDS = 60.0
SLOWEST_BYTES_PER_SECOND = 250_000
# A table is read in the browser; the whole ledger is among the files.
TABLE_ROWS = 10_000
LEDGER = "ledger.csv"
# Which experiment the dataset belongs to, and what became of it there.
NOTE = "comet.json"
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\0")


@dataclass(frozen=True, slots=True)
class Publication:
    """What became of publishing one run; ``line`` is for people.

    ``reason`` says why it is pending: ``no_key``, ``bad_key``, ``no_network``, ``no_answer`` or ``failed``.
    """

    state: Literal["published", "unchanged", "off", "pending", "refused"]
    line: str
    url: str = ""
    reason: str = ""


def publish_run(
    run_dir: Path,
    *,
    environ: Mapping[str, str],
    mode: str = "auto",
    patience_seconds: float = PATIENCE_SECONDS,
) -> Publication:
    """Attach the finished run in a folder to Comet; nothing that Comet does raises or harms the run.

    ``mode``: ``auto`` and ``online`` upload, ``off`` does nothing. Without key or network the run stays
    pending, with the command that uploads it later. ``patience_seconds`` is how long Comet may take to
    answer, on top of what the run's bytes need on a slow line.
    """
    if mode == "off":
        return Publication("off", "Comet: off")
    run = RunFolder(run_dir.resolve())
    try:
        note = _note_of(run)
        with run_lock(run):
            scratch = run.work / "publish"
            shutil.rmtree(scratch, ignore_errors=True)
            (scratch / "course").mkdir(parents=True)
            try:
                write_course_pair(run.dataset, scratch / "course")
                result = _upload(run, note, scratch, environ, patience_seconds)
                return _publication(run, note, result, environ)
            finally:
                shutil.rmtree(run.work, ignore_errors=True)
    except (LlmTwinError, OSError) as error:
        return Publication("refused", f"Comet: not uploaded, {error}")


def _note_of(run: RunFolder) -> dict[str, Any]:
    """Return what comet.json holds of this dataset, once its files are known to be what the manifest says."""
    if not (run.dataset / "manifest.json").exists():
        raise QualityGate(f"{display_path(run.path)} holds no dataset: the run did not complete")
    manifest = read_manifest(run.dataset / "manifest.json")
    for name, entry in manifest.files.items():
        path = run.dataset / name
        if not path.exists() or file_entry(path)["sha256"] != entry["sha256"]:
            raise QualityGate(f"{display_path(path)} is not what its manifest says; make the run again")
    note: dict[str, Any] = {
        "dataset_name": manifest.name,
        "manifest_sha256": file_entry(run.dataset / "manifest.json")["sha256"],
        "experiment_key": secrets.token_hex(16),
    }
    with suppress(OSError, ValueError, LookupError, TypeError):
        earlier = json.loads((run.path / NOTE).read_bytes())
        if earlier["manifest_sha256"] == note["manifest_sha256"]:
            note |= earlier
    return note


def _upload(
    run: RunFolder,
    note: Mapping[str, Any],
    scratch: Path,
    environ: Mapping[str, str],
    patience_seconds: float,
) -> dict[str, Any]:
    """Return what the process came to within its time; a result with ``reason`` is a failure."""
    if not environ.get("COMET_API_KEY") or not may_be_sent_key(_url(environ)):
        return {"reason": "no_key"}
    # Written before anything is sent: should we be killed, the next publishing goes on with this experiment.
    _write_note(run.path / NOTE, note)
    size = sum(path.stat().st_size for path in run.path.rglob("*") if path.is_file())
    with subprocess.Popen(
        [sys.executable, "-m", "llmtwin_data.tracking"],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=quiet_environ(environ), cwd=scratch, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        try:
            with suppress(BrokenPipeError):
                # The pipe stays open: its end tells the process that we died.
                process.stdin.write(json.dumps([str(run.path), note]) + "\n")
                process.stdin.flush()
            process.wait(patience_seconds + size / SLOWEST_BYTES_PER_SECOND)
        except subprocess.TimeoutExpired:
            return {"reason": "no_answer"}
        finally:
            process.kill()
    try:
        return dict(json.loads((scratch / "result.json").read_bytes()))
    except FileNotFoundError:
        return {"reason": "failed", "problem": f"its process ended with {process.returncode}"}


def _write_note(path: Path, note: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps(note, indent=1) + "\n")


def quiet_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the process: Comet's variables, what any process needs, and silence."""
    names = [name for name in environ if name.upper() in NEEDED or name.startswith("COMET_")]
    return {name: environ[name] for name in names} | QUIET


def _url(environ: Mapping[str, str]) -> str:
    return environ.get("COMET_URL_OVERRIDE") or COMET_URL


def _publication(
    run: RunFolder, note: dict[str, Any], result: dict[str, Any], environ: Mapping[str, str]
) -> Publication:
    """Write down what came out, in files for the next publishing and in one line for people."""
    later = f"llmtwin-data publish {display_path(run.path)}"
    problem = url = ""
    if reason := result.get("reason", ""):
        answer = " ".join(redact(str(result.get("problem", "")), environ.get("COMET_API_KEY", "")).split())
        problem = {
            "no_key": withheld_key(_url(environ), "COMET_API_KEY", environ=environ)
            or "COMET_API_KEY is not set",
            "bad_key": "Comet refused the key in COMET_API_KEY, or its right to COMET_WORKSPACE",
            "no_network": f"{urlsplit(_url(environ)).hostname} cannot be reached",
            "no_answer": "Comet did not answer in time",
            "failed": f"Comet did not take it ({answer[:200]})",
        }[reason]
        line = f"Comet: not uploaded, {problem}; nothing is lost, upload later with: {later}"
    else:
        note |= {key: result[key] for key in ("experiment_key", "url", "version")}
        _write_note(run.path / NOTE, note)
        version, url = f"{note['dataset_name']} {note['version']}", note["url"]
        words = {
            "published": f"published {version},",
            "unchanged": f"{version} holds this dataset already, no new version;",
        }
        line = f"Comet: {words[result['state']]} {url}"
        if missing := result["missing"]:
            problem = f"Comet does not hold {', '.join(missing)} of the run"
            line += f"; {problem}, upload again with: {later}"
    pending = run.path / "upload_pending.json"
    if problem:
        what = {key: note[key] for key in ("dataset_name", "manifest_sha256")}
        command = f"llmtwin-data publish {project_path(run.path)}"
        _write_note(pending, {"command": command, "why": problem} | what)
    else:
        pending.unlink(missing_ok=True)
    return Publication("pending" if reason else result["state"], line, url=url, reason=reason)


def main() -> None:
    """Publish the run of the first line, leave a result file, die with the process that gave the line."""
    run_dir, note = json.loads(sys.stdin.readline())
    scratch = Path.cwd()
    # The client would take what the environment leaves open from ~/.comet.config, unseen by the giver.
    os.environ["HOME"] = str(scratch)
    # A header of its own, which requests would carry on to wherever a reply redirects it, holds the key.
    requests.sessions.DEFAULT_REDIRECT_LIMIT = 0  # type: ignore[attr-defined]
    threading.Thread(target=_die_with_giver, daemon=True).start()
    url = urlsplit(_url(os.environ))
    try:
        # comet_ml itself would try for half a minute.
        socket.create_connection((url.hostname, url.port or url.scheme), timeout=5.0).close()
    except (OSError, UnicodeError):
        result: dict[str, Any] = {"reason": "no_network"}
    else:
        try:
            result = publish_online(RunFolder(Path(run_dir)), note, scratch)
        except Exception as error:
            result = {"reason": _reason(error), "problem": f"{type(error).__name__}: {error}"}
    write_atomically(scratch / "result.json", json.dumps(result))
    # Threads of comet_ml may still wait for a server that does not answer.
    os._exit(0)


def _die_with_giver() -> None:
    # The giver holds the other end of the pipe. Once it is gone, somebody may publish again.
    sys.stdin.read()
    os._exit(1)


def _reason(error: BaseException | None) -> str:
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", 0)
        if status in (401, 403) or type(error).__name__ == "InvalidAPIKey":
            return "bad_key"
        error = error.__cause__ or error.__context__
    return "failed"


def publish_online(run: RunFolder, note: Mapping[str, Any], scratch: Path) -> dict[str, Any]:
    """Log the run and its artifacts; where Comet holds this dataset, only the run, on the same experiment.

    ``scratch`` holds the two files of the dataset's artifact in ``course``, and takes what is made here.
    """
    import comet_ml

    api: Any = comet_ml.API(cache=False)  # type: ignore[no-untyped-call]
    artifacts = {
        # What the course's client reads, and all other files.
        note["dataset_name"]: {path.name: path for path in (scratch / "course").iterdir()},
        f"{note['dataset_name']}-files": {
            path.relative_to(run.path).as_posix(): path
            for path in [*sorted(run.dataset.rglob("*")), run.ledger_file]
            if path.is_file()
        },
    }
    held = _versions(api, artifacts, note["manifest_sha256"])
    key = next((version.source_experiment_key for version in held.values()), note["experiment_key"])
    quiet: dict[str, Any] = dict.fromkeys(OFF, False)
    config = comet_ml.ExperimentConfig(display_summary_level=0, **quiet)
    experiment = comet_ml.start(
        online=True, mode="get_or_create", experiment_key=key, experiment_config=config
    )
    if not experiment.alive:
        raise ConnectionError("Comet did not start the experiment")
    experiment.log_others({name: note[name] for name in ("dataset_name", "manifest_sha256")})
    experiment.add_tags([note["dataset_name"]])
    metadata, logged = _log_run(experiment, run, scratch)
    metadata["manifest_sha256"] = note["manifest_sha256"]
    _log_artifacts(experiment, {name: artifacts[name] for name in artifacts if name not in held}, metadata)
    versions = _versions(api, artifacts, note["manifest_sha256"])
    if lacking := [name for name in artifacts if name not in versions]:
        raise ConnectionError(f"Comet holds no complete version of {' and '.join(lacking)}")
    version = versions[note["dataset_name"]]
    # The client passes over files that it could not upload.
    assets = {asset["fileName"] for asset in api.get_experiment_by_key(key).get_asset_list("all")}
    return {
        "state": "unchanged" if len(held) == len(versions) else "published",
        "experiment_key": version.source_experiment_key,
        "version": str(version.version),
        "url": experiment.url,
        "missing": [name for name in logged if name not in assets],
    }


def _alias(manifest_sha256: str) -> str:
    return f"manifest-{manifest_sha256[:12]}"


def _versions(api: Any, names: Iterable[str], manifest_sha256: str) -> dict[str, Any]:
    """Find the complete versions that hold this dataset, by artifact."""
    from comet_ml.exceptions import ArtifactNotFinalException, ArtifactNotFound

    workspace = os.environ.get("COMET_WORKSPACE") or api.get_default_workspace()
    versions = {}
    for name in names:
        with suppress(ArtifactNotFound, ArtifactNotFinalException):
            version = api.get_artifact(workspace, name, alias=_alias(manifest_sha256))
            if version and (version.metadata or {}).get("manifest_sha256") == manifest_sha256:
                versions[name] = version
    return versions


def _log_artifacts(
    experiment: Any, artifacts: Mapping[str, Mapping[str, Path]], metadata: Mapping[str, Any]
) -> None:
    """Log these artifacts and end the experiment; do not wait for the rest once one has failed."""
    import comet_ml

    # comet_ml raises what fails of an artifact only after trying everything else, but logs it at once.
    problems: SimpleQueue[str] = SimpleQueue()
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: problems.put(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("comet_ml.artifacts").addHandler(handler)
    aliases = [_alias(metadata["manifest_sha256"])]
    for name, files in artifacts.items():
        artifact = comet_ml.Artifact(name, "dataset", aliases=aliases, metadata=dict(metadata))
        for logical_path, path in files.items():
            artifact.add(str(path), logical_path=logical_path, metadata=file_entry(path))
        experiment.log_artifact(artifact)
    ending = ThreadPoolExecutor(1).submit(experiment.end)
    ending.add_done_callback(lambda _: problems.put(""))
    if problem := problems.get():
        # Time to tell Comet that the version is not whole.
        wait([ending], timeout=2)
        raise ConnectionError(problem)
    ending.result()


def _log_run(experiment: Any, run: RunFolder, scratch: Path) -> tuple[dict[str, Any], list[str]]:
    """Log a run, all but artifacts, over what is there already.

    Return what also describes its artifacts, and the names of the files logged; those made here are in
    ``scratch``, which must stay until the experiment has ended.
    """
    fields, counts = run.read(), read_manifest(run.dataset / "manifest.json").counts
    known = fields.get("params") or {}
    params = json.loads(_placeless(json.dumps(known, ensure_ascii=False), run, known))
    lists = {key: it for key, it in params.items() if not isinstance(it, str | int | float)}
    experiment.log_parameters(params | {key: json.dumps(it, ensure_ascii=False) for key, it in lists.items()})
    for number, sentence in enumerate(fields.get("verdict") or (), start=1):
        experiment.log_other(f"verdict {number}", sentence)
    changes = {key: it for key, it in (fields.get("changes") or {}).items() if key in ("against", *CHANGES)}
    groups = {"totals": fields.get("totals") or {}, "dataset": counts, "changes": changes}
    groups |= {f"judging/{it['chooser'].split(',')[0]}": it for it in fields.get("judge") or ()}
    groups |= {f"measures/{name}": values for name, values in _measures(run.dataset).items()}
    metrics = {f"{group}/{name}": it for group, values in groups.items() for name, it in values.items()}
    experiment.log_metrics({name: it for name, it in metrics.items() if isinstance(it, int | float)})
    _log_ledger(experiment, run, scratch)
    logged = [LEDGER]
    # As others may see them: no path says how this machine is laid out.
    for path in [*sorted(run.notebooks.glob("*.ipynb")), *([run.report] if run.report.exists() else [])]:
        text, copy = _placeless(path.read_text("utf-8"), run, known), scratch / path.name
        write_atomically(copy, text)
        logged.append(path.name)
        if path == run.report:
            experiment.log_asset(str(copy), file_name=path.name, overwrite=True)
            experiment.log_html(text, clear=True)
        else:
            experiment.log_notebook(str(copy), overwrite=True)
    for path in sorted(run.notebooks.glob("*.ipynb")):
        cells = json.loads(path.read_text("utf-8")).get("cells", [])
        data = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
        pictures = ["".join(each["image/png"]) for each in data if "image/png" in each]
        for number, picture in enumerate(pictures, start=1):
            figure = scratch / f"{path.stem}-{number:02}.png"
            figure.write_bytes(base64.b64decode(picture))
            experiment.log_image(str(figure), name=figure.name, overwrite=True)
            logged.append(figure.name)
    return {"counts": counts, "params": params, "changes": changes}, logged


def _log_ledger(experiment: Any, run: RunFolder, scratch: Path) -> None:
    rows = numbered_lines(run.ledger_file)
    table = pd.DataFrame([row for _, row in islice(rows, TABLE_ROWS)], dtype=object)
    total = len(table) + sum(1 for _ in rows)
    # A spreadsheet would take such a cell for a formula.
    table = table.map(lambda it: f"'{it}" if isinstance(it, str) and it.startswith(FORMULA_STARTS) else it)
    table.to_csv(scratch / LEDGER, index=False, lineterminator="\r\n")
    experiment.log_asset(str(scratch / LEDGER), file_name=LEDGER, overwrite=True)
    experiment.log_other(LEDGER, f"{len(table)} of {total} rows; all are in the artifact of files")


def _placeless(text: str, run: RunFolder, params: Mapping[str, Any]) -> str:
    """Replace the absolute paths that a run knows by their last part, the longest first."""
    named = [Path(it) for it in params.values() if isinstance(it, str) and it.startswith("/")]
    home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    places = [*named, *(path.parent for path in named), run.path, run.path.parent, PROJECT_ROOT, home]
    places += [Path(sys.prefix), Path(tempfile.gettempdir())]
    for place in sorted({str(path) for path in places if path.name}, key=len, reverse=True):
        text = re.sub(rf"{re.escape(place)}(?![\w-])", Path(place).name, text)
    return text


def _measures(dataset: Path) -> dict[Any, Any]:
    """Return mean and median of each measure over train and test; true is 1, the unmeasured is left out."""
    names = [*(name for name, kind in MEASURES.items() if kind != "str"), "judge_score"]
    parts = (part for rows in stored_sides(dataset).values() for part in blocks(iter(rows)))
    values = pd.concat(pd.DataFrame(part, columns=names).astype(float) for part in parts)
    return values.dropna(axis="columns", how="all").agg(["mean", "median"]).round(4).to_dict()


if __name__ == "__main__":
    main()
