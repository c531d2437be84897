"""Audits: anyone's dataset read, and named for what it is."""

from __future__ import annotations

import gzip
import json
import random
import re

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from written import ROOT, read_lines, written

from llmtwin_data.audits import audit, read_dataset
from llmtwin_data.contents import Chunk
from llmtwin_data.errors import SourceError

PAIRS = written()
INSTRUCTIONS, TEXTS = map(list, zip(*PAIRS, strict=True))
CONTENTS = [Chunk(str(n), "posts", 0, len(text), text, "posts", "1") for n, text in enumerate(TEXTS)]
SUBJECTS = ["machine learning", "leadership", "productivity", "remote work", "cloud computing", "startups"]
SUBJECTS += ["agile teams"]
INVENTED = (
    "Write a LinkedIn post about {}.",
    "Share three tips on {} for professionals.",
    "How does {} change us?",
)


def rows_of(instructions=INSTRUCTIONS, texts=TEXTS, **fields):
    return [{"instruction": i, "content": t} | fields for i, t in zip(instructions, texts, strict=True)]


def invented(number: int) -> str:
    return INVENTED[number % 3].format(SUBJECTS[number % 7])


def split_rows(rows):
    return [row | {"split": "test" if n % 10 == 0 else "train"} for n, row in enumerate(rows)]


def write_rows(rows, folder):
    file = folder / "set.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def found_in(rows, tmp_path, *, contents=CONTENTS, name=""):
    result = audit(write_rows(rows, tmp_path), contents=contents, out_dir=tmp_path / "audit")
    return [finding for finding in result.findings if finding.startswith(name)]


def names_of(rows, tmp_path, *, contents=CONTENTS):
    return {finding.split(":")[0] for finding in found_in(rows, tmp_path, contents=contents)}


def test_an_empty_instruction_is_named(tmp_path):
    [finding] = found_in(rows_of(["", *INSTRUCTIONS[1:]]), tmp_path, name="generic")
    assert finding == "generic: 1 of 77 rows have an empty instruction or content (none is well)"


def test_what_could_not_be_looked_for_is_told(tmp_path):
    told = [audit(write_rows(rows, tmp_path), contents=None, out_dir=tmp_path).notes[-1]
            for rows in (rows_of(), split_rows(rows_of()))]  # fmt: skip

    assert told == [
        "leak: not looked for: the rows do not tell train from test",
        "leak: pieces of one source across the split are not seen without --contents",
    ]


@pytest.mark.parametrize("contents", [CONTENTS, None], ids=["with contents", "without"])
def test_a_good_dataset_passes(tmp_path, contents):
    assert names_of(split_rows(rows_of()), tmp_path, contents=contents) == set()


@pytest.mark.parametrize("contents", [CONTENTS, None], ids=["with contents", "without"])
def test_shuffled_pairs(tmp_path, contents):
    rows = rows_of(INSTRUCTIONS[9:] + INSTRUCTIONS[:9])

    [finding] = found_in(rows, tmp_path, contents=contents, name="ungrounded")
    assert finding.endswith("as shuffled pairs do (at most 15% is well)")


def test_instructions_in_another_language_are_judged_too(tmp_path):
    rows = rows_of(["寫一篇關於貓咪的貼文", *INSTRUCTIONS[1:]])

    audit(write_rows(rows, tmp_path), contents=CONTENTS, out_dir=tmp_path / "audit")

    first, second, *rest = read_lines(tmp_path / "audit/rows.jsonl")
    assert (first["measured_by"], first["evidence"] < 0.5) == ("embeddings", True)
    assert (second["grounding"] > 0.8, len(rest)) == (True, len(TEXTS) - 2)


def test_vague_instructions_are_named(tmp_path):
    words = ["lesson", "habit", "mistake", "success", "change", "year", "team", "plan", "risk", "story"]
    rows = rows_of(
        [f"Write a post about a {words[n % 10]} and what it taught you, part {n}." for n in range(77)]
    )

    [finding] = found_in(rows, tmp_path, contents=CONTENTS, name="vague")
    assert "say hardly anything of their own text" in finding


KEY = "ghp_" + "".join(random.Random(1).choices("aB3dE5gH7", k=36))
# The one thing that is wrong with a set.
FAULTY = {
    "ungrounded": rows_of(INSTRUCTIONS[1:20] + INSTRUCTIONS[:1] + INSTRUCTIONS[20:]),
    "generic": rows_of([f"{words[:-1]}, as the extract says?" for words in INSTRUCTIONS]),
    "duplicates": rows_of() + rows_of()[:5],
    "secrets": rows_of([f"{INSTRUCTIONS[0]} Use the key {KEY}", *INSTRUCTIONS[1:]]),
}


