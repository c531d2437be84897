"""Contents and instructions searched for secrets and personal data; values found are never shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from llmtwin_data.chunks import Chunk
from llmtwin_data.contents import Content, Skipped
from llmtwin_data.screening.findings import Finding, without_overlaps
from llmtwin_data.screening.identities import find_personal_data
from llmtwin_data.screening.keys import find_secrets

__all__ = ["Fates", "Finding", "find_personal_data", "find_secrets", "screen_content", "screened_counts"]

# How often something of a group and kind was kept, masked or dropped.
Fates = Counter[tuple[str, str, str]]

_REASONS = {"secret": "secret", "personal": "personal_data"}
_FATES = {"drop": "dropped", "mask": "masked", "keep": "kept"}


def screen_content(
    content: Content, chunks: Sequence[Chunk], *, secrets: str, personal_data: str
) -> tuple[list[Chunk], list[Skipped], Fates]:
    """Search a whole content, so that no cut hides a key, and drop or mask the chunks that a finding touches.

    Parameters
    ----------
    secrets, personal_data
        What to do with a chunk: ``drop``, ``mask`` or ``keep``. Dropping wins where both are found.

    Returns
    -------
    tuple
        The chunks to use, the masked ones marked with the kinds; the dropped parts, with reason
        ``secret``, ``personal_data`` or, where nothing but blanks stands there, ``blank``; and what became
        of each finding, which is counted where it begins.
    """
    findings = {"drop": list[Finding](), "mask": list[Finding](), "keep": list[Finding]()}
    findings[secrets] += find_secrets(content.text)
    findings[personal_data] += find_personal_data(content.text)
    kept: list[Chunk] = []
    skipped: list[Skipped] = []
    for chunk in chunks:
        dropped = _touching(chunk, findings["drop"])
        if dropped or not chunk.text.strip():
            skipped.append(_skipped(content, chunk, dropped))
        else:
            kept.append(_masked(chunk, _touching(chunk, findings["mask"])))
    return kept, skipped, Fates(_fates(findings, skipped))


def screened_counts(fates: Fates) -> dict[str, dict[str, dict[str, int]]]:
    """Give for secrets and personal data the kinds with how many were found, kept, masked and dropped."""
    counts: dict[str, dict[str, dict[str, int]]] = {"secrets": {}, "personal_data": {}}
    for group, kind in sorted({place[:2] for place in fates}):
        each = {fate: fates[group, kind, fate] for fate in ("kept", "masked", "dropped")}
        counts["secrets" if group == "secret" else "personal_data"][kind] = {
            "found": sum(each.values())
        } | each
    return counts


def _fates(
    findings: Mapping[str, Iterable[Finding]], skipped: Sequence[Skipped]
) -> Iterator[tuple[str, str, str]]:
    for action, found in findings.items():
        for finding in found:
            dropped = any(part.start <= finding.start < part.end for part in skipped)
            yield finding.group, finding.kind, "dropped" if dropped else _FATES[action]


def _touching(chunk: Chunk, findings: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.start < chunk.end and finding.end > chunk.start]


def _skipped(content: Content, chunk: Chunk, findings: Sequence[Finding]) -> Skipped:
    groups = [finding.group for finding in findings]
    reason = "blank" if not groups else _REASONS["secret" if "secret" in groups else "personal"]
    return Skipped(
        content_id=content.id,
        collection=content.collection,
        length=chunk.end - chunk.start,
        reason=reason,
        value=_kinds(findings),
        author=content.author,
        link=content.link,
        start=chunk.start,
        end=chunk.end,
    )


def _masked(chunk: Chunk, findings: Sequence[Finding]) -> Chunk:
    """Replace what was found by its kind; a finding that a cut parted is masked on both sides."""
    if not findings:
        return chunk
    text, done = "", chunk.start
    for finding in without_overlaps(findings):
        text += chunk.text[done - chunk.start : max(finding.start, chunk.start) - chunk.start]
        text += f"[masked: {finding.kind}]"
        done = min(finding.end, chunk.end)
    text += chunk.text[done - chunk.start :]
    return replace(chunk, text=text, masked=_kinds(findings))


def _kinds(findings: Iterable[Finding]) -> str:
    return ",".join(sorted({finding.kind for finding in findings}))
