"""The meeting before training: what the style score can tell, and answers asked like any other."""

from __future__ import annotations

import json
import lzma
import re
from dataclasses import replace
from itertools import chain
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from finished_run import finish_run
from written import read_lines

from llmtwin_data import twin
from llmtwin_data.answers import AnswerStore, Origin
from llmtwin_data.cli import main
from llmtwin_data.folders import PROJECT_ROOT

DATA = PROJECT_ROOT / "tests" / "data" / "addresses"
WORD = re.compile(r"\S+")
PLAIN = (
    "In conclusion, it is important to note that leveraging robust solutions will empower stakeholders. " * 8
)


def documents():
    """Return real authors' documents and the sample's, by name of the set."""
    addresses = lzma.decompress((DATA / "roosevelts.jsonl.xz").read_bytes()).decode().splitlines()
    sample = (PROJECT_ROOT / "data" / "sample").glob("*.jsonl")
    return {"two Roosevelts": list(map(json.loads, addresses)), "sample": [*chain(*map(read_lines, sample))]}


def passages_of(lines):
    """Cut documents into passages of 150 words; what is left over only serves as train."""
    rows = []
    for number, line in enumerate(lines):
        text = line.get("cleaned_content") or line.get("content") or ""
        words = list(WORD.finditer(text))
        for at in range(0, len(words), 150):
            part = words[at : at + 150]
            author = str(line.get("author_id") or line.get("owner_id"))
            rows.append((f"d{number}", author, text[part[0].start() : part[-1].end()], len(part) == 150))
    return pd.DataFrame(rows, columns=["content_id", "author", "content", "whole"])


def named_right(passages):
    """Return for each measure the share of whole passages nearest to their own author.

    A passage is compared with no passage of its own document.
    """
    near = {name: pd.DataFrame() for name in twin.STYLE}
    for author in passages.author.unique():
        own = passages.author == author
        groups = own.map({True: twin.CEILING, False: twin.FLOOR})
        texts = pd.concat([passages[own].assign(group="train"), passages.assign(group=groups)])
        scored = twin.with_style(texts.reset_index(drop=True))[own.sum() :].reset_index(drop=True)
        for name, frame in near.items():
            frame[author] = scored[name]
    whole = passages.whole
    return {
        name: (frame[whole].idxmax(axis=1) == passages.author[whole]).mean() for name, frame in near.items()
    }


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ("two Roosevelts", {"style": 0.94, "style_masked": 0.88, "style_words": 0.88}),
        # Three roles written by one hand about one field: chance is a third.
        ("sample", {"style": 0.85, "style_masked": 0.58, "style_words": 0.6}),
    ],
    ids=["real authors", "sample"],
)
def test_a_passage_is_nearest_to_its_author_whose_document_is_left_out(texts, expected):
    shares = named_right(passages_of(documents()[texts]))

    assert {name: round(float(shares[name]), 3) for name in expected if shares[name] < expected[name]} == {}


def texts_of(**contents):
    rows = [(name, f"{name}{n}", text) for name, texts in contents.items() for n, text in enumerate(texts)]
    return pd.DataFrame(rows, columns=["author", "content_id", "content"])