@pytest.mark.parametrize(("name", "rows"), FAULTY.items(), ids=FAULTY)
def test_one_fault_is_named_and_no_other(tmp_path, name, rows):
    assert names_of(rows, tmp_path) == {name}


def test_the_source_missing_from_the_prompt(tmp_path):
    rows = rows_of([f"{invented(n)} Part {n}." for n in range(len(TEXTS))])

    [finding] = found_in(rows, tmp_path, name="ungrounded")
    assert finding.endswith("as if the source was missing from the prompt (at most 15% is well)")


def test_answers_that_come_from_no_source(tmp_path):
    rows = [
        {"instruction": invented(n), "answer": f"It matters for all of us: {SUBJECTS[n % 7]}."}
        for n in range(80)
    ]

    assert "ungrounded" in names_of(rows, tmp_path)


def test_rows_on_the_general_subject_written_without_the_contents(tmp_path):
    rows = read_lines(ROOT / "tests/data/general_rows.jsonl")

    findings = found_in(rows, tmp_path, name="ungrounded")

    assert "as if they were written without their source (at most 65% is well)" in findings[-1]


def test_many_contents_are_compared_by_a_sample_which_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("llmtwin_data.audits.MOST_PIECES", 20)
    rows = write_rows(read_lines(ROOT / "tests/data/general_rows.jsonl"), tmp_path)

    notes = [audit(rows, contents=CONTENTS, out_dir=tmp_path / "audit").notes for _ in range(2)]

    assert "pieces of the contents, drawn with seed 0" in notes[0][0]
    assert notes[0] == notes[1]


LABELS = ROOT / "tests/data/pairs"
LABELLED_TEXTS, FIRST_TEXTS = (
    [Chunk(text["id"], "posts", 0, 0, text["text"]) for text in read_lines(LABELS / f"texts-{half}.jsonl")]
    for half in ("two", "one")
)


@pytest.mark.parametrize(("language", "of"), [("en", "en"), ("es", "es"), ("zh-Hant", "en"), ("en", "zh")])
def test_answers_in_other_words_than_the_contents(tmp_path, language, of):
    pairs = [pair for pair in read_lines(LABELS / "pairs-two.jsonl") if pair["language"] == language]
    good, paraphrased = (
        [pair["instruction"] for pair in pairs if pair["kind"] == kind and f"-{of}-" in pair["text"]]
        for kind in ("good", "paraphrased")
    )
    rows = [{"question": one, "answer": two} for one, two in zip(good, paraphrased, strict=True)]

    findings = found_in(rows, tmp_path, contents=LABELLED_TEXTS, name="ungrounded")

    assert (len(rows) > 8, [finding for finding in findings if "source" in finding]) == (True, [])


@pytest.mark.parametrize(("written", "found"), [("grounded", False), ("general", True)])
@pytest.mark.parametrize(
    ("name", "texts"), [("", LABELLED_TEXTS), ("_again", FIRST_TEXTS)], ids=["first", "again"]
)
def test_sets_made_after_the_threshold(tmp_path, name, texts, written, found):
    rows = [
        row for row in read_lines(ROOT / f"tests/data/traced_rows{name}.jsonl") if row["written"] == written
    ]

    findings = found_in(rows, tmp_path, contents=texts, name="ungrounded")

    assert any("written without their source" in finding for finding in findings) == found


REFUSALS = [
    "I'm sorry, I can't help with that.", "I apologize, but I cannot write this post.",
    "I’m sorry, but as an AI language model, I have no memories of my own.",
    "As an AI, I was not there.", "I cannot assist with that request.", "很抱歉，我無法協助這個要求。",
    "作為一個 AI 語言模型，我沒有個人經驗。", "抱歉，我不能提供这些内容。",
    "Lo siento, pero no puedo ayudarte con eso.", "Como modelo de lenguaje, no tengo opiniones.",
]  # fmt: skip
PERSONS = [
    "I'm sorry, I can't believe this took three years.", "I can't help thinking of my first demo.",
    "As an AI engineer I read a lot of CVs.", "Every reply began with “As an AI language model”.",
    "抱歉，最近很忙。", "身為 AI 工程師，我每天都在調參。", "Lo siento, pero Lambda no me convence.",
]  # fmt: skip


