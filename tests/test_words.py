import subprocess
import sys

import pytest

from llmtwin_data.texts import normal_form, terms, windows, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't STOP, naïve cafés: 3.5 GPUs", ["don", "t", "stop", "naïve", "cafés", "3", "5", "gpus"]),
        ("今天RAG很好。", ["今", "天", "rag", "很", "好"]),
        ("「データ」々", ["デ", "ー", "タ", "々"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("안녕하세요 세계", ["안녕하세요", "세계"]),
        ("ＡＩ", ["ai"]),
        ("", []),
    ],
)
def test_words_are_lower_case_and_characters_where_nobody_writes_spaces(text, expected):
    assert words(text) == expected


def test_terms_fold_a_plural_and_pair_characters():
    assert terms("Embeddings of classes, bus status") == ["embedding", "of", "classe", "bus", "status"]
    assert terms("向量資料 RAG 庫") == ["向量", "量資", "資料", "rag", "庫"]


def test_a_window_ignores_case_and_punctuation():
    assert windows("A, b c d e f g h. i") == windows("a b c d e f g h") | windows("B c d e f g h i")


def test_a_short_text_is_one_window_and_no_words_are_none():
    assert len(windows("only three words")) == 1
    assert windows("?!") == windows("") == set()
    assert windows("only three words") != windows("only three word")


def test_characters_are_words_in_windows():
    assert len(windows("今天天氣很好我們去公園")) == 11 - 8 + 1
    assert windows("今天天氣很好我們去") & windows("他說今天天氣很好我們去了")


def test_different_windows_do_not_meet():
    many = [f"w{n % 97} x{n % 89} y{n}" for n in range(20_000)]

    assert len(windows(" ".join(many), size=3)) == 3 * 20_000 - 2


def test_windows_are_the_same_in_every_process():
    code = "from llmtwin_data.texts import windows; print(sorted(windows('one two three, 今天')))"

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert run.stdout.strip() == str(sorted(windows("one two three, 今天")))


@pytest.mark.parametrize("size", [1, 3, 8])
def test_windows_are_those_of_the_words(size):
    text = "Los cafés de Ávila, 今天 RAG e\u0301tude हिन्दी " * 3
    found = words(text)
    distinct = {tuple(found[at : at + size]) for at in range(len(found) - size + 1)}

    assert len(windows(text, size=size)) == len(distinct)


def test_the_normal_form_is_for_comparing():
    assert normal_form("  Ｈｅ\u200bLLo \n STRASSE ﬁn ") == normal_form("hello straße fin")
