"""Executed notebooks as safe HTML, the report of a run, and several runs compared."""

from __future__ import annotations

import json
import re

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from written_pairs import pair, table_of

from llmtwin_data.contents import row_id
from llmtwin_data.datasets import Manifest, write_ledger
from llmtwin_data.endpoints import PACKAGED
from llmtwin_data.errors import DiskFailed
from llmtwin_data.folders import RunFolder
from llmtwin_data.reports import (
    clean_html,
    compare_report,
    dataset_rows,
    read_page,
    render_markdown,
    verdict_of,
    write_report,
)
from llmtwin_data.tables import ADVICE, show, show_note

PNG = "iVBORw0KGgo="


def page_of(tmp_path, *cells):
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    nbformat.write(new_notebook(cells=list(cells)), tmp_path / "1_explore.ipynb")
    return read_page(tmp_path / "1_explore.ipynb")


def rendered(tmp_path, output):
    return str(page_of(tmp_path, new_code_cell("1", outputs=[output])).html)


def test_the_first_heading_is_the_title(tmp_path):
    page = page_of(tmp_path, new_markdown_cell("# Explore\n\nWhy.\n\n## What"))

    assert page.title == "Explore"
    assert page.html.count("<h") == page.html.count("<h3>What</h3>") == 1


def html_output(shown):
    return new_output("execute_result", {"text/html": shown._repr_html_(), "text/plain": repr(shown)})


@pytest.mark.parametrize(
    ("second", "kept"), [("", False), ("a text", True)], ids=["nothing in any cell", "something in one"]
)
def test_a_section_with_nothing_to_show_is_one_line(tmp_path, second, kept):
    other = show_note(second, level="plain") if second else show(pd.DataFrame(), "Skipped", empty="None <b>.")
    cells = [new_code_cell("1", outputs=[html_output(it)]) for it in (show(pd.DataFrame(), "Found"), other)]

    html = str(page_of(tmp_path, new_markdown_cell("## What\n\nWhy so."), *cells).html)

    assert ("<h3>What</h3>" in html, "Why so." in html) == (kept, kept)
    assert kept or "<p>What: Found: Nothing to show. Skipped: None &lt;b&gt;.</p>" in html


def test_code_is_folded_away_and_escaped(tmp_path):
    html = str(page_of(tmp_path, new_code_cell("print('<b>')")).html)

    assert "<details" in html
    assert "&lt;b&gt;" in html


def test_a_picture_keeps_its_alternative_text(tmp_path):
    output = new_output("display_data", {"image/png": PNG}, metadata={"image/png": {"alt": 'a "figure"'}})

    assert f'<img alt="a &#34;figure&#34;" src="data:image/png;base64,{PNG}">' in rendered(tmp_path, output)


# What an output holds, and what its page must not.
NOT_SHOWN = {
    "a forged picture": ({"image/png": 'x" onerror="alert(1)', "text/plain": "fallback"}, "<img"),
    "an SVG": ({"image/svg+xml": "<svg onload=alert(1)>", "text/plain": "figure"}, "<svg"),
    "forms that are not shown": ({"image/svg+xml": "aGk=", "text/latex": "x"}, "<img"),
    "a widget": ({"application/vnd.jupyter.widget-view+json": {}, "text/plain": "HBox()"}, "HBox"),
}


@pytest.mark.parametrize(("data", "gone"), NOT_SHOWN.values(), ids=NOT_SHOWN)
def test_what_is_no_picture_and_no_text_is_not_shown(tmp_path, data, gone):
    assert gone not in rendered(tmp_path, new_output("display_data", data))


def test_a_progress_bar_shows_its_last_state_only(tmp_path):
    output = new_output("stream", name="stderr", text="\r".join(f"{n}%" for n in range(100_001)))

    html = rendered(tmp_path, output)

    assert "100000%" in html
    assert len(html) < 1000


def test_an_error_is_shown_without_colour_codes(tmp_path):
    said = {"ename": "ValueError", "evalue": "<b>", "traceback": ["\x1b[31mValueError\x1b[0m: <b>"]}

    assert "ValueError: &lt;b&gt;" in rendered(tmp_path, new_output("error", **said))