def test_answers_that_refuse(tmp_path):
    answers = [f"{answer} {text}" for answer, text in zip(REFUSALS + PERSONS, TEXTS, strict=False)]

    assert found_in(rows_of(INSTRUCTIONS[:17], answers), tmp_path, contents=None, name="refusal") == [
        "refusal: 10 of 17 answers refuse, or speak as an AI does (at most 1% is well)"
    ]


def said(text):
    return [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": text}]


@pytest.mark.parametrize("form", [str, said], ids=["texts", "turns"])
def test_preferences_between_equal_answers(tmp_path, form):
    rows = [
        {"prompt": i, "chosen": form(t), "rejected": form(f"{t}\n" if n < 3 else "No idea.")}
        for n, (i, t) in enumerate(PAIRS[:20])
    ]
    rows[9]["rejected"] = None

    assert found_in(rows, tmp_path, contents=None, name="preference") == [
        "preference: 3 of 19 rows prefer an answer to itself: chosen and rejected are the same "
        "(at most 1% is well)"
    ]


def test_copies_across_the_split(tmp_path):
    rows = split_rows(rows_of())
    rows += [row | {"split": "test", "instruction": f"{row['instruction']} Be brief."} for row in rows[1:6]]

    assert "leak" in names_of(rows, tmp_path, contents=None)


def test_siblings_across_the_split_are_found_by_the_contents(tmp_path):
    halves = [(text[: len(text) // 2], text[len(text) // 2 :]) for text in TEXTS]
    first = rows_of(texts=[half for half, _ in halves], split="train")
    second = rows_of(
        [f"{words} Go on." for words in INSTRUCTIONS], [half for _, half in halves], split="test"
    )

    assert "leak" in names_of(first + second, tmp_path)


def test_copies_and_siblings_of_a_text_on_both_sides_leak_too(tmp_path):
    half, sibling = TEXTS[0][: len(TEXTS[0]) // 2], TEXTS[0][len(TEXTS[0]) // 2 :]
    rows = rows_of(INSTRUCTIONS[:4], [half, half, f"{half} With an addition.", sibling], split="test")
    rows[0]["split"] = "train"

    (leak,) = found_in(rows, tmp_path, name="leak")

    assert leak.startswith("leak: 3 of 3 test rows")


def test_one_language_throughout_is_a_choice_but_a_mixture_is_not(tmp_path):
    chinese = [f"撰寫一篇關於第{n}個主題的貼文,說明我們學到的事情" for n in range(len(TEXTS))]
    mixed = [words if n % 2 else INSTRUCTIONS[n] for n, words in enumerate(chinese)]

    assert "language" not in names_of(rows_of(chinese), tmp_path)
    assert "language" in names_of(rows_of(mixed), tmp_path)


def test_the_report_shows_text_only(tmp_path):
    hostile = '<script>alert(1)</script><img src=x onerror="alert(1)"> '
    rows = rows_of([hostile + text[:200] for text in TEXTS])

    assert "copied" in names_of(rows, tmp_path)

    report = (tmp_path / "audit" / "report.html").read_text()
    assert re.findall(r"<(?:script|img|svg|iframe|a|form|link)\b|<[^>]* on\w+=", report) == []
    assert "&lt;script&gt;" in report


ASKED, TOLD = "Write about bees.", "Bees fly at dawn."


def turn(role, content, **fields):
    return {"role": role, "content": content} | fields


def spoken(speaker, value):
    return {"from": speaker, "value": value}


TURNS = [turn("system", "s"), turn("user", ASKED), turn("assistant", TOLD)]
SHARED = [spoken("human", ASKED), spoken("gpt", TOLD)]
PARTS = (
    [{"type": "text", "text": ASKED}, {"type": "image_url"}],
    [{"type": "thinking", "text": "?"}, {"text": TOLD}],
)
SHAPES = {
    "instruction/content": {"instruction": ASKED, "content": TOLD},
    "alpaca": {"instruction": ASKED, "input": "", "output": TOLD},
    "prompt/completion": {"prompt": ASKED, "completion": TOLD},
    "conversational prompt": {"prompt": TURNS[:2], "completion": TURNS[2:]},
    "messages": {"messages": TURNS},
    "sharegpt": {"conversations": SHARED},
    "preference": {"prompt": ASKED, "chosen": TOLD, "rejected": "no"},
    "preference of turns": {
        "conversations": SHARED[:1],
        "chosen": SHARED[1],
        "rejected": spoken("gpt", "no"),
    },
    "implicit prompt": {"chosen": TURNS[1:], "rejected": [TURNS[1], turn("assistant", "no")]},
    "prompt beside implicit prompt": {"prompt": ASKED, "chosen": TURNS[1:], "messages": TURNS[1:]},
    "implicit prompt in one text": {"chosen": f"\n\nHuman: {ASKED}\n\nAssistant: {TOLD}"},
    "parts": {"messages": [turn("user", PARTS[0]), turn("assistant", PARTS[1])]},
    "parts of a model": {
        "contents": [
            {"role": "user", "parts": [{"text": ASKED}]},
            {"role": "model", "parts": [{"text": TOLD}]},
        ]
    },
    "parts of a prompt": {"prompt": PARTS[0][:1], "completion": [TOLD]},
    "gpt first": {"conversations": [spoken("gpt", "Hello!"), *SHARED]},
    "tool calls": {
        "messages": [
            turn("user", ASKED, tool_calls=None),
            turn("assistant", "I look.", tool_calls=[{"id": "1", "type": "function"}]),
            turn("tool", "{}", tool_calls=None),
            turn("assistant", TOLD, tool_calls=None),
        ]
    },
    "null": {"instruction": ASKED, "input": None, "content": None, "output": TOLD},
    "turns as columns": {"conversations": {"from": ["human", "gpt"], "value": [ASKED, TOLD]}},
    "turns as text": {"messages": json.dumps(TURNS)},
    "turns by turns": {"dialogue": [ASKED, TOLD]},
    "question and answers": {"question": ASKED, "answers": {"text": [TOLD], "answer_start": [0]}},
    "capitals": {"Question": ASKED, "Answer ": TOLD},
}


def exchanges(rows):
    return list(rows[["instruction", "content"]].itertuples(index=False, name=None))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("suffix", ["json", "jsonl", "parquet"])
def test_every_shape_in_every_file(tmp_path, shape, suffix):
    file = tmp_path / f"set.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist([shape]), file)
    else:
        file.write_text(json.dumps([shape] if suffix == "json" else shape))

    assert exchanges(read_dataset(file)) == [(ASKED, TOLD)]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"instruction": "Shorten.", "input": "A b c.", "output": "A."}, [("Shorten.\n\nA b c.", "A.")]),
        ({"question": "Why?", "context": "As.", "response": "So."}, [("Why?\n\nAs.", "So.")]),
        ({"instruction": "", "input": "Why?", "output": "So."}, [("Why?", "So.")]),
        ({"instruction": "Why?", "output": None}, [("Why?", "")]),
        ({"messages": []}, [("", "")]),
        (
            {"messages": [*TURNS, {"role": "user", "content": "And?"}, TURNS[2] | {"content": "No."}]},
            [(ASKED, TOLD), ("And?", "No.")],
        ),
        (
            {"instruction": "And?", "output": "No.", "history": [[ASKED, TOLD]]},
            [(ASKED, TOLD), ("And?", "No.")],
        ),
        ({"conversation": [{"human": ASKED, "assistant": TOLD}] * 2}, [(ASKED, TOLD)] * 2),
        ({"messages": [*TURNS, {"role": "user", "content": "And?"}]}, [(ASKED, TOLD)]),
        (
            {"messages": [{"role": "user", "content": "Hi."}, {"role": "user", "content": ASKED}, TURNS[2]]},
            [(f"Hi.\n\n{ASKED}", TOLD)],
        ),
        ({"messages": [{"role": "assistant", "content": "Hello!"}, TURNS[1]]}, [(ASKED, "")]),
        ({"instruction": "Is it?", "output": True}, [("Is it?", "True")]),
    ],
    ids=[
        "input", "context", "input alone", "null", "no turn", "later turns", "history", "pairs", "no answer",
        "two questions", "greeting alone", "number",
    ],
)  # fmt: skip
def test_a20_each_question_stands_with_the_answer_that_follows(tmp_path, row, expected):
    assert exchanges(read_dataset(write_rows([row], tmp_path))) == expected


def turns(*texts):
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


def chats():
    return [{"messages": turns(*pair)} for pair in PAIRS]


LATER = [
    "Can you make it more casual?",
    "What would you add for beginners?",
    "Give me three hashtags for it.",
    "Why does that matter to a small team?",
    "Shorten the text above.",
    "Make the opening more personal, please.",
]


def test_later_turns_may_lean_on_earlier_ones(tmp_path):
    rows = chats()
    for n, row in enumerate(rows):
        row["messages"] += turns(LATER[n % 6], TEXTS[n][n % 9 : 90])

    result = audit(write_rows(rows, tmp_path), contents=None, out_dir=tmp_path)

    assert result.findings == []
    assert result.notes[0].startswith("turns: 308 looked at, for secrets all; 154 questions")


def test_later_answers_of_other_questions_are_named(tmp_path):
    firsts, rows = chats(), chats()[1:] + chats()[:1]
    swapped = chats()[2:] + chats()[:2]
    for first, row, other in zip(firsts, rows, swapped, strict=True):
        first["messages"] += [row["messages"][0], other["messages"][1]]

    [finding] = found_in(firsts, tmp_path, name="ungrounded")
    assert int(re.findall(r"\d+", finding)[0]) > 40


def test_a20_what_is_given_with_an_instruction_may_be_leant_on(tmp_path):
    rows = [
        {"instruction": "Turn the following text into a post.", "input": i, "output": t}
        for i, t in zip(INSTRUCTIONS, TEXTS, strict=True)
    ]

    assert names_of(rows, tmp_path) == set()


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"input": f"Use {KEY}."}, "input"),
        ({"rejected": {"from": "gpt", "value": KEY}}, "rejected.value"),
        ({"meta": {"notes": ["none", {"password": "Tr0ub4dor&3xQz9!kk"}]}}, "meta.notes[1].password"),
        ({"history": [["Hi.", KEY]]}, "history[0][1]"),
        ({KEY: "none"}, "[masked: github_token]"),
        ({"tools": [{"type": "function", "function": {"arguments": json.dumps({"key": KEY})}}]}, "tools[0]"),
    ],
    ids=["input", "rejected", "name and value", "history", "field's name", "tool call"],
)
def test_a20_secrets_are_found_in_every_field(tmp_path, fields, place):
    rows = rows_of()
    rows[5] |= fields

    [finding] = found_in(rows, tmp_path, name="secrets")

    assert finding.startswith(f"secrets: 1 of 77 rows hold a key, token or password: row 6, in {place}")
    assert all(KEY not in file.read_text(encoding="utf-8") for file in (tmp_path / "audit").iterdir())


