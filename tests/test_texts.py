"""Texts compared and measured."""

from __future__ import annotations

import re
import subprocess
import sys
import unicodedata
from itertools import pairwise
from textwrap import indent

import pytest
import regex
from written import written

from llmtwin_data.folders import PROJECT_ROOT
from llmtwin_data.texts import (
    counted,
    estimate_tokens,
    grapheme_boundary,
    language_matches,
    language_name,
    language_of,
    languages_of,
    normal_form,
    placed_windows,
    prose_language,
    prose_of,
    script_of,
    sentence_ends,
    terms,
    windows,
    word_changes,
    words,
)

SOURCES = sorted((PROJECT_ROOT / "src" / "llmtwin_data").rglob("*.py"))
NOUNS = "contents|chunks|languages|authors|pairs|runs|requests|findings|rows|answers|texts|reviews"
# "3 of 1 rows" cannot be, and a constant is never one.
COUNTED_BY_HAND = re.compile(rf"(?<!of )\{{(?![A-Z_]+\}})[^{{}}\"]*\}} (?:{NOUNS})\b")


@pytest.mark.parametrize(
    ("number", "noun", "words"),
    [
        (0, "content", "0 contents"),
        (1, "content", "1 content"),
        (2000, "content", "2,000 contents"),
        (1, "near-copy", "1 near-copy"),
        (2, "near-copy", "2 near-copies"),
        (2, "key", "2 keys"),
    ],
)
def test_a_number_has_its_noun(number, noun, words):
    assert counted(number, noun) == words


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_no_noun_is_counted_by_hand(source):
    assert COUNTED_BY_HAND.findall(source.read_text(encoding="utf-8")) == []


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


def test_words_are_letters_and_digits_in_every_alphabet():
    pattern = regex.compile(r"[\p{L}\p{N}][\p{L}\p{N}\p{M}]*")
    blocks = [(0, 0x600), (0x1E00, 0x2C00), (0x1F300, 0x1FB00)]
    texts = [f"{chr(point)} \u2013 a{chr(point)}s" for block in blocks for point in range(*block)]

    expected = [pattern.findall(unicodedata.normalize("NFKC", text).lower()) for text in texts]

    assert [text for text, found in zip(texts, expected, strict=True) if words(text) != found] == []


def test_terms_fold_a_plural_and_pair_characters():
    assert terms("Embeddings of classes, bus status") == ["embedding", "of", "classe", "bus", "status"]
    assert terms("向量資料 RAG 庫") == ["向量", "量資", "資料", "rag", "庫"]


def test_a_window_ignores_case_and_punctuation():
    assert windows("A, b c d e f g h. i") == windows("a b c d e f g h") | windows("B c d e f g h i")


def test_a_short_text_is_one_window_and_no_words_are_none():
    assert len(windows("only three words")) == 1
    assert windows("?!") == windows("") == set()
    assert windows("only three words") != windows("only three word")


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


@pytest.mark.parametrize(
    "text", ["\ufb01ne cafe\u0301 and more", "…\u0130stanbul, \u3131\u314f가 \ufb03", "Ⅷ 今天㏇"]
)
def test_each_word_is_placed_where_it_begins_whatever_nfkc_lengthens_or_shortens(text):
    hashes, starts = placed_windows(text)

    edges = [*starts.tolist(), len(text)]
    assert [words(text[start:end]) for start, end in pairwise(edges)] == [[word] for word in words(text)]
    assert set(hashes.tolist()) <= windows(text)


def test_the_normal_form_is_for_comparing():
    assert normal_form("  Ｈｅ\u200bLLo \n STRASSE ﬁn ") == normal_form("hello straße fin")


FAMILY = "👩‍👩‍👧‍👦"


