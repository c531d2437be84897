"""Publish a finished run to Comet, once per dataset, and never at the cost of the run."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from llmtwin_data.datasets.formats import write_course_pair
from llmtwin_data.datasets.manifests import Manifest, file_entry, read_manifest
from llmtwin_data.environment import may_be_sent_key, withheld_key
from llmtwin_data.errors import LlmTwinError, QualityGate
from llmtwin_data.folders import RunFolder, RunLock, shown, told, write_atomically
from llmtwin_data.tracking.plans import Plan, carry_out, reachable

COMET_URL = "https://www.comet.com/clientlib/"
PATIENCE_SECONDS = 60.0
_PENDING = "upload_pending.json"
_MEMORY = "comet.json"
_NOT_CARRIED = "the dataset artifact, which Comet's offline mode cannot carry"


@dataclass(frozen=True, slots=True)
class Publication:
    """What became of publishing one run; ``line`` is for people.

    ``reason`` says why it is pending: ``no_key``, ``bad_key``, ``no_network``, ``no_answer`` or ``failed``.
    """

    state: Literal["published", "unchanged", "offline", "off", "pending", "refused"]
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

    Parameters
    ----------
    mode
        ``auto`` and ``online`` upload; without key or network the run stays pending, with the command that
        uploads it later. ``offline`` writes an archive of all but the artifacts. ``off`` does nothing.
    patience_seconds
        How long Comet may take to answer, on top of what the run's bytes need on a slow line.
    """
    if mode == "off":
        return Publication("off", "Comet: off")
    run = RunFolder(run_dir.resolve())
    try:
        manifest = _whole_manifest(run)
        with _desk(run) as scratch:
            plan = _plan(run, manifest, scratch=scratch, environ=environ, mode=mode)
            reason = "" if mode == "offline" else _hindrance(environ)
            result = {"reason": reason} if reason else _sent(plan, environ, patience_seconds)
            return _note(plan, result, environ=environ)
    except (LlmTwinError, OSError) as error:
        return Publication("refused", f"Comet: not uploaded, {error}")


@contextmanager
def _desk(run: RunFolder) -> Iterator[Path]:
    """Give an empty folder that one publishing of this run has for itself; a second one gets RunLocked."""
    place = run.work / "publish"
    with RunLock(RunFolder(place)):
        scratch = place / "files"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        try:
            yield scratch
        finally:
            shutil.rmtree(place, ignore_errors=True)
            with suppress(OSError):
                run.work.rmdir()


def _plan(
    run: RunFolder, manifest: Manifest, *, scratch: Path, environ: Mapping[str, str], mode: str
) -> Plan:
    digest = file_entry(run.dataset / "manifest.json")["sha256"]
    facts = {"manifest_sha256": digest, "counts": manifest.counts, "params": run.read().get("params", {})}
    known = _memory(run, digest)
    return Plan(
        run_dir=str(run.path),
        scratch=str(scratch),
        name=manifest.name,
        manifest_sha256=digest,
        metadata=facts,
        course_files=tuple(str(path) for path in write_course_pair(run.dataset, scratch)),
        experiment_key=known.get("experiment_key") or secrets.token_hex(16),
        archives=tuple(known.get("archives", ())),
        online=mode != "offline",
        interrupted="experiment_key" in known and "url" not in known,
        workspace=environ.get("COMET_WORKSPACE", ""),
    )


def _sent(plan: Plan, environ: Mapping[str, str], patience_seconds: float) -> dict[str, Any]:
    # Written before anything is sent: should we be killed, the next publishing goes on with this experiment.
    _remember(plan, {"archives": plan.archives})
    return carry_out(plan, environ=environ, patience_seconds=patience_seconds)


