import pytest

from llmtwin_data.texts import grapheme_boundary, sentence_ends

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
        ["今天天氣很好。", "你呢？", "「我很好！」", "他說。"],
        ["「今日は。」と彼は言った。", "次の文。", "「はい。」", "終わり"],
        ["# Title\n\n", "- one\n", "- two\n", "1. First. ", "Then"],
        ["def f():\n    ", "return a.b\n"],
        ["See example.com/a.b?c=d for v1.2.3 of it. ", "Done"],
        ["नमस्ते। ", "आप कैसे हैं।"],
        ["Good!好"[:5], "好"],
        ["no end at all"],
    ],
)
def test_sentences_end_where_a_reader_ends_them(expected):
    assert sentences("".join(expected)) == expected


def test_no_text_has_no_end():
    assert sentence_ends("") == []


def test_blanks_before_the_first_sentence_belong_to_it():
    assert sentences(" \n\nOne. Two.") == [" \n\nOne. ", "Two."]


def test_an_end_never_parts_a_grapheme():
    assert sentences("One. \u0301Two. Three") == ["One. \u0301Two. ", "Three"]


def test_the_boundary_is_the_last_one_before():
    text = f"a{FAMILY}b e\u0301"

    after = 1 + len(FAMILY)
    places = [0, 1, 5, after, len(text) - 1, len(text) + 9]
    assert [grapheme_boundary(text, at) for at in places] == [0, 1, 1, after, len(text) - 2, len(text)]