def sentences(text: str) -> list[str]:
    ends = sentence_ends(text)
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@pytest.mark.parametrize(
    "expected",
    [
        ["Mr. Smith paid 3.5 euros, e.g. on Jan. 5. ", "He left! ", "Did he? ", "“Yes.” ", "Fine."],
        ["J. R. Tolkien wrote no. 5 of etc. and so... on. ", "No. ", "I mean it."],
        ["La Sra. Díaz vive en EE.UU. desde ayer. ", "¿Y tú? ", "¡Yo también!"],
        ["El Sr. Pérez y la Dra. Díaz. ", "Los Sres. Gil. ", "Hr. Koch. ", "M. Dupont, Mgr. Roy."],
        ["今天天氣很好。", "你呢？", "「我很好！」", "他說。"],
        ["「今日は。」と彼は言った。", "次の文。", "「はい。」", "終わり"],
        ["# Title\n\n", "- one\n", "- two\n", "1. First. ", "Then"],
        ["def f():\n    ", "return a.b\n"],
        ["See example.com/a.b?c=d for v1.2.3 of it. ", "Done"],
        ["नमस्ते। ", "आप कैसे हैं।"],
        ["Good!好"[:5], "好"],
        ["no end at all"],
        [],
        [" \n\nOne. ", "Two."],
        ["One. \u0301Two. ", "Three"],
    ],
)
def test_sentences_end_where_a_reader_ends_them(expected):
    assert sentences("".join(expected)) == expected


def test_the_boundary_is_the_last_one_before():
    text = f"a{FAMILY}b e\u0301"

    after = 1 + len(FAMILY)
    places = [0, 1, 5, after, len(text) - 1, len(text) + 9]
    assert [grapheme_boundary(text, at) for at in places] == [0, 1, 1, after, len(text) - 2, len(text)]


# Counted with cl100k_base.
COUNTED = [
    ("", 0),
    (" ", 1),
    ("hello world", 2),
    ("antidisestablishmentarianism", 6),
    ("tiktoken is great!", 6),
    ("お誕生日おめでとう", 9),
    ("Many teams believe that putting documents into a vector database is all it takes. It is not.", 19),
    ("Ayer el despliegue falló porque nadie había comprobado la configuración.", 20),
    ("昨天部署失敗，原因是環境變數沒有設定好。教訓：永遠在啟動時檢查設定。", 52),
    ("昨天部署失败，原因是环境变量没有设置好。教训：永远在启动时检查设置。", 37),
]


@pytest.mark.parametrize(("text", "tokens"), COUNTED)
def test_an_estimate_is_near_the_count(text, tokens):
    assert abs(estimate_tokens(text) - tokens) <= (max(2, 0.25 * tokens) if tokens > 1 else 0)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("\n" * 40, 4),
        (" \n \n" * 20 + "word", 8),
        ("word" + "\r\n  " * 20, 8),
        ("one\n" * 30, 38),
        ("one \n\t two\n\n\nthree " * 10, 42),
    ],
    ids=["nothing else", "before", "behind", "between", "with other blanks"],
)
def test_the_ends_of_lines_are_tokens_with_the_blanks_around_them(text, tokens):
    assert estimate_tokens(text) == tokens


INSTRUCTIONS = {
    "en": [
        "Write a LinkedIn post about RAG",
        "Describe the vector database",
        "Draft a tutorial on Python decorators",
        "Why do vector DBs matter?",
        "WRITE A SHORT POST ABOUT FEATURE STORES",
        "Explain CDC with RabbitMQ",
    ],
    "es": [
        "Escribe un post de LinkedIn sobre machine learning y RAG",
        "Redacta un artículo sobre bases de datos vectoriales",
        "Escribe sobre https://www.example.com/machine-learning-in-production #MachineLearning al equipo",
        "¿Cómo se ajusta un modelo con QLoRA?",
    ],
    "de": ["Schreibe einen LinkedIn-Post über Feature Stores", "Wie funktioniert LoRA?"],
    "fr": ["Rédige un post LinkedIn sur MLOps", "Donne trois conseils pour Docker"],
    "pt": ["Escreva um post sobre RAG", "Descreva a arquitetura do sistema"],
    "it": ["Scrivi un articolo sui database vettoriali"],
    "nl": ["Schrijf een LinkedIn-bericht over MLOps"],
    "zh-Hant": ["撰寫一篇 LinkedIn 貼文，介紹 Qdrant Vector Database", "請說明為什麼資料管線很重要"],
    "zh-Hans": ["写一篇关于向量数据库的文章", "请说明为什么数据管线很重要"],
    "zh": ["天地人"],
    "ja": ["データベースについて書いてください", "RAGの仕組みを説明する"],
    "ko": ["벡터 데이터베이스에 대한 글을 써라"],
    "ru": ["Напиши пост о векторных базах"],
    "ar": ["اكتب منشورا عن قواعد البيانات"],
    "th": ["เขียนโพสต์เกี่ยวกับฐานข้อมูล"],
    "und": ["", "12345 !!", "🚀🚀"],
}