def numbered(number, **fields):
    return {"instruction": f"i{number}", "content": f"c{number}"} | fields


@pytest.mark.parametrize(
    ("held", "sides"),
    [
        (
            [numbered(n, split=side) for n, side in enumerate(("train", "test", "other"))],
            ["train", "test", ""],
        ),
        ({"train": [numbered(1)], "test": [numbered(2), numbered(3)]}, ["train", "test", "test"]),
        ({"version": 2, "data": [numbered(1)]}, [""]),
    ],
    ids=["a split field", "an object", "rows below a key"],
)
def test_sides_from_a_file(tmp_path, held, sides):
    file = tmp_path / "set.json"
    file.write_text(json.dumps(held))

    assert read_dataset(file).side.tolist() == sides


def put(folder, *names):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(numbered(number))
        if name.endswith(".gz"):
            (folder / name).write_bytes(gzip.compress(text.encode()))
        else:
            (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("train.jsonl", "train.json"), {"train": 1}),
        (("posts_training.json", "posts_testing.json"), {"train": 1, "test": 1}),
        (("train.jsonl", "formats/alpaca/train.json", "data/test.jsonl.gz"), {"train": 1, "test": 1}),
        (
            (
                "data/train-00000-of-00002.jsonl",
                "data/train-00001-of-00002.jsonl",
                "data/dev-00000-of-00001.json",
            ),
            {"train": 2, "validation": 1},
        ),
        (("default/train/0000.jsonl", "default/validation/0000.jsonl"), {"train": 1, "validation": 1}),
        (("one.jsonl", "two.ndjson", "below/three.jsonl", ".cache/four.jsonl"), {"": 2}),
    ],
    ids=["one kind", "course", "next to the top", "shards", "folders", "no sides"],
)
def test_which_files_of_a_folder_are_read(tmp_path, names, expected):
    put(tmp_path, *names)

    assert read_dataset(tmp_path).side.value_counts().to_dict() == expected