def _whole_manifest(run: RunFolder) -> Manifest:
    if not (run.dataset / "manifest.json").exists():
        raise QualityGate(f"{told(run.path)} holds no dataset: the run did not complete")
    manifest = read_manifest(run.dataset / "manifest.json")
    for name, entry in manifest.files.items():
        path = run.dataset / name
        if not path.exists() or file_entry(path)["sha256"] != entry["sha256"]:
            raise QualityGate(f"{told(path)} is not what its manifest says; make the run again")
    return manifest


def _hindrance(environ: Mapping[str, str]) -> str:
    if not environ.get("COMET_API_KEY") or not may_be_sent_key(_url(environ)):
        return "no_key"
    return "" if reachable(_url(environ)) else "no_network"


def _url(environ: Mapping[str, str]) -> str:
    return environ.get("COMET_URL_OVERRIDE") or COMET_URL


def _note(plan: Plan, result: dict[str, Any], *, environ: Mapping[str, str]) -> Publication:
    """Write down what came out, in files for the next publishing and in one line for people."""
    if "reason" in result:
        problem = _problem(result, environ)
        command = _leave_pending(plan, problem)
        line = f"Comet: not uploaded, {problem}; nothing is lost, upload it later with: {command}"
        return Publication("pending", line, reason=result["reason"])
    _remember(plan, result)
    if result["state"] == "offline":
        command = _leave_pending(plan, "offline was asked for")
        place = told(plan.archive_folder / result["archives"][0])
        line = f"Comet: {place} holds all but {_NOT_CARRIED}; upload both with: {command}"
        return Publication("offline", line)
    line = _success(plan, result)
    if missing := result["missing"]:
        problem = f"Comet does not hold {', '.join(missing)} of the run"
        line += f"; {problem}, upload again with: {_leave_pending(plan, problem)}"
    else:
        (plan.run.path / _PENDING).unlink(missing_ok=True)
    return Publication(result["state"], line, url=result["url"])


def _success(plan: Plan, result: Mapping[str, Any]) -> str:
    place = f"{plan.name} {result['version']}"
    if result["state"] == "published":
        return f"Comet: published {place}, {result['url']}"
    newer = "" if result["is_latest"] else " (there is a newer version with other contents)"
    return f"Comet: {place} holds this dataset already{newer}, no new version; {result['url']}"


def _problem(result: Mapping[str, Any], environ: Mapping[str, str]) -> str:
    words = {
        "no_key": withheld_key(_url(environ), "COMET_API_KEY", environ=environ)
        or "COMET_API_KEY is not set in the environment or .env (comet: off silences this)",
        "bad_key": "Comet refused the key in COMET_API_KEY, or its right to COMET_WORKSPACE",
        "no_network": f"{urlsplit(_url(environ)).hostname} cannot be reached",
        "no_answer": "Comet did not answer in time",
    }
    key = environ.get("COMET_API_KEY") or "\0"
    said = " ".join(str(result.get("problem", "")).replace(key, "[key]").split())[:200]
    return words.get(result["reason"]) or f"Comet did not take it ({said})"


def _leave_pending(plan: Plan, problem: str) -> str:
    note = {
        "command": f"llmtwin-data publish {shown(plan.run.path)}",
        "why": problem,
        "dataset_name": plan.name,
        "manifest_sha256": plan.manifest_sha256,
    }
    write_atomically(plan.run.path / _PENDING, json.dumps(note, indent=1) + "\n")
    return f"llmtwin-data publish {told(plan.run.path)}"


def _memory(run: RunFolder, manifest_sha256: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((run.path / _MEMORY).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if found.get("manifest_sha256") == manifest_sha256 else {}


def _remember(plan: Plan, facts: Mapping[str, Any]) -> None:
    kept = {key: facts[key] for key in ("url", "version", "archives") if key in facts}
    key = facts.get("experiment_key") or plan.experiment_key
    note = {"dataset_name": plan.name, "manifest_sha256": plan.manifest_sha256, "experiment_key": key} | kept
    write_atomically(plan.run.path / _MEMORY, json.dumps(note, indent=1) + "\n")
