"""The audit: measures, alarms, duplicates, leaks and secrets over anyone's instruction dataset."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from llmtwin_data.audits.audited import Audited, Finding
from llmtwin_data.audits.foreign import ForeignRow, read_dataset
from llmtwin_data.audits.looks import look_at
from llmtwin_data.contents import Content
from llmtwin_data.folders import write_atomically
from llmtwin_data.measures import measure_pairs
from llmtwin_data.summaries.displays import Display, join_displays, render_page, show_table


@dataclass(frozen=True, slots=True)
class AuditResult:
    """Findings and notes, one line each and by name, and the report's path."""

    rows: str = ""
    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    report: Path | None = None


def audit(dataset: Path, *, contents: Iterable[Content] | None, out_dir: Path) -> AuditResult:
    """Audit a dataset and write ``report.html`` and ``rows.jsonl``, the measures of each row.

    Parameters
    ----------
    dataset
        A JSON, JSONL or Parquet file, or a folder with train and test files.
    contents
        What the dataset was made from; with it, siblings across the split and texts that come from nowhere
        are found.
    """
    audited = _measure(read_dataset(dataset), list(contents or ()))
    looks = look_at(audited)
    raised = [finding for finding in looks if finding.raised]
    out_dir.mkdir(parents=True, exist_ok=True)
    write_atomically(out_dir / "rows.jsonl", "".join(_lines(audited)))
    write_atomically(out_dir / "report.html", _report(dataset.name, audited, looks))
    notes = [f"{look.name}: {look.note}" for look in looks if look.note]
    lines = [finding.line for finding in raised]
    return AuditResult(_counted(audited), lines, notes, out_dir / "report.html")


def _measure(rows: Sequence[ForeignRow], contents: Sequence[Content]) -> Audited:
    numbers: dict[str, int] = {}
    owners = [numbers.setdefault(row.text, len(numbers)) for row in rows]
    texts = list(numbers)
    measures = measure_pairs([row.instruction for row in rows], owners, texts, asked_language="same")
    return Audited(rows, texts, owners, measures, contents)


def _counted(audited: Audited) -> str:
    sides = Counter(row.side for row in audited.rows if row.side)
    told = f" ({', '.join(f'{number} {side}' for side, number in sorted(sides.items(), reverse=True))})"
    return f"{len(audited.rows)} rows{told if sides else ''}, {len(audited.texts)} distinct texts"


def _lines(audited: Audited) -> Iterator[str]:
    for row, measured in zip(audited.rows, audited.measures, strict=True):
        fields = {"row": row.place, "side": row.side, "instruction": row.instruction} | asdict(measured)
        yield json.dumps(fields, ensure_ascii=False) + "\n"


def _report(name: str, audited: Audited, looks: Sequence[Finding]) -> str:
    raised = [look for look in looks if look.raised]
    names = ", ".join(dict.fromkeys(look.name for look in raised))
    shown = [_table(looks), *(_examples(look) for look in raised if look.examples)]
    return render_page(
        title=f"Audit of {name}",
        state=f"found: {names}" if raised else "nothing found",
        subtitle=_counted(audited),
        tiles=[],
        notices=[],
        pages=[{"title": "Findings", "anchor": "findings", "html": join_displays(shown)}],
    )


def _table(looks: Sequence[Finding]) -> Display:
    import pandas

    columns = ("finding", "rows", "of", "well up to, share", "raised", "what", "note")
    rows = [
        (look.name, look.count, look.checked, look.most, look.raised, look.what, look.note) for look in looks
    ]
    return show_table(pandas.DataFrame(rows, columns=list(columns)))


def _examples(look: Finding) -> Display:
    import pandas

    return show_table(pandas.DataFrame({look.what: look.examples}), f"Examples of {look.name}", as_given=True)