def test_a_passage_that_texts_share_is_shown_with_how_many(tmp_path):
    shared = "Thanks for reading my small letter on bread and time"
    texts = [f"{text} {shared} {n} {text.split()[0]}" for n, text in enumerate(TEXTS)]

    [finding] = found_in(rows_of(texts=texts), tmp_path, contents=None, name="boilerplate")

    assert f"{len(TEXTS)} of {len(TEXTS)} rows" in finding
    assert f"'{len(TEXTS)} texts: Thanks for reading my small letter on bread'" in finding


def test_personal_data_is_noted_by_kind_without_a_value(tmp_path):
    told = " Mail ann@example.com or bob@example.com, or call +49 30 901820."
    texts = [TEXTS[0] + told, TEXTS[1] + " ann@example.com", *TEXTS[2:]]

    result = audit(write_rows(rows_of(texts=texts), tmp_path), contents=None, out_dir=tmp_path / "audit")

    assert f"personal data: in 2 of {len(TEXTS)} rows; rows by kind: email 2, phone 1" in result.notes
    assert result.findings == []


def test_files_that_are_not_read_are_said(tmp_path):
    put(tmp_path, "train.jsonl", "test.jsonl", "extra.jsonl", "formats/train.json")

    notes = audit(tmp_path, contents=None, out_dir=tmp_path.parent / "audit").notes

    assert notes[0] == "files: not read: extra.jsonl, formats/train.json"


