"""Words that tell authors apart."""

from __future__ import annotations

from llmtwin_data.summaries.vocabulary import telling_words

TEXTS = [("1", f"kubernetes cluster upgrade number{n}") for n in range(5)]
TEXTS += [("2", f"gardening tomatoes upgrade season{n}") for n in range(5)]


def test_each_author_has_the_words_the_others_lack():
    words = telling_words(TEXTS)

    best = {author: set(rows["word"]) for author, rows in words.groupby("author")}
    assert "upgrade" not in best["1"] | best["2"]
    assert "kubernetes" in best["1"]
    assert "tomatoes" in best["2"]


def test_one_author_alone_cannot_be_told_apart():
    assert telling_words(TEXTS[:5]).empty


def test_no_text_gives_no_words():
    assert telling_words([]).empty


def test_a_word_repeated_in_one_content_counts_once():
    assert telling_words([("1", "shouting shouting shouting"), ("2", "quiet words")]).empty