def numbered(words, *, count):
    """Return so many texts of 60 words that are made of the same few."""
    return [" ".join(f"{words} {n}." for _ in range(60 // len(words.split()) + 1)) for n in range(count)]


TERSE = numbered("Short. No frills. It works, so we ship it.", count=6)
FLOWERY = numbered("Oh, what a truly wondrous, shimmering morning it was; and yet", count=6)


def sided(texts, *, tests):
    """Put the last ``tests`` texts of each author on test."""
    place = texts.groupby("author").cumcount(ascending=False)
    return texts.assign(side=(place < tests).map({True: "test", False: "train"}))


def test_an_answer_in_the_authors_manner_lies_nearer_to_the_ceiling_than_one_in_anothers():
    rows = sided(texts_of(terse=TERSE, flowery=FLOWERY), tests=3)
    known = twin.known_texts(rows, author="terse", seed=1)
    answers = pd.DataFrame({"content": [TERSE[0], FLOWERY[0]], "content_id": "", "group": ["like", "unlike"]})

    axis = twin.axis_of(known, answers, seed=1).set_index("texts")

    assert list(axis.index) == ["other authors", "like", "unlike", "the author"]
    assert axis.scored.tolist() == [6, 1, 1, 3]
    for name in twin.STYLE.values():
        assert axis[name]["unlike"] < axis[name]["like"] > axis[name]["other authors"]
        assert axis[f"{name} high"]["other authors"] < axis[f"{name} low"]["the author"]


def test_a_text_under_40_words_is_not_scored_and_said_so():
    short = " ".join(["word"] * 39)
    rows = sided(texts_of(terse=[*TERSE, short], flowery=FLOWERY), tests=3)
    known = twin.known_texts(rows, author="terse", seed=1)
    answers = pd.DataFrame({"content": [short], "content_id": "", "group": "mine"})

    axis = twin.axis_of(known, answers, seed=1)
    words = twin.conclude(axis, known).text

    assert axis.set_index("texts").loc["mine", ["scored", "short"]].tolist() == [0, 1]
    assert axis.set_index("texts").loc["mine", list(twin.STYLE.values())].isna().all()
    assert "1 text of the dataset under 40 words" in words
    assert "1 answer under 40 words" in words


def test_what_stands_in_for_a_floor_and_a_ceiling_is_told():
    nothing = pd.DataFrame(columns=["content", "content_id", "group"])
    alone = twin.known_texts(sided(texts_of(terse=TERSE), tests=3), author="terse", seed=1)
    known = twin.known_texts(sided(texts_of(terse=TERSE, flowery=FLOWERY), tests=1), author="terse", seed=1)

    assert (alone.group == twin.FLOOR).sum() > 30
    assert "the sample's contents" in alone.attrs["notes"][0]
    assert twin.axis_of(known, nothing, seed=1).set_index("texts").scored["the author"] == 5
    assert "test holds 1 text" in known.attrs["notes"][1]


def test_there_is_no_number_without_floor_and_ceiling():
    rows = sided(texts_of(terse=TERSE[:1], flowery=FLOWERY), tests=0)
    known = twin.known_texts(rows, author="terse", seed=1)
    answers = pd.DataFrame({"content": [TERSE[0]], "content_id": "", "group": "mine"})

    axis = twin.axis_of(known, answers, seed=1)

    assert axis.empty
    assert twin.conclude(axis, known).text.startswith("- No score")


def test_chinese_is_scored_by_its_characters_and_beside_texts_of_other_languages():
    plain = (
        "我們今天把資料庫換成新的版本，花了{}個小時，沒有人發現，"
        "這就是最好的結果，因為使用者什麼都感覺不到，這樣很好。"
    )
    chatty = (
        "哇！大家早安啊～今天{}點就起床了呢，心情超級好的啦，你們呢？"
        "快來留言跟我說說嘛，我等你們喔，愛你們，啾咪，掰掰囉！"
    )
    texts = {
        name: [*chain(*((text.format(n), other[n]) for n in range(6)))]
        for name, text, other in (("plain", plain, TERSE), ("chatty", chatty, FLOWERY))
    }
    known = twin.known_texts(sided(texts_of(**texts), tests=6), author="plain", seed=1)
    asked = [texts["plain"][0], texts["chatty"][0]]
    answers = pd.DataFrame({"content": asked, "content_id": "", "group": ["like", "unlike"]})

    axis = twin.axis_of(known, answers, seed=1).set_index("texts")

    assert axis.scored.tolist() == [12, 1, 1, 6]
    assert all(axis[name]["like"] > axis[name]["unlike"] for name in twin.STYLE.values())


def answer_lines(rows, *, models=("tuned",)):
    return "".join(
        json.dumps({"instruction": row["instruction"], "answer": PLAIN, "model": model}) + "\n"
        for row in rows
        for model in models
    )


@pytest.fixture
def dataset(tmp_path):
    """Publish a dataset of two authors, and return its run folder and its test rows."""
    texts = sided(texts_of(terse=TERSE, flowery=FLOWERY), tests=3).sort_values("side", ascending=False)
    rows = [
        text | {"instruction": f"Write text {number}"}
        for number, text in enumerate(texts.drop(columns="side").to_dict("records"))
    ]
    run = finish_run(tmp_path / "run", train=6, test=6, texts=rows)
    return run.path, [row for row in rows[6:] if row["author"] == "terse"], rows


def test_style_puts_anyones_answers_between_floor_and_ceiling(dataset, tmp_path, capsys):
    run, test, rows = dataset
    file = tmp_path / "answers.jsonl"
    file.write_text(answer_lines([*test[:3], rows[0]], models=("tuned", "train")))

    assert main(["style", str(file), "--dataset", str(run)]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["other", "tuned", "train", "the"]
    assert [line.split()[-4] for line in lines[1:5]] == ["6", "3", "3", "3"]
    assert any("tuned lies below the floor" in line for line in lines[5:])
    assert "- Author: terse." in lines
    assert any("Left out: 2 answers to instructions of train" in line for line in lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"instruction": "a", "answer": "b", "model": "m"}\n{"instruction": "a"}\n', "line 2: expected"),
        ("{oops\n", "line 1: expected a JSON object"),
        ('{"instruction": "a", "answer": 5, "model": "m"}\n', "line 1: expected instruction"),
        ("[1]\n", "line 1: expected a JSON object"),
        ("", "expected an answer on each line, found none"),
    ],
    ids=["field", "no JSON", "number", "list", "empty"],
)
def test_a_file_that_holds_no_answers_ends_with_4_and_names_the_line(text, words, dataset, tmp_path, capsys):
    file = tmp_path / "answers.jsonl"
    file.write_text(text)

    assert main(["style", str(file), "--dataset", str(dataset[0])]) == 4
    assert words in capsys.readouterr().err


def test_a_folder_without_a_dataset_ends_with_2(tmp_path, capsys):
    (tmp_path / "answers.jsonl").write_text(answer_lines([{"instruction": "a"}]))

    assert main(["style", str(tmp_path / "answers.jsonl"), "--dataset", str(tmp_path)]) == 2
    assert "expected a run folder or a dataset" in capsys.readouterr().err


@pytest.fixture
def study(bench):
    """Return settings on the sample's posts, with a scripted endpoint."""
    posts, place = PROJECT_ROOT / "data" / "sample" / "posts.jsonl", bench.values()["qdrant"]
    assert main(["load", str(posts), "--collection", "posts", "--qdrant", place]) == 0
    return bench.settings(collections=("posts",), test_fraction=0.3, instruction_language="same")


def open_notebook(settings):
    """Run all cells of notebook 5 in this process, as a person does, and return its names."""
    namespace = settings.as_dict()
    for cell in nbformat.read(PROJECT_ROOT / "notebooks" / "5_meet_your_twin.ipynb", as_version=4).cells:
        if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", []):
            exec(cell.source, namespace)
    return namespace


def test_a_meeting_is_asked_once_shows_train_alone_and_its_guesses_are_kept(study, bench):
    met = open_notebook(study)
    asked, meeting, ledger = bench.server.stats()["requests"], met["meeting"], met["ledger"]
    desk = twin.show_meeting(meeting, path=met["path"], seed=study.seed)
    desk.children[-1].children[0].click()
    with met["path"].open("a") as guesses:
        guesses.write('{"id": "cut by a cra')
    again = open_notebook(study)

    assert met["axis"].texts.tolist() == [twin.FLOOR, *twin.HOW, twin.CEILING]
    assert met["axis"].scored[1:3].tolist() == [3, 3]
    assert bench.out.read()["asked"]["twins"]["requests"] == 6
    assert bench.server.stats()["requests"] == asked
    assert again["meeting"].answer.tolist() == meeting.answer.tolist()
    assert again["guesses"].id.tolist() == [meeting.id[0]]
    assert set(again["guesses"].guess) <= {"author", *twin.HOW}
    assert desk.children[0].value.startswith("1 of 3 guessed")
    # A prompted question shows five train texts of the author, and nothing else.
    plain, prompted = (meeting.text[meeting.how == how] for how in twin.HOW)
    is_own = (ledger.side == "train") & (ledger.author == meeting.attrs["author"])
    assert [sum(text in words for text in ledger.content[is_own]) for words in prompted] == [5, 5, 5]
    is_other = (ledger.side == "test") | (ledger.author != meeting.attrs["author"])
    others = [text for text in ledger.content[is_other] if len(text) > 80]
    assert [text for text in others if any(text in words for words in prompted)] == []
    assert not any("Text 1:" in words for words in plain)


def test_a_content_that_was_shown_is_forgotten_with_what_quotes_it(study):
    met = open_notebook(study)
    prompted = met["meeting"].text[met["meeting"].how == "prompted"].iloc[0]
    quoted = met["ledger"][[text in prompted for text in met["ledger"].content]].iloc[0]
    met["store"].close()

    with AnswerStore(Path(study.answers)) as store:
        store.forget(Origin(content_id=quoted.content_id, collection=quoted.collection))
        left = twin.with_twins(met["meeting"], met["settings"], met["endpoint"], store)

    files = [path.read_bytes() for path in Path(study.answers).parent.glob("answers.sqlite*")]
    assert not any(quoted.content[:60].encode() in stored for stored in files)
    assert left.answer[left.text == prompted].tolist() == [""]


def test_no_twins_ask_nothing_and_leave_floor_and_ceiling(study, bench):
    met = open_notebook(replace(study, twins=0))

    assert met["axis"].texts.tolist() == [twin.FLOOR, twin.CEILING]
    assert bench.out.read()["asked"]["twins"]["requests"] == 0


def test_the_command_runs_notebook_5_only_if_it_is_named_and_its_report_shows_the_axis(study, bench):
    values = {"collections": ["posts"], "limit": 60, "test_fraction": 0.3}
    forecast = bench.run("--only", "5", "--dry-run", **values)
    done = bench.run("--only", "5", **values)

    assert re.search(r"twins +6 ", forecast.stdout), forecast.stdout + forecast.stderr
    assert done.returncode == 0, done.stderr
    assert [path.name for path in bench.out.notebooks.iterdir()] == ["5_meet_your_twin.ipynb"]
    assert "How near texts come to the author" in (bench.out.path / "report.html").read_text()
