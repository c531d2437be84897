"""A run folder verified from its files alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from published_pairs import ledger_of, make_pair, publish

from llmtwin_data.checks import check_dataset, check_run

PAIRS = [make_pair(number) for number in range(8)]
OTHERS = [
    *ledger_of([make_pair(20)], "rejected", "copied"),
    *ledger_of([make_pair(21)], "failed", "refused"),
    *ledger_of([make_pair(22, end=0)], "skipped", "no_text"),
]


@pytest.fixture
def run(tmp_path):
    publish(tmp_path / "run", PAIRS, others=OTHERS)
    return tmp_path / "run"


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def flip(path: Path) -> None:
    """Change one bit of the byte in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_whole_run_has_no_finding(run):
    assert check_run(run) == []


def test_a_changed_byte_is_found_in_every_file(run, tmp_path):
    names = [
        path.relative_to(run).as_posix()
        for path in run.rglob("*")
        if path.is_file() and path.name != "run.json"
    ]

    unnoticed = []
    for name in names:
        copy = shutil.copytree(run, tmp_path / "copy")
        flip(copy / name)
        unnoticed += [name] if not any(finding.startswith(name) for finding in check_run(copy)) else []
        shutil.rmtree(copy)

    assert len(names) == 17
    assert unnoticed == []


@pytest.mark.parametrize(
    "name", ["dataset/train.jsonl", "dataset/formats/trl/test.jsonl", "dataset/test.parquet"]
)
def test_a_missing_file_is_named(run, name):
    (run / name).unlink()

    assert any(finding.startswith(f"{name}: manifest.json names this file") for finding in check_run(run))


def test_a_file_too_many_is_named(run):
    (run / "dataset/formats/more.csv").write_text("=cmd()")

    assert check_run(run) == ["dataset/formats/more.csv: not in manifest.json"]


def test_a_cut_file_is_named(run):
    path = run / "dataset/train.jsonl"
    path.write_bytes(path.read_bytes()[:-1])

    assert {finding.split(":")[0] for finding in check_run(run)} == {"dataset/train.jsonl"}


def test_a_missing_dataset_or_ledger_is_named(run):
    shutil.rmtree(run / "dataset")
    (run / "ledger.jsonl").unlink()

    findings = check_run(run)
    assert findings[0].startswith("ledger.jsonl: cannot be read")
    assert findings[1].startswith("dataset/manifest.json: expected the manifest")


def test_totals_must_be_the_ledgers(run):
    rewrite(run / "run.json", '"accepted": 8', '"accepted": 9')

    assert check_run(run) == ["run.json: totals.accepted is 9, the rows of ledger.jsonl give 8"]


def test_an_unreadable_run_file_is_named(run, tmp_path):
    (run / "run.json").write_text("{")

    assert check_run(run)[0].startswith("run.json: ")
    assert check_run(tmp_path / "nowhere") == ["run.json: expected the state of a run, found no such file"]


def test_a_run_that_is_not_complete_needs_no_dataset(run):
    shutil.rmtree(run / "dataset")
    rewrite(run / "run.json", '"state": "complete"', '"state": "gated"')

    assert check_run(run) == []


def test_recorded_report_and_notebooks_are_compared(run):
    (run / "report.html").write_text("changed")
    rewrite(
        run / "run.json", '"state"', '"files": {"report.html": "00", "notebooks/1.ipynb": "00"},\n "state"'
    )

    assert [finding.split(":")[0] for finding in check_run(run)] == ["report.html", "notebooks/1.ipynb"]


def test_a_notebook_that_run_json_does_not_name_is_found(run):
    rewrite(run / "run.json", '"state"', f'"files": {{"report.html": "{"0" * 64}"}},\n "state"')
    (run / "notebooks").mkdir()
    (run / "notebooks/1.ipynb").write_text("{}")

    assert check_run(run) == [
        "report.html: run.json names this file, found no such file",
        "notebooks/1.ipynb: run.json does not name this file",
    ]


def test_an_incomplete_run_is_not_held_to_the_files_of_the_one_before(run):
    rewrite(run / "run.json", '"state": "complete"', '"files": {"report.html": "00"}, "state": "incomplete"')

    assert check_run(run) == []


def resealed(run: Path) -> list[str]:
    """Check the dataset after its manifest was made to agree with the files again, as a forger would."""
    from llmtwin_data.datasets import file_entry

    path = run / "dataset/manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    for name, entry in manifest["files"].items():
        entry |= file_entry(run / "dataset" / name)
    path.write_text(json.dumps(manifest), encoding="utf-8")
    return check_dataset(run / "dataset")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("Notes on bread", "Notes on bredd", "dataset/train.parquet: row 1 differs"),
        ("Notes on bread", "Notes on broad", "dataset/formats/alpaca/train.jsonl: does not hold the rows"),
        ('"start": 0', '"start": 3', "train.jsonl: line 1: expected the id"),
        ('"k": 1', '"k": 2', "train.jsonl: line 1: expected the id"),
        ("Notes on bread", "Notes on", "characters of content, found"),
        ('"id-0"', '"id-77"', "manifest.json: sides.train does not name the content of line 1"),
        ('", "instruction"', '",  "instruction"', "dataset/train.jsonl: does not hold the rows"),
        ("Notes on bread, part 0: what", "AKIA" + "IOSFODNN7ABCDEFG wha", "holds what looks like a secret"),
    ],
    ids=["content", "format", "offset", "number", "length", "side", "spacing", "secret"],
)
def test_a_forged_row_is_found_though_the_hashes_agree(run, old, new, said):
    rewrite(run / "dataset/train.jsonl", old, new)

    assert any(said in finding for finding in resealed(run))


