"""The audit: measures, alarms, duplicates, leaks and secrets over anyone's instruction dataset."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import jinja2

from llmtwin_data.audits.audited import Audited, Finding
from llmtwin_data.audits.foreign import ForeignRow, read_dataset
from llmtwin_data.audits.looks import look_at
from llmtwin_data.contents import Content
from llmtwin_data.folders import write_atomically
from llmtwin_data.measures import measure_pairs

_REPORT = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Audit of {{ name }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse } h2 { font-size: 1.1rem } th { white-space: nowrap }
td, th { text-align: left; vertical-align: top; padding: .3rem .8rem; border-bottom: 1px solid #ddd }
.raised { background: #fdecea } li { overflow-wrap: anywhere }
</style></head><body>
<h1>Audit of {{ name }}</h1>
<p>{{ rows }}.
{% if raised %}Found: {{ raised | join(", ") }}.{% else %}Nothing found.{% endif %}</p>
<table><tr><th>finding</th><th>rows</th><th>of</th><th>well up to</th><th>what</th></tr>
{% for item in findings %}<tr{% if item.raised %} class="raised"{% endif %}><td>{{ item.name }}</td>
<td>{{ item.count }}</td><td>{{ item.checked }}</td><td>{{ "%.0f%%" | format(100 * item.most) }}</td>
<td>{{ item.what }}{% if item.note %}<br><small>{{ item.note }}</small>{% endif %}</td></tr>
{% endfor %}</table>
{% for item in findings if item.raised and item.examples %}<h2>{{ item.name }}: {{ item.what }}</h2>
<ul>{% for example in item.examples %}<li>{{ example }}</li>{% endfor %}</ul>
{% endfor %}</body></html>
"""


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
    template = jinja2.Environment(autoescape=True).from_string(_REPORT)
    raised = list(dict.fromkeys(look.name for look in looks if look.raised))
    return template.render(name=name, rows=_counted(audited), raised=raised, findings=looks)