def test_our_classes_stay_and_others_go():
    cleaned = clean_html('<p class="lt-head">a</p><p class="tiles">b</p>')

    assert str(cleaned) == '<p class="lt-head">a</p><p>b</p>'


@pytest.mark.parametrize(
    "address", ["javascript:alert(1)", "data:text/html,x", "#outcome", "/etc/passwd", "//evil", "file:///x"]
)
def test_a_link_leads_only_to_the_web(address):
    assert "href" not in str(render_markdown(f"[x]({address})")).replace('href="#harmful-link"', "")


def test_markdown_shows_html_as_text():
    assert "<img" not in str(render_markdown("a <img src=x onerror=alert(1)> b"))


def test_markdown_keeps_emphasis_tables_and_code():
    html = str(render_markdown("**b** `c`\n\n| a | b |\n|---|---|\n| 1 | 2 |"))

    for tag in ("<strong>", "<code>", "<td>"):
        assert tag in html


ROW = {
    "id": "r1", "collection": "posts", "start": 0, "end": 9, "k": 1, "instruction": "Write about caches.",
    "content": "We like caches.", "content_id": "c1", "author": "1", "language": "en", "grounding": 0.9,
    "grounding_rank": 1, "grounding_margin": 0.5, "copied_instruction": 0.0,
}  # fmt: skip


def manifest_of(rows):
    files = {"train.jsonl": {"sha256": "ab" * 32, "bytes": 1, "rows": len(rows)}}
    return Manifest("posts", {}, files, {"train": [], "test": []}, {}, {}, "", []).as_json()


def run_of(folder, *, rows=(ROW,), **fields):
    run = RunFolder(folder)
    run.dataset.mkdir(parents=True)
    (run.dataset / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run.dataset / "test.jsonl").touch()
    table = pd.DataFrame(rows, columns=[*dict.fromkeys([*ROW, *(key for row in rows for key in row)])])
    table.to_parquet(run.dataset / "train.parquet")
    table.head(0).to_parquet(run.dataset / "test.parquet")
    (run.dataset / "manifest.json").write_text(manifest_of(rows))
    states = [("accepted", ""), ("rejected", "copied"), ("skipped", "blank")]
    rows = [pair("Write.", "x", n, state=state, reason=why) for n, (state, why) in enumerate(states)]
    write_ledger(run.ledger_file, table_of(rows))
    totals = {"contents": 3, "accepted": 1, "rejected": 1, "requests": 2, "cost_usd": 0.0042}
    totals |= {"generation_seconds": 7.0}
    params = {"endpoint": "https://api.example/v1", "model": "m", "prompt": "grounded"}
    params |= {"collections": ["posts"]}
    run.update(**{"state": "complete", "dataset_name": "posts", "params": params, "totals": totals} | fields)
    return run


def report_of(folder, **fields):
    run = run_of(folder, **fields)
    return write_report(run.path).read_text(encoding="utf-8")


def test_the_first_screen_says_what_came_out(tmp_path):
    html = report_of(tmp_path / "run").partition("<main>")[0]

    for expected in (
        "posts",
        "complete",
        "0.0042",
        "0:00:07 h",
        "Not ready to train: fewer than 50 pairs to train on.",
        "1 pair to train on (en 1; 1 author) and none to test with.",
        "1 of 1 find their own content first; all were measured.",
        "llmtwin-data load PATH... --collection posts",
        "Write about caches.",
        "quotes its content",
    ):
        assert expected in html


def test_a_set_without_a_fault_is_ready(tmp_path):
    rows = [ROW | {"id": str(n), "language": "de" if n < 3 else "en"} for n in range(60)]
    run = run_of(tmp_path / "run", rows=rows, totals={"measured": {"words": 58, "nothing": 2}})
    (run.path / "comet.json").write_text(json.dumps({"url": "https://www.comet.com/a/b/c"}))

    verdict = verdict_of(run.read(), dataset_rows(run))
    html = write_report(run.path).read_text(encoding="utf-8")

    assert verdict.sentences == (
        "Ready to train: no alarm, and nothing is pending.",
        "60 pairs to train on (en 57, de 3; 1 author) and none to test with.",
        "60 of 60 find their own content first; thin: de with 3; not measured: 2 pairs.",
    )
    assert '<a href="https://www.comet.com/a/b/c">experiment on Comet</a>' in html