@pytest.mark.parametrize(
    ("expected", "text"), [(language, text) for language, texts in INSTRUCTIONS.items() for text in texts]
)
def test_short_instructions_are_told_apart(expected, text):
    assert language_of(text) == expected


def test_languages_of_many_are_those_of_each():
    texts = [text for pair in written() for text in pair]
    texts += ["", "x", "I", "WE CUT OUR IMAGE", "\U0001f680 42", "e\u0301te\u0301", "昨天"]
    texts.append("\ud800 half a pair")

    assert languages_of(texts) == [language_of(text) for text in texts]
    assert languages_of([""] * 100) == ["und"] * 100


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("plain words", "Latn"),
        ("資料 RAG", "Hant"),
        ("数据 RAG", "Hans"),
        ("日本語で書く", "Jpan"),
        ("한국어", "Kore"),
        ("для", "Cyrl"),
        ("123", "Zyyy"),
        ("很多團隊の資料都沒有整理好", "Hant"),
    ],
)
def test_the_dominant_script_is_named(text, script):
    assert script_of(text) == script


@pytest.mark.parametrize(
    "around",
    ["---\ntitle: Deploying a cluster\ntags: [helm]\n---\n{}", "```python\n{code}```\n{}", "{}\n~~~\n{code}",
     "{} `kubectl rollout restart deployment/api`", "<!-- a comment in another language -->{}",
     "{}\n\n{indented}", "<pre><code>{code}</code></pre>{}", "<script>\n{code}</script>\n{}",
     "{{% highlight python %}}\n{code}{{% endhighlight %}}\n{}",
     "{{{{< highlight go >}}}}\n{code}{{{{< /highlight >}}}}\n{}"],
    ids=["front matter", "fence", "open fence", "inline", "comment", "indented", "pre", "script", "Jekyll",
         "Hugo"],
)  # fmt: skip
def test_c20_the_language_is_that_of_the_prose(around):
    code = "def main(argv: list[str]) -> int:\n    return len(argv)\n" * 20
    text = around.format("請告訴我部署時遇到的狀況。", code=code, indented=indent(code, "    "))

    assert prose_language(text) == "zh-Hant"


def test_c20_what_a_list_goes_on_with_is_prose():
    text = "1. one\n\n    the second paragraph of the first point (in brackets).\n"

    assert prose_of(text) == text


@pytest.mark.parametrize(
    ("found", "asked", "matches"),
    [
        ("en", "en-US", True),
        ("zh-Hant", "zh-TW", True),
        ("zh-Hant", "zh_HK", True),
        ("zh-Hans", "zh-TW", False),
        ("zh-Hans", "zh", True),
        ("zh", "zh-Hant", True),
        ("zh-Hant", "zh-Hant-TW", True),
        ("und", "fr", True),
        ("en", "", True),
        ("es", "en", False),
        ("pt", "pt-BR", True),
    ],
)
def test_tags_match_by_language_and_chinese_script(found, asked, matches):
    assert language_matches(found, asked) is matches


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("en", "English"),
        ("zh-TW", "Traditional Chinese"),
        ("zh-CN", "Simplified Chinese"),
        ("zh-Hant-HK", "Traditional Chinese"),
        ("pt", "Portuguese"),
        ("pt-BR", "Brazilian Portuguese"),
        ("es-419", "Latin American Spanish"),
        ("sr-Latn-ME", "Serbian (Latin, Montenegro)"),
        ("de-DE-1996", "German (Germany, 1996)"),
        ("NO", "Norwegian"),
        ("Chinese", ""),
        ("und", ""),
        ("en-XQ", ""),
        ("", ""),
    ],
)
def test_a_language_has_its_english_name(tag, name):
    assert language_name(tag) == name


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("a b c d e f", "a b c d X f", "b c d [-e-]{+X+} f"),
        ("a  b", "a b", "only space"),
        ("短文要寫好", "短文不要寫好", "短文{+不+}要寫好"),
        ("a", "b" * 300, "[-a-]{+" + "b" * 193 + " ..."),
    ],
    ids=["word", "space", "characters", "long"],
)
def test_the_words_that_changed_are_marked_with_a_few_around_them(before, after, expected):
    assert word_changes(before, after) == expected