def test_personal_data_that_should_be_out_is_found(tmp_path):
    pairs = [*PAIRS, make_pair(50, "Write to role@example.org, please, she keeps the bees of our street.")]

    publish(tmp_path, pairs, rules={"personal_data": "mask"})

    [finding] = check_dataset(tmp_path / "dataset")
    assert finding.endswith("holds what looks like personal data (email)")


def test_a_certificate_that_the_rows_do_not_bear_out_is_found(tmp_path):
    publish(tmp_path, PAIRS, certificate={"test_chunks": 7})

    [finding] = check_dataset(tmp_path / "dataset")
    assert finding == "dataset/manifest.json: certificate.test_chunks is 7, the rows give 2"


def test_i4_sides_that_share_a_content_or_link_are_found(tmp_path):
    same_link = make_pair(31, link="https://example.org/0")
    second_chunk = make_pair(1, start=80, end=120, text="x" * 40)
    publish(tmp_path, [*PAIRS, second_chunk, same_link])

    findings = check_dataset(tmp_path / "dataset")
    assert any("its content is in train.jsonl too" in finding for finding in findings)
    assert any("its link is in train.jsonl too" in finding for finding in findings)


def test_accepted_rows_and_the_dataset_must_be_the_same(run):
    rewrite(run / "ledger.jsonl", '"accepted", "reason": ""', '"rejected", "reason": "copied"')

    findings = check_run(run)
    assert "ledger.jsonl: changed since run.json recorded it (ledger_sha256)" in findings
    assert "ledger.jsonl: other rows, states or reasons than those that the dataset was made of" in findings
    assert "dataset/train.jsonl: line 1: ledger.jsonl does not accept this row" in findings


def test_many_findings_of_a_kind_are_counted(run):
    path = run / "dataset/train.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace('"start": 0', '"start": 1'), encoding="utf-8")

    assert any(finding.endswith("and 7 more findings of this kind") for finding in resealed(run))


def faults_of(folder: Path, rows) -> list[str]:
    """Return what is found in a run whose ledger holds these rows beside those of its dataset."""
    publish(folder, PAIRS, others=rows)
    return check_run(folder)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (ledger_of([make_pair(30), make_pair(30)], "failed", "refused"), "stands there twice"),
        (ledger_of([make_pair(30)], "rejected"), "expected a reason for rejected, found ''"),
        (ledger_of([make_pair(30)], "rejected", "ugly"), "expected a reason for rejected, found 'ugly'"),
        (ledger_of([make_pair(30)], "failed"), "expected a reason for failed, found ''"),
        (ledger_of([make_pair(30)], "gone", "x"), "expected a final state, found 'gone'"),
        (ledger_of([make_pair(30, start=5)], "failed", "refused"), "a chunk ends at 0, the next starts at 5"),
        (
            ledger_of([make_pair(30, "a" * 9), make_pair(30, "b" * 5, start=8, end=13)], "failed", "refused"),
            "cleaned_posts/id-30: a chunk ends at 9, the next starts at 8",
        ),
        (ledger_of([make_pair(30, k=2)], "failed", "refused"), "expected instructions from 1 on, found [2]"),
    ],
    ids=["twice", "no reason", "unknown", "failed", "state", "gap", "overlap", "number"],
)
def test_i1_what_the_ledger_does_not_account_for_is_found(tmp_path, rows, said):
    findings = faults_of(tmp_path, rows)

    assert any(finding.startswith("ledger.jsonl: ") and said in finding for finding in findings)


def test_chunks_that_tile_and_several_instructions_are_accounted_for(tmp_path):
    chunks = [make_pair(30, "a" * 10), make_pair(30, "b" * 5, start=10, end=15), make_pair(30, "a" * 10, k=2)]

    assert faults_of(tmp_path, ledger_of(chunks, "failed", "refused")) == []


def test_pending_rows_are_allowed_while_a_run_is_not_complete(run):
    rewrite(run / "ledger.jsonl", '"failed", "reason": "refused"', '"pending", "reason": ""')
    assert any("expected a final state, found 'pending'" in finding for finding in check_run(run))

    rewrite(run / "run.json", '"state": "complete"', '"state": "incomplete"')

    assert check_run(run) == []


def test_an_accepted_instruction_without_a_row_is_found(run):
    rewrite(run / "ledger.jsonl", '"rejected", "reason": "copied"', '"accepted", "reason": ""')

    assert any("('cleaned_posts', 'id-20', 0" in finding for finding in check_run(run))


def test_a_content_named_on_both_sides_is_found(run):
    rewrite(run / "dataset/manifest.json", '"test": [', '"test": ["cleaned_posts/id-0", ')

    assert "dataset/manifest.json: content cleaned_posts/id-0 is on both sides" in check_dataset(
        run / "dataset"
    )