@pytest.mark.parametrize(
    ("measures", "expected"),
    [
        ({"evidence": [0.9, 0.55, 0.9]}, "evidence 0.55, where the rules ask for at least 0.50"),
        ({"copied_content": [0.0, 0.0, 0.57]}, "copied 0.57, where the rules ask for at most 0.60"),
        ({"copied_instruction": [0.0, 0.59, 0.1]}, "copied 0.59, where the rules ask for at most 0.60"),
        ({"grounding": [0.6, 0.6, 0.6]}, "grounding 0.60, where the rules ask for at least 0.50"),
    ],
    ids=["evidence", "copied content", "copied instruction", "grounding"],
)
def test_the_weakest_pair_is_the_closest_to_a_rule(tmp_path, measures, expected):
    usual = ROW | {"grounding": 1.0, "evidence": 0.9, "copied_content": 0.1}
    rows = [usual | {"id": str(n)} | {name: of[n] for name, of in measures.items()} for n in range(3)]
    rules = {"min_grounding": 0.5, "min_evidence": 0.5, "max_copied": 0.6}

    assert f"The weakest: {expected}" in report_of(tmp_path / "run", rows=rows, params=rules)


def test_a_gated_run_names_its_alarm_with_examples_and_what_to_do(tmp_path):
    alarm = {"name": "collapsed", "seen": "9 of 10 alike", "expected": "2", "examples": ["<a>"]}
    alarms = [alarm | {"level": "alarm"}]
    html = report_of(tmp_path / "run", rows=(), state="gated", alarms=alarms).partition("<main>")[0]

    assert "1 alarm (collapsed) stopped the run" in html
    assert ("9 of 10 alike" in html, "&lt;a&gt;" in html, ADVICE["collapsed"] in html) == (True,) * 3


def test_one_fate_is_a_sentence_and_no_chart(tmp_path):
    run = run_of(tmp_path / "run")
    write_ledger(run.ledger_file, table_of([pair("Write.", "x", n) for n in range(3)]))

    html = write_report(run.path).read_text(encoding="utf-8")

    assert "All 3 instructions: accepted." in html
    assert 'class="lt-bar' not in html


def test_a_ledger_without_a_row_is_called_empty(tmp_path):
    run = run_of(tmp_path / "run")
    run.ledger_file.write_bytes(b"")

    assert "The ledger is empty." in write_report(run.path).read_text(encoding="utf-8")


@pytest.mark.parametrize("number", [1, 2, 3, 9])
def test_no_pair_is_shown_twice(tmp_path, number):
    html = report_of(tmp_path / "run", rows=[ROW | {"id": str(n)} for n in range(number)])

    assert html.count("We like") == min(number, 2)


# What stands in run.json; what the report says, and what it does not.
SAID = {
    "gated": ({"state": "gated"}, ["nothing was published"], ""),
    "incomplete": ({"state": "incomplete"}, ["the same command goes on"], ""),
    "failed": ({"state": "failed"}, ["log.txt"], ""),
    "how to make it again": (
        {"given": {"collections": ["posts"]}, "versions": {"python": "3.11"}, "manifest_sha256": "cd" * 32},
        ["collections: [&#34;posts&#34;]", "3.11", "cd" * 32, "ab" * 32],
        "",
    ),
    "notes, no forecasts": (
        {"told": ["Forecast of all: 3 requests", "another model <b> answered"]},
        ["another model &lt;b&gt; answered"],
        "Forecast of all",
    ),
    "what changed": (
        {"changes": {"added": 7, "removed": 0, "changed": 1, "moved": 3}},
        ["Against the dataset published before this one"],
        "",
    ),
    "a tiny model": (
        {
            "params": {"endpoint": "embedded", "model": PACKAGED, "prompt": "grounded"},
            "given": {"endpoint": "embedded", "model": PACKAGED},
            "totals": {"accepted": 12, "rejected": 25},
        },
        ["of 37 instructions that the small model wrote, 12 are about their text.", "OPENAI_API_KEY"],
        "",
    ),
    "a model of one's own": (
        {
            "params": {"endpoint": "embedded", "model": "some.gguf"},
            "totals": {"accepted": 11, "rejected": 26, "failed": 2},
        },
        [],
        "the small model wrote",
    ),
    "what measured": (
        {"totals": {"measured": {"words": 17, "embeddings": 10, "nothing": 2}, "accepted": 9}},
        ["Measured: 17 by words, 10 by embeddings, 2 by nothing, of 29 pairs."],
        "",
    ),
}