def test_a20_validation_rows_are_a_side_of_their_own(tmp_path):
    rows = rows_of(split="train")
    rows[70:] = [row | {"split": "validation"} for row in rows[:2] + rows[72:]]

    leaks = found_in(rows, tmp_path, contents=None, name="leak")

    assert [leak.partition(" rows")[0] for leak in leaks[:1]] == ["leak: 2 of 7 validation"]
    assert leaks[1].startswith("leak: 2 of 7 validation instructions stand in train")


@pytest.mark.parametrize(("suffix", "mark"), [("csv", ","), ("csv", ";"), ("csv.gz", ","), ("tsv", "\t")])
def test_tables_of_text(tmp_path, suffix, mark):
    file = tmp_path / f"set.{suffix}"
    table = pd.DataFrame([{"instruction": 'Why "so",\nand how?', "input": "", "output": "NA"}])
    table.to_csv(file, index=False, sep=mark, encoding="utf-8-sig")

    assert exchanges(read_dataset(file)) == [('Why "so",\nand how?', "NA")]


def test_rows_with_half_a_character_are_read_and_said(tmp_path):
    rows = rows_of()
    rows[0]["content"] += " \ud83d"
    rows[1]["\ud83d"] = "\ud83d"

    result = audit(write_rows(rows, tmp_path), contents=CONTENTS, out_dir=tmp_path / "audit")

    assert (result.findings, result.notes[0].partition(",")[0]) == (
        [],
        "text: 1 of 77 hold a broken character",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found none"),
        ('{"instruction": "a", "content": "b"}\n{oops', "line 2"),
        ('[{"title": "a", "body": "b"}]', "found title, body"),
        ("[1, 2]", "found int"),
        ('{"title": "a"}\n{"\\ud83d": "b"}', "row 1: .* found title"),
        ('{"\\ud83d": "b"}', "row 1: .* found \ufffd"),
        ('{"instruction": "a"}', "found instruction"),
        ('{"instruction": "a", "content": ' + "[" * 900 + "]" * 900 + "}", "row 1: .* found lists in lists"),
        ("[" * 5000 + "]" * 5000, "line 1, found maximum recursion"),
    ],
    ids=[
        "empty", "broken line", "other columns", "no rows", "surrogate below", "surrogate", "prompt only",
        "nested", "nested deeper",
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(tmp_path, text, message):
    file = tmp_path / "set.jsonl"
    file.write_text(text)

    with pytest.raises(SourceError, match=message):
        read_dataset(file)


@pytest.mark.parametrize(
    ("name", "held"),
    [
        ("set.parquet", b"PAR1"),
        ("set.jsonl.gz", b"\x1f\x8b\x08"),
        ("set.jsonl.gz", b"{}"),
        ("set.jsonl.gz", gzip.compress(b"{}" * 999, mtime=0)[:-9]),
        ("set.csv", b'instruction,output\n"a,b'),
        ("set.csv", b"instruction,output\nHow, and why?,So.\nWhy, then?,As.\n"),
        ("set.csv", b""),
        ("set.json", b"\xff\xfe{"),
    ],
    ids=["parquet", "short gzip", "no gzip", "torn gzip", "csv", "more fields", "empty csv", "no UTF-8"],
)
def test_damaged_files_are_named(tmp_path, name, held):
    (tmp_path / name).write_bytes(held)

    with pytest.raises(SourceError, match=rf"^audit: expected .* in {name}, found"):
        read_dataset(tmp_path / name)
