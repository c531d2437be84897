"""The report of a run."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
from written_pairs import pair, table_of

from llmtwin_data.contents import row_id
from llmtwin_data.datasets import Manifest, write_ledger
from llmtwin_data.errors import ParamsError
from llmtwin_data.folders import RunFolder
from llmtwin_data.reports import compare_report, format_seconds, write_report

ROW = {
    "id": "r1",
    "collection": "posts",
    "start": 0,
    "end": 9,
    "k": 1,
    "instruction": "Write about caches.",
    "content": "We like caches.",
    "content_id": "c1",
    "author": "1",
    "grounding": 0.9,
    "grounding_rank": 1,
    "grounding_margin": 0.5,
    "copied_instruction": 0.0,
}


def run_of(folder, *, rows=(ROW,), **fields):
    run = RunFolder(folder)
    run.dataset.mkdir(parents=True)
    (run.dataset / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"train.jsonl": {"sha256": "ab" * 32, "bytes": 1, "rows": len(rows)}}
    (run.dataset / "test.jsonl").touch()
    manifest = Manifest("posts", {}, files, {}, {}, {}, "", [])
    (run.dataset / "manifest.json").write_text(manifest.as_json())
    states = [("accepted", ""), ("rejected", "copied"), ("skipped", "blank")]
    rows = [pair("Write.", "x", n, state=state, reason=why) for n, (state, why) in enumerate(states)]
    write_ledger(run.ledger_file, table_of(rows))
    totals = {
        "contents": 3,
        "accepted": 1,
        "rejected": 1,
        "requests": 2,
        "cost_usd": 0.0042,
        "generation_seconds": 7.0,
    }
    params = {
        "endpoint": "https://api.example/v1",
        "model": "m",
        "prompt": "grounded",
        "collections": ["posts"],
    }
    run.update(**{"state": "complete", "dataset_name": "posts", "params": params, "totals": totals} | fields)
    return run


def report_of(folder, **fields):
    run = run_of(folder, **fields)
    return write_report(run.path).read_text(encoding="utf-8")


def test_the_header_says_what_came_out(tmp_path):
    html = report_of(tmp_path / "run")

    for expected in (
        "posts",
        "complete",
        "0.0042",
        "7.0 s",
        "100 %",
        "Write about caches.",
        "quotes its content",
    ):
        assert expected in html


def test_the_end_says_how_to_make_it_again(tmp_path):
    html = report_of(
        tmp_path / "run",
        given={"collections": ["posts"]},
        versions={"python": "3.11"},
        manifest_sha256="cd" * 32,
    )

    for expected in ("collections: [&#34;posts&#34;]", "3.11", "cd" * 32, "ab" * 32):
        assert expected in html


@pytest.mark.parametrize("number", [1, 2, 3, 9])
def test_no_pair_is_shown_twice(tmp_path, number):
    html = report_of(tmp_path / "run", rows=[ROW | {"id": str(n)} for n in range(number)])

    assert html.count("We like") == min(number, 3)


def test_notes_of_the_run_stand_at_the_top_and_forecasts_do_not(tmp_path):
    html = report_of(tmp_path / "run", told=["Forecast of all: 3 requests", "another model <b> answered"])

    assert "another model &lt;b&gt; answered" in html
    assert "Forecast of all" not in html


def test_what_changed_since_the_last_dataset_is_said(tmp_path):
    page = report_of(tmp_path, changes={"added": 7, "removed": 0, "changed": 1, "moved": 3})

    assert "Against the dataset published before this one" in page


def test_a_tiny_model_is_named_plainly(tmp_path):
    html = report_of(
        tmp_path / "run", params={"endpoint": "embedded", "model": "SmolLM2", "prompt": "grounded"}
    )

    assert "A tiny embedded model wrote these instructions" in html
    assert "OPENAI_API_KEY" in html


def test_a_model_of_ones_own_is_not_called_tiny(tmp_path):
    html = report_of(tmp_path / "run", params={"endpoint": "embedded"}, given={"model": "some.gguf"})

    assert "tiny embedded model" not in html


@pytest.mark.parametrize(
    ("state", "said"),
    [("gated", "nothing was published"), ("incomplete", "goes on from here"), ("failed", "log.txt")],
)
def test_a_run_that_did_not_end_well_says_so(tmp_path, state, said):
    assert said in report_of(tmp_path / "run", state=state)


def test_a_folder_with_nothing_but_its_state_still_gives_a_report(tmp_path):
    RunFolder(tmp_path).update(state="failed")

    assert "The run failed" in write_report(tmp_path).read_text(encoding="utf-8")


class Fetching(HTMLParser):
    """Collects whatever a browser would fetch or run."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        if tag in ("script", "link", "iframe", "object", "embed", "base"):
            self.found.append(tag)
        self.found += [value for name, value in attrs if name == "src" and not value.startswith("data:")]


def test_the_report_is_one_file_that_fetches_nothing(tmp_path):
    parser = Fetching()

    parser.feed(report_of(tmp_path / "run"))

    assert parser.found == []


def test_the_report_of_ten_thousand_pairs_is_small(tmp_path):
    html = report_of(
        tmp_path / "run", rows=[ROW | {"id": str(n), "content": "word " * 300} for n in range(10_000)]
    )

    assert len(html) < 100_000


def test_the_same_run_gives_the_same_report(tmp_path):
    run = run_of(tmp_path / "run")

    assert write_report(run.path).read_bytes() == write_report(run.path).read_bytes()


@pytest.mark.parametrize(("seconds", "said"), [(7.04, "7.0 s"), (600, "10 min"), (9000, "2.5 h")])
def test_durations_are_said_as_people_say_them(seconds, said):
    assert format_seconds(seconds) == said


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


def test_a_comparison_of_one_run_is_refused(tmp_path):
    with pytest.raises(ParamsError, match="two run folders"):
        compare_report([tmp_path])


def test_runs_of_the_same_name_stay_apart(tmp_path):
    runs = [run_of(tmp_path / study / "latest").path for study in ("posts", "articles")]

    html = compare_report(runs).read_text(encoding="utf-8")

    assert "posts/latest" in html
    assert "articles/latest" in html


def test_a_run_is_not_compared_with_itself(tmp_path):
    run = run_of(tmp_path / "run")

    with pytest.raises(ParamsError, match="same one twice"):
        compare_report([run.path, run.path])