@pytest.mark.parametrize(("fields", "there", "gone"), SAID.values(), ids=SAID)
def test_the_report_says_what_stands_in_the_run_file(tmp_path, fields, there, gone):
    html = report_of(tmp_path / "run", **fields)

    assert [words for words in there if words not in html] == []
    assert not gone or gone not in html


def test_a_folder_with_nothing_but_its_state_still_gives_a_report(tmp_path):
    RunFolder(tmp_path).update(state="failed")
    (tmp_path / "comet.json").write_text("[]")

    assert "the run failed" in write_report(tmp_path).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("dataset/manifest.json", "{"),
        ("dataset/manifest.json", json.dumps(json.loads(manifest_of([ROW])) | {"sides": []})),
        ("dataset/manifest.json", json.dumps(json.loads(manifest_of([ROW])) | {"files": {"a": {}}})),
        ("ledger.jsonl", None),
        ("notebooks/1_explore.ipynb", ""),
        ("notebooks/1_explore.ipynb", "[]"),
    ],
    ids=["manifest cut", "its sides", "its files", "no ledger", "notebook empty", "notebook of a list"],
)
def test_a_damaged_file_of_a_run_is_named(tmp_path, name, text):
    path = run_of(tmp_path / "run").path / name
    path.parent.mkdir(exist_ok=True)
    path.unlink() if text is None else path.write_text(text)

    with pytest.raises(DiskFailed, match=f"{path.name}: .*(it is damaged|bring it back)"):
        write_report(tmp_path / "run")


def test_the_report_of_ten_thousand_pairs_is_small(tmp_path):
    rows = [ROW | {"id": str(n), "content": "word " * 300} for n in range(10_000)]

    assert len(report_of(tmp_path / "run", rows=rows)) < 100_000


def test_the_same_run_gives_the_same_report(tmp_path):
    run = run_of(tmp_path / "run")

    assert write_report(run.path).read_bytes() == write_report(run.path).read_bytes()


def test_a_comparison_shows_params_that_differ_and_pairs_that_changed(tmp_path):
    row = ROW | {"id": row_id(("posts", "c1", 0, 9, 1))}
    first = run_of(tmp_path / "first", rows=[row], params={"prompt": "seed", "seed": 1})
    rows = [row | {"instruction": "Explain caches."}, ROW | {"content_id": "c2"}]
    second = run_of(tmp_path / "second", rows=rows, params={"prompt": "grounded", "seed": 1})

    path = compare_report([first.path, second.path])
    html = path.read_text(encoding="utf-8")

    assert path == tmp_path / "comparison.html"
    for expected in (
        "<td>seed</td>",
        "<td>grounded</td>",
        "From run 1 to run 2",
        "Explain <mark>",
        "Write about caches",
        '<td>changed</td><td class="lt-n">1</td>',
        '<td>added</td><td class="lt-n">1</td>',
    ):
        assert expected.replace("<mark>", "") in html.replace("<mark>", "").replace("</mark>", "")


def test_a_run_that_published_nothing_is_compared_by_its_params(tmp_path):
    whole = run_of(tmp_path / "whole")
    gated = RunFolder(tmp_path / "gated")
    gated.update(state="gated", params={"prompt": "seed"})

    html = compare_report([whole.path, gated.path]).read_text(encoding="utf-8")

    assert "Nothing was published by run 2." in html


def test_a_comparison_leads_to_the_reports_of_its_runs(tmp_path):
    runs = [run_of(tmp_path / name).path for name in ("a b", "c", "d")]
    for run in runs[:2]:
        write_report(run)

    html = compare_report(runs).read_text(encoding="utf-8")

    assert re.findall('href="([^"#]+)"', html) == ["a%20b/report.html", "c/report.html"]
    assert "Runs share their stored answers" in html


def test_runs_of_the_same_name_stay_apart(tmp_path):
    runs = [run_of(tmp_path / study / "latest").path for study in ("posts", "articles")]

    html = compare_report(runs).read_text(encoding="utf-8")

    assert "posts/latest" in html
    assert "articles/latest" in html
