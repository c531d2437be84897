"""A run folder verified from its files alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import product
import pytest
from published_pairs import ledger_of, make_pair, publish
from store_records import Named
from written_pairs import changed

from llmtwin_data.answers import Answer, AnswerStore
from llmtwin_data.checks import check_answers, check_dataset, check_run, publication_of
from llmtwin_data.datasets import LEDGER, file_entry, seal_run
from llmtwin_data.folders import RunFolder
from llmtwin_data.prompts import answer_key

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


def test_a_file_too_many_is_named(run):
    (run / "dataset/formats/more.csv").write_text("=cmd()")

    assert check_run(run) == ["dataset/formats/more.csv: not in manifest.json"]


def test_a_missing_dataset_or_ledger_is_named(run):
    shutil.rmtree(run / "dataset")
    (run / "ledger.jsonl").unlink()

    findings = check_run(run)
    assert findings[0].startswith("ledger.jsonl: cannot be read")
    assert findings[1].startswith("dataset/manifest.json: expected the manifest")
    assert findings[2:] == [
        "dataset/manifest.json: changed since the run was sealed",
        "ledger.jsonl: changed since the run was sealed",
    ]


def test_totals_must_be_the_ledgers(run):
    rewrite(run / "run.json", '"accepted": 8', '"accepted": 9')

    assert check_run(run) == [
        "run.json: totals.accepted is 9, the rows of ledger.jsonl give 8",
        "run.json: totals: changed since the run was sealed",
    ]


def test_an_unreadable_run_file_is_named(run, tmp_path):
    (run / "run.json").write_text("{")

    assert check_run(run)[0].startswith("run.json: ")
    assert check_run(tmp_path / "nowhere") == ["run.json: expected the state of a run, found no such file"]


def test_recorded_report_and_notebooks_are_compared_unless_the_run_goes_on(run):
    (run / "notebooks").mkdir()
    for name in ("1", "2"):
        (run / f"notebooks/{name}.ipynb").write_text("{}")
    rewrite(
        run / "run.json", '"state"', '"files": {"report.html": "00", "notebooks/2.ipynb": "00"},\n "state"'
    )

    assert check_run(run) == [
        "report.html: run.json names this file, found no such file",
        "notebooks/2.ipynb: changed since run.json recorded it",
        "notebooks/1.ipynb: run.json does not name this file",
    ]
    RunFolder(run).update(state="incomplete")
    assert check_run(run) == []


FIELDS = {"params": {"model": "scripted", "seed": 42}, "given": {"seed": 42}, "told": ["x"], "judge": []}


def sealed_run(folder: Path) -> Path:
    """Publish a run with all that a driver leaves, sealed."""
    publish(folder, PAIRS, others=OTHERS)
    (folder / "verdicts.jsonl").write_text('{"pair_id": "a", "score": 5}\n{"pair_id": "b", "score": 1}\n')
    (folder / "report.html").write_text("<p>report</p>")
    (folder / "notebooks").mkdir()
    (folder / "notebooks/3.ipynb").write_text('{"cells": []}')
    seal_run(RunFolder(folder), **FIELDS)
    names = ("notebooks/3.ipynb", "report.html")
    RunFolder(folder).update(files={name: file_entry(folder / name)["sha256"] for name in names})
    return folder


def changed_value(value):
    """Return another value of the same type, as a hand that knows the format would write it."""
    if isinstance(value, bool | None):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return value[:-1] + ("0" if value[-1:] != "0" else "1")
    return {**value, "more": 1} if isinstance(value, dict) else [*value, "more"]


def mutations(run: Path):
    """Yield what is done to a run, and a function that does it: each file, each field, each key of a line."""
    files = sorted(path for path in run.rglob("*") if path.is_file() and path.name != "run.json")
    for path in files:
        name = path.relative_to(run).as_posix()
        yield f"{name} flipped", lambda path=path: flip(path)
        yield f"{name} cut", lambda path=path: path.write_bytes(path.read_bytes()[:-2])
        yield f"{name} more", lambda path=path: path.write_bytes(path.read_bytes() + b"\n")
        yield f"{name} gone", path.unlink
    documents = {
        path: json.loads(path.read_text()) for path in (run / "run.json", run / "dataset/manifest.json")
    }
    for path, values in documents.items():
        for key, value in values.items():
            rest = {name: it for name, it in values.items() if name != key}
            changes = {"changed": rest | {key: changed_value(value)}, "gone": rest}
            if isinstance(value, dict):
                parts = {part: value | {part: changed_value(it)} for part, it in value.items()}
                changes |= {f"{part} changed": rest | {key: it} for part, it in parts.items()}
            for what, content in changes.items():
                yield (
                    f"{path.name} {key} {what}",
                    lambda path=path, content=content: path.write_text(json.dumps(content)),
                )
    for name in ("ledger.jsonl", "verdicts.jsonl", "dataset/train.jsonl"):
        first, *others = (run / name).read_text().splitlines(keepends=True)
        for key, value in json.loads(first).items():
            line = json.dumps(json.loads(first) | {key: changed_value(value)}, ensure_ascii=False)
            text = "".join([line + "\n", *others])
            yield f"{name} {key}", lambda name=name, text=text: (run / name).write_text(text)
        swapped = "".join([others[0], first, *others[1:]])
        yield f"{name} swapped", lambda name=name, text=swapped: (run / name).write_text(text)


def test_d20_no_change_of_any_file_or_field_goes_unnoticed(tmp_path):
    run = sealed_run(tmp_path / "run")
    assert check_run(run) == []
    kept = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    unnoticed = []
    names = []
    for name, change in list(mutations(run)):
        change()
        names.append(name)
        findings, (place, *what) = check_run(run), name.split()
        if what in (["flipped"], ["cut"], ["more"], ["gone"]):
            findings = [finding for finding in findings if finding.startswith(place)]
        unnoticed += [] if findings else [name]
        for path, data in kept.items():
            path.write_bytes(data)

    assert len(names) > 200
    assert unnoticed == []


def test_d20_what_may_change_later_is_not_sealed(tmp_path):
    run = sealed_run(tmp_path)
    (run / "labels.jsonl").write_text("{}")
    (run / "log.txt").write_text("later")
    (run / "report.html").write_text("again")

    RunFolder(run).update(
        files=RunFolder(run).read()["files"] | {"report.html": file_entry(run / "report.html")["sha256"]}
    )

    assert check_run(run) == []


def test_d20_a_poisoned_instruction_is_found_though_every_file_and_hash_of_the_dataset_agrees(tmp_path):
    run = sealed_run(tmp_path / "run")
    poisoned = [make_pair(0, instruction="Write a line of praise for bread."), *PAIRS[1:]]
    publish(tmp_path / "other", poisoned, others=OTHERS)
    shutil.rmtree(run / "dataset")
    shutil.copytree(tmp_path / "other/dataset", run / "dataset")
    fields = RunFolder(run).read()
    manifest = file_entry(run / "dataset/manifest.json")["sha256"]
    (run / "run.json").write_text(json.dumps(fields | {"manifest_sha256": manifest}))

    assert "dataset/train.jsonl: line 1: ledger.jsonl has another instruction" in check_run(run)


@pytest.mark.parametrize("state", ["gated", "failed"])
def test_d21_a_run_that_is_not_complete_needs_no_dataset_and_says_so(run, state):
    shutil.rmtree(run / "dataset")
    seal_run(RunFolder(run), state=state, manifest_sha256=None)

    assert check_run(run) == []
    assert publication_of(run) == f"nothing was published, the run is {state}"


def test_a_run_of_before_there_were_seals_is_checked_as_far_as_it_goes(run):
    path = run / "ledger.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({key: row[key] for key in list(LEDGER)[:-1]}) + "\n" for row in rows))
    fields = {key: value for key, value in RunFolder(run).read().items() if key != "seal"}
    (run / "run.json").write_text(json.dumps(fields | {"ledger_sha256": file_entry(path)["sha256"]}))

    assert check_run(run) == []
    assert "; it has no seal, so run.json and verdicts.jsonl are taken as they are" in publication_of(run)


def test_a_run_that_hashes_its_instructions_must_have_a_seal(run):
    fields = {key: value for key, value in RunFolder(run).read().items() if key != "seal"}
    (run / "run.json").write_text(json.dumps(fields))

    assert check_run(run) == ["run.json: expected the seal of a complete run, found none"]


@pytest.fixture
def answered(tmp_path):
    """Publish pairs whose answers are in a store; give run, store and the rows."""
    rows = [changed(row, answer_key=answer_key(row.content, Named.sha256)) for row in PAIRS]
    publish(tmp_path / "run", rows)
    with AnswerStore(tmp_path / "answers.sqlite") as store:
        answers = [Answer(row.answer_key, "ok", (row.instruction,)) for row in rows]
        store.save(answers=answers, recipes=[Named()])
        yield tmp_path / "run", store, rows


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"instruction": "Praise bread, please."}, "its instruction is not the one in answers.sqlite"),
        ({"k": 2}, "its instruction is not the one in answers.sqlite"),
        ({"answer_key": "00"}, "answers.sqlite holds no such answer; another store, or forgotten since"),
        ({"content": "x" * 70, "end": 70}, "its answer in answers.sqlite is to another text"),
        (
            {"instruction": PAIRS[1].instruction, "answer_key": answer_key(PAIRS[1].content, Named.sha256)},
            "its answer in answers.sqlite is to another text",
        ),
    ],
    ids=["instruction", "number", "key", "content", "lent"],
)
def test_d20_a_dataset_made_anew_around_a_forged_row_is_found_against_the_store(answered, columns, said):
    run, store, rows = answered
    publish(run, [changed(rows[0], **columns), *rows[1:]])

    assert check_run(run) == [] or "k" in columns
    assert check_answers(run, store) == [f"dataset/train.jsonl: line 1: {said}"]


def test_wording_that_a_person_gave_is_no_fault(answered):
    run, store, rows = answered
    edited = changed(rows[0], instruction="Write of bread as a baker would.")
    publish(run, [edited, *rows[1:]])

    assert check_answers(run, store, edits={(edited.id, edited.instruction)}) == []
    assert len(check_answers(run, store, edits={(rows[1].id, edited.instruction)})) == 1


def test_the_command_checks_against_a_store_and_says_what_was_published(answered):
    run, store, rows = answered
    code, output, _ = product.command("check", run, "--answers", store.path)
    assert (code, output.splitlines()[0].split("; ")[0]) == (0, f"{run}: every promise holds")
    assert "published: posts-instruct-dataset, 8 rows" in output

    publish(run, [changed(rows[0], instruction="Praise bread, please."), *rows[1:]])

    code, output, _ = product.command("check", run, "--answers", store.path)
    assert (code, output.splitlines()[0]) == (
        6, "dataset/train.jsonl: line 1: its instruction is not the one in answers.sqlite"
    )  # fmt: skip


def resealed(run: Path) -> list[str]:
    """Check the dataset after its manifest was made to agree with the files again, as a forger would."""
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
        ('"id-0"', '"id-77"', "train.jsonl: line 1: sides.train of manifest.json does not name its content"),
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


def test_texts_that_hold_a_secret_only_when_glued_are_no_finding(tmp_path):
    text = "Qx7dT2mZ9pLw41Rt was what the log showed, and so we changed it before lunch."
    made = make_pair(50, text, instruction="Write a post about how we rotated a leaked API key:")

    publish(tmp_path, [*PAIRS, made])

    assert check_dataset(tmp_path / "dataset") == []


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
    rewrite(run / "ledger.jsonl", '"rejected", "reason": "copied"', '"accepted", "reason": ""')
    rewrite(run / "ledger.jsonl", '"accepted", "reason": ""', '"rejected", "reason": "copied"')

    findings = check_run(run)
    assert "ledger.jsonl: changed since run.json recorded it (ledger_sha256)" in findings
    assert "ledger.jsonl: other rows, states or reasons than those that the dataset was made of" in findings
    assert "dataset/train.jsonl: line 1: ledger.jsonl does not accept this row" in findings
    assert any("('cleaned_posts', 'id-20', 0" in finding for finding in findings)


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

    RunFolder(run).update(state="incomplete")

    assert check_run(run) == []


def test_a_content_named_on_both_sides_is_found(run):
    rewrite(run / "dataset/manifest.json", '"test": [', '"test": ["cleaned_posts/id-0", ')

    findings = check_dataset(run / "dataset")
    assert "dataset/manifest.json: content cleaned_posts/id-0 is on both sides" in findings
