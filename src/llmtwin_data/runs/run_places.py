"""Where a run takes place: a new folder, an incomplete one that goes on, or one to be replaced at the end."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llmtwin_data.errors import LlmTwinError, ParamsError
from llmtwin_data.folders import RunFolder, RunLock, disk_errors, publish_folder, recover_folder
from llmtwin_data.params import Params


@dataclass(frozen=True, slots=True)
class Place:
    """The folder that is asked for, and the one that is worked in; the same unless one is to be replaced."""

    target: Path
    work: Path

    @property
    def run(self) -> RunFolder:
        """The folder that is worked in."""
        return RunFolder(self.work)

    @property
    def replaces(self) -> bool:
        """Whether a complete run stands in the target until this one is complete."""
        return self.work != self.target


def place_of(settings: Params, out: Path) -> Place:
    """Give the place of a run that is to end in ``out``; call it while its lock is held.

    Raises
    ------
    ParamsError
        Something else than a run is there, or a run of other params.
    """
    with disk_errors(out):
        there = {path.name for path in out.iterdir()} if out.exists() else set()
    fields = RunFolder(out).read()
    if not fields:
        if there - {".work"}:
            raise ParamsError(
                f"{out}: expected a run folder or nothing, found {', '.join(sorted(there)[:3])}"
            )
        return Place(out, out)
    _check_same(settings, fields.get("given"), out)
    if fields.get("state") != "complete":
        return Place(out, out)
    staged = _staged(out)
    if staged.exists() and RunFolder(staged).read().get("given") != settings.given():
        shutil.rmtree(staged)
    return Place(out, staged)


def recover_run(out: Path) -> None:
    """Finish a replacement that was cut off between its two renames; call it before the lock is taken.

    Raises
    ------
    RunLocked
        It is not cut off, but at work.
    """
    aside, staged = out.with_name(f".{out.name}.before"), _staged(out)
    if not aside.exists():
        return
    # The lock of the folder that is set aside has moved with it.
    with disk_errors(out), RunLock(RunFolder(aside)):
        if out.exists() and {path.name for path in out.iterdir()} <= {".work"}:
            shutil.rmtree(out)
        if not out.exists() and RunFolder(staged).read().get("state") == "complete":
            staged.rename(out)
        recover_folder(out)


def check_out(out: Path) -> Path:
    """Give the real place of ``--out``; a link that leads elsewhere is refused by name."""
    real = out.resolve()
    if out.is_symlink() and real.parent != out.absolute().parent.resolve():
        raise ParamsError(f"--out {out} is a link to {real}; give that folder itself, if it is meant")
    return real


def mark_dead(folder: Path) -> list[Path]:
    """Mark the runs in a folder that a killed driver left as running; they are incomplete."""
    dead = []
    for path in sorted(file.parent for file in folder.glob("*/run.json")):
        run = RunFolder(path)
        # Another run holds its lock; a damaged one is none of ours.
        with suppress(LlmTwinError):
            if run.read().get("state") == "running":
                with RunLock(run):
                    run.update(state="incomplete", driver=None)
                dead.append(path)
    return dead


def replace_target(place: Place) -> None:
    """Put a complete run where the one before it stood."""
    if place.replaces:
        publish_folder(place.work, place.target)


def point_latest(target: Path) -> None:
    """Let ``latest`` beside the run folder lead to it."""
    link, staged = target.with_name("latest"), target.with_name(".latest")
    with disk_errors(link):
        staged.unlink(missing_ok=True)
        staged.symlink_to(target.name)
        staged.rename(link)


def _staged(out: Path) -> Path:
    return out.with_name(f".{out.name}.next")


def _check_same(settings: Params, given: object, out: Path) -> None:
    asked = settings.given()
    if given == asked:
        return
    known = given if isinstance(given, dict) else {}
    differing = sorted(key for key in {*known, *asked} if known.get(key) != asked.get(key))
    if differing == ["max_cost_usd"]:
        return  # no answer depends on it, and a run that it has stopped goes on with a higher one
    raise ParamsError(
        f"--out {out}: expected a run of these params, found one that differs in {', '.join(differing[:5])}; "
        "choose another folder, or remove this one"
    )
