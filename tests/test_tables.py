"""What cells show: tables, cards, samples and last words, of frames by hand and of a real ledger."""

from __future__ import annotations

import random
import re
from collections import Counter

import pandas as pd
import pytest
from published_pairs import make_pair
from written_pairs import table_of

from llmtwin_data import tables
from llmtwin_data.curation import Alarm
from llmtwin_data.endpoints import PACKAGED
from llmtwin_data.engine import GenerationReport
from llmtwin_data.params import Params

PARAGRAPH = (
    "We moved our search from a hosted index to a small one of our own, and the answers came back faster."
)
GLUED = "It works well.Then it broke.After that we slept.Nobody knew."
EMPTY = {"platform": "linkedin", "link": "", "masked": "", "findings": "", "reason": "", "value": ""}


def chunks_of(*rows, **columns):
    """A table of chunks: id and text of each, author 1, posts; ``columns`` for all, or a list."""
    table = pd.DataFrame(rows, columns=["content_id", "content"], dtype="str")
    ends = table.groupby("content_id").content.transform(lambda texts: texts.str.len().cumsum())
    usual = {"collection": "cleaned", "start": ends - table.content.str.len(), "end": ends}
    usual |= {"data_type": "posts", "author": "1", "state": "pending"} | EMPTY
    return table.assign(**usual | columns)


def ledger_of(*rows, **columns):
    """A ledger of pairs: state, reason and value of each, all measured alike."""
    table = chunks_of(*((f"c{n}", "text") for n in range(len(rows))))
    fates = pd.DataFrame(rows, columns=["state", "reason", "value"], dtype="str")
    measures = {"grounding": 0.9, "grounding_margin": 0.5, "genericness": 0.0, "language": "en"}
    measures |= {"copied_instruction": 0.0, "copied_content": 0.0, "characters": 50, "tokens": 60}
    usual = {"k": 1, "id": [f"id{n}" for n in range(len(rows))], "instruction": "Write.", "review": ""}
    usual |= {"judge_score": None, "side": ""}
    return table.assign(**fates, **measures | usual | columns)


ACCEPTED, COPIED = ("accepted", "", ""), ("rejected", "copied", "0.7000")


VALUES = {
    "count": (1234567, "chunks", "1,234,567"), "share": (0.1234, "share of all", "12.3 %"),
    "small share": (0.0001, "share of all", "< 0.1 %"), "percent": (61.27, "usable, %", "61.3"),
    "money": (0.00042, "cost, USD", "0.00042"), "small money": (0.0000444, "cost, USD", "0.000044"),
    "missing": (None, "rows", "–"), "nan": (float("nan"), "rows", "–"), "truth": (True, "sound", "yes"),
    "float": (0.87654, "grounding", "0.877"), "large float": (2914.625, "tokens per content", "2,915"),
}  # fmt: skip


@pytest.mark.parametrize(("value", "column", "written"), VALUES.values(), ids=VALUES)
def test_a_value_is_written_for_people(value, column, written):
    assert tables.format_value(value, column=column) == written


def test_an_empty_table_is_a_sentence():
    shown = tables.show(pd.DataFrame(), "Skipped", empty="Every content can be used.")

    assert repr(shown) == "Skipped: Every content can be used."


def test_a_head_is_spoken_words_unless_it_is_a_name_from_outside():
    frame = pd.DataFrame({"cost_usd_low": [1.0]})

    assert '<th class="lt-n">cost USD low</th>' in str(tables.show(frame).html)
    assert "cost_usd_low</th>" in str(tables.show(frame, as_given=True).html)


def test_numbers_stand_below_each_other_also_where_they_are_written_or_missing():
    frame = pd.DataFrame({"a": ["1,931", "83.4 %", "–"], "b": ["x", "2", "3"]})
    frame["c"] = pd.array([1, None, 3], dtype="Int64")

    html = str(tables.show(frame).html)

    assert html.count('<td class="lt-n">') == 6
    assert '<td class="lt-n">–</td>' in html


def test_a_word_from_outside_cannot_leave_its_code_span():
    assert tables.code("a`b\n# c") == "`a b # c`"


def test_a_pair_shows_instruction_content_origin_and_notes():
    html = tables.show_pairs(ledger_of(ACCEPTED, judge_score=4, content="On caches.", author="a")).html

    for expected in ("Write.", "On caches.", "author a", "grounding <b>0.90", "judge <b>4 of 5"):
        assert expected in html


@pytest.mark.parametrize(
    ("reason", "value", "words"),
    [
        ("ungrounded", "0.9000", "ungrounded"),
        ("generic", "0.9000", "generic 0.9000"),
        ("near_duplicate", "c218b3ef1143", "near duplicate of c218b3ef"),
        ("language", "es", "language es"),
    ],
)
def test_a_rejection_is_told_in_words(reason, value, words):
    html = str(tables.show_pairs(ledger_of(("rejected", reason, value))).html)

    assert f"rejected: <b>{words}</b>" in html
    assert 'class="lt-card lt-bad"' in html


def test_a_page_holds_every_pair_by_its_side_or_reason_and_nothing_active(tmp_path):
    key = "Use sk-proj-" + "aB3dE5fG7h" * 5
    words = ["Write <b>.", "Quote it.", key, "Ask.", None]
    fates = [ACCEPTED, COPIED, ("rejected", "secret", "openai"), ACCEPTED, ("failed", "refused", "")]
    rows = ledger_of(*fates, instruction=words, side=["train", "", "", "test", ""], content="A text <i>.")

    tables.write_pairs(tmp_path / "pairs.html", rows)
    page = (tmp_path / "pairs.html").read_text(encoding="utf-8")

    assert re.findall("<h2>(.*?)</h2>", page) == ["train", "test", "rejected: copied", "rejected: secret"]
    assert page.count("A text &lt;i&gt;.") == 4
    assert "Write &lt;b&gt;." in page
    assert "grounding 0.90 · copied 0 % · en" in page
    assert key[4:] not in page
    assert key[4:] not in tables.show_pairs(rows[2:3]).html


def test_a_page_of_more_pairs_than_a_browser_opens_holds_the_first_of_each_fate(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MOST_PAIRS", 2)
    words = ["Write one.", "Quote.", "Write two.", "Write three."]
    rows = ledger_of(ACCEPTED, COPIED, ACCEPTED, ACCEPTED, side=["train", "", "train", "train"])

    tables.write_pairs(tmp_path / "pairs.html", rows.assign(instruction=words))
    page = (tmp_path / "pairs.html").read_text(encoding="utf-8")

    assert page.count("<p>The first 2 of 3, in the order of the ledger.") == 1
    assert [text in page for text in words] == [True, True, True, False]


def test_ten_thousand_pairs_fit_into_eight_megabytes(tmp_path):
    content = "A text on writing well, and on writing often. " + "And now, for something else, " * 13
    instruction = "Write a text on writing well that says why it takes so long. "
    rows = ledger_of(*[ACCEPTED, COPIED] * 500, content=content, side=["train", ""] * 500)
    assert 400 < len(content) < 430

    tables.write_pairs(tmp_path / "pairs.html", rows.assign(instruction=instruction))

    assert (tmp_path / "pairs.html").stat().st_size < 1000 * 800


def test_a_published_row_is_shown_like_a_pair():
    row = {"instruction": "Write", "content": "Text", "content_id": "c9", "author": "2", "grounding": None}

    html = tables.show_pairs(pd.DataFrame([row])).html

    assert "author 2 · content c9" in html
    assert "grounding <b>cannot be measured" in html


def test_copying_is_shown_by_the_measure_that_decides():
    pair = ledger_of(ACCEPTED, copied_instruction=0.58, copied_content=0.6782)

    assert "copied <b>68 %" in tables.show_pairs(pair).html
    assert tables.copied_of(pair).tolist() == [0.6782]


@pytest.mark.parametrize(
    "text",
    [" ".join(f"word{n}" for n in range(400)), "\n".join(f"n{n}" for n in range(40))],
    ids=["long", "many lines"],
)
def test_a_long_text_is_folded_and_never_cut(text):
    html = tables.show_texts(chunks_of(("a", text))).html

    assert "more characters</summary>" in html
    assert all(word in html for word in text.split())


def test_instructions_of_several_trials_stand_beside_one_content():
    rows = ledger_of(ACCEPTED).loc[[0, 0]].assign(trial=["seed", "grounded"], content="About caches")
    rows["instruction"] = ["Write.", None]

    html = str(tables.show_instructions(rows).html)

    assert html.count("About caches") == 1
    assert html.index("seed") < html.index("grounded") < html.index("About caches")
    assert "(no usable answer)" in html


def test_near_copies_show_what_differs_unmarked():
    chunks = chunks_of(("a", "a b c d e"), ("b", "a b c x e"))

    html = tables.show_alike(chunks, pd.DataFrame({"copy_of": [0], "exact": [False]}, index=[1])).html

    assert "<mark>a b c</mark> d e" in html


@pytest.mark.parametrize(
    "shown",
    [
        lambda rows: tables.show_pairs(rows, empty="none"),
        lambda rows: tables.show_texts(rows, empty="none"),
        lambda rows: tables.show_alike(rows, pd.DataFrame(), empty="none"),
    ],
    ids=["pairs", "texts", "alike"],
)
def test_nothing_to_show_is_said(shown):
    assert repr(shown(ledger_of())) == "none"


@pytest.mark.parametrize(
    ("text", "other", "marked"),
    [
        ("Explain vector search now", "We use vector search daily", "Explain <mark>vector search</mark> now"),
        ("Use vector search well", "use VECTOR SEARCH well", "<mark>Use vector search well</mark>"),
        ("the end of it", "of it all", "the end of it"),
        ("Name the most likely cause", "the most we saw", "Name the most likely cause"),
        ("Compare a train to a bus", "like a train", "Compare a train to a bus"),
        ("How RAG answers change", "our RAG answers", "How <mark>RAG answers</mark> change"),
        ("寫一篇向量搜尋", "向量搜尋很快", "寫一篇<mark>向量搜尋</mark>"),
        ("談文章和安裝", "文章說安裝", "談文章和安裝"),
        ("nothing shared", "", "nothing shared"),
    ],
    ids=["phrase", "case", "small words", "stop words", "one word", "acronym", "chinese", "words", "empty"],
)
def test_phrases_of_two_words_are_marked(text, other, marked):
    assert str(tables.mark_shared(text, other)) == marked


def test_marking_escapes_inside_and_outside_of_marks():
    marked = tables.mark_shared("<b>vector</b> search <i>", "vector</b> search")

    assert "<b>" not in str(marked)
    assert marked.striptags().replace("\xa0", " ") == "<b>vector</b> search <i>"


def test_chunks_of_one_content_are_one_row_labelled_like_the_first():
    chunks = chunks_of(("a", "x" * 10), ("a", "y" * 5), ("b", "z"), ("gone", ""))
    chunks = chunks.assign(state=["pending", "pending", "pending", "skipped"])

    contents = tables.contents_of(chunks.set_axis([7, 8, 9, 10]))

    assert contents[["content_id", "characters", "chunks"]].values.tolist() == [["a", 15, 2], ["b", 1, 1]]
    assert contents.index.tolist() == [7, 9]


def test_the_language_of_a_content_is_that_of_all_its_chunks():
    german = "Der Rest ist auf Deutsch geschrieben und viel länger als der Anfang, " * 5
    chunks = chunks_of(("a", "This is how the text begins."), ("a", german), ("b", "Hier steht nur Deutsch."))

    assert tables.contents_of(chunks).language.tolist() == ["de", "de"]


def test_skipped_contents_are_counted_by_reason_in_words():
    reasons = ["blank", "markup_only", "blank"]
    chunks = chunks_of(("a", ""), ("b", ""), ("d", ""), state="skipped", reason=reasons)

    assert tables.reasons_of(chunks).round(2).values.tolist() == [
        ["skipped", "blank", "nothing but white space", 2, 0.67, "a"],
        ["skipped", "markup only", "nothing but markup, addresses or embedded pictures", 1, 0.33, "b"],
    ]


def test_a_reason_means_what_its_state_says():
    chunks = chunks_of(("1", "text"), state="skipped", reason="secret")
    ledger = chunks.assign(state="rejected")

    assert tables.reasons_of(chunks).meaning.tolist() == ["holds a key or password"]
    assert tables.reasons_of(ledger).meaning.tolist() == ["the instruction holds a key or password"]


def test_a_destroyed_text_has_its_sign():
    contents = tables.contents_of(chunks_of(("a", PARAGRAPH), ("a", GLUED), ("b", PARAGRAPH)))

    assert contents.damage.tolist() == ["sentences glued together", ""]


def test_exact_copies_differ_in_white_space_and_case_only_and_near_ones_are_told_apart():
    texts = ["other", PARAGRAPH, PARAGRAPH.upper(), f"{PARAGRAPH} Really."]
    chunks = chunks_of(*((str(n), text) for n, text in enumerate(texts))).set_axis([5, 6, 7, 8])

    copies = tables.copies_of(chunks, threshold=0.8)

    assert copies.reset_index().values.tolist() == [[7, 6, True], [8, 6, False]]


def authored(texts):
    return pd.DataFrame(texts, columns=["author", "content"])


TEXTS = [("1", f"kubernetes cluster upgrade number{n}") for n in range(5)]
TEXTS += [("2", f"gardening tomatoes upgrade season{n}") for n in range(5)]


def test_each_author_has_the_words_the_others_lack():
    words = tables.telling_words(authored(TEXTS))

    best = {author: set(rows.word) for author, rows in words.groupby("author")}
    assert "upgrade" not in best["1"] | best["2"]
    assert "kubernetes" in best["1"]
    assert "tomatoes" in best["2"]


@pytest.mark.parametrize(
    "texts", [TEXTS[:5], [("1", "shouting shouting shouting"), ("2", "quiet words")]], ids=["alone", "once"]
)
def test_one_author_or_one_content_tells_nothing(texts):
    assert tables.telling_words(authored(texts)).empty


def many_chunks():
    ids = [f"a{n}" for n in range(80)] + [f"b{n}" for n in range(20)]
    return chunks_of(*((name, "text") for name in ids), author=["1"] * 80 + ["2"] * 20)


def test_a_sample_holds_every_author_in_proportion():
    sample = tables.sample_of(many_chunks(), most=10, seed=1)

    assert Counter(sample.author) == {"1": 8, "2": 2}
    assert sample.index.is_monotonic_increasing


def test_the_same_seed_gives_the_sample_that_it_always_gave():
    draw = random.Random(4)
    texts = [("x" * draw.choice([3, 299, 300, 1199, 1200, 5000])) for _ in range(40)]
    chunks = chunks_of(*((f"c{n // 2}", text) for n, text in enumerate(texts)), author=list("abcd") * 10)

    samples = [tables.sample_of(chunks, most=6, seed=seed) for seed in (1, 2)]

    # What the first edition drew of these chunks.
    assert [sample.index.tolist() for sample in samples] == [[0, 5, 9, 15, 16, 34], [7, 8, 18, 29, 32, 39]]


def test_one_chunk_of_each_content_is_drawn_and_none_that_is_skipped():
    chunks = chunks_of(*[("a", "text")] * 9, ("b", ""))
    chunks.loc[9, "state"] = "skipped"

    assert tables.sample_of(chunks, most=5, seed=1).content_id.tolist() == ["a"]


def test_an_alarm_is_shown_with_its_examples_escaped():
    shown = tables.show_alarms([Alarm("collapsed", "9 of 10 alike", "at most 2", ("<script>",))])

    assert "collapsed: seen 9 of 10 alike" in shown.html
    assert 'class="lt-note lt-bad"' in shown.html
    assert "<script" not in shown.html
    assert "No alarm" in repr(tables.show_alarms([]))


def test_asking_is_told_in_words():
    shown = tables.asked(GenerationReport(questions=1200, answered=1200, cost_usd=None, too_long=4000))

    assert dict(shown.values) == {
        "questions": "1,200", "answered": "1,200", "pending": "0", "requests": "0",
        "cost, USD": "unknown", "too long": "4,000",
    }  # fmt: skip


def forecast_of(*rows):
    usual = {"collection": "", "data_type": "", "contents": 3, "chunks": 3, "answered": 0, "requests": 2}
    usual |= {"prompt_tokens": 10, "completion_tokens": 5}
    names = ["what", "cost_usd_low", "cost_usd_high"]
    return pd.DataFrame([usual | dict(zip(names, row, strict=True)) for row in rows])


def test_a_forecast_is_added_up_by_step():
    steps = tables.by_step(forecast_of(("tuning", 0.5, 1.5), *[("instructions", 0.5, None)] * 2))

    assert steps.index.tolist() == ["tuning", "instructions", "all"]
    assert steps.requests.tolist() == [2, 4, 6]
    assert steps.cost_usd_low.tolist() == [0.5, 1.0, 1.5]
    assert steps.cost_usd_high.isna().tolist() == [False, True, True]


def test_a_forecast_stands_beside_what_was_asked_step_by_step():
    row = {"requests": 5, "prompt_tokens": 20, "completion_tokens": 4, "cost_usd_low": 0, "cost_usd_high": 1}
    part = {"requests": 3, "tokens": 12, "cost_usd": None}
    fields = {"forecast": {"tuning": row}, "asked": {"tuning: seed": part, "tuning: grounded": part}}

    shown = tables.forecast_and_actual(fields)

    assert shown.drop(columns="cost_usd_sent").reset_index().values.tolist() == [
        ["tuning", 5, 20, 4, 0, 1, 6, 24]
    ]
    assert shown.cost_usd_sent.isna().all()


def explored(*rows, forecast=None, settings=None, **columns):
    chunks, settings = chunks_of(*rows, **columns), settings or Params()
    copies = tables.copies_of(chunks, threshold=0.8)
    forecast = forecast_of(("instructions", 0.2, 0.4)) if forecast is None else forecast
    return tables.conclude_exploration(chunks, tables.contents_of(chunks), copies, forecast, settings).text


def test_an_exploration_ends_in_numbers():
    findings = ["personal:email", "", "personal:email", ""]
    states = ["pending", "pending", "pending", "skipped"]
    rows = [("a", PARAGRAPH), ("b", PARAGRAPH.upper()), ("c", "x " * 2000), ("d", "")]

    text = explored(*rows, findings=findings, state=states, author=["1", "2", "1", "1"])

    for expected in (
        "**3 contents** by 2 authors in 1 language, in **3 chunks**",
        "Longer than 2,000 characters, and so cut at sentence ends: 1 content.",
        "Skipped, with their reasons above: 1.",
        "Repeating another exactly: 1 chunk; nearly: 0 chunks.",
        "0.4000 USD",
        "max_cost_usd: 0.4800  #",
        "personal_data: mask  # sent and published as they are: 2 findings",
    ):
        assert expected in text


def test_one_of_a_kind_is_counted_as_one_and_an_unclear_language_is_not_counted():
    assert "by 1 author in 1 language, in **2 chunks**" in explored(("a", PARAGRAPH), ("b", "1 2 3"))


@pytest.mark.parametrize(
    ("costs", "said"),
    [
        ([("a", 0.1, 0.1), ("b", 0.2, 0.2)], "at most about **0.3000 USD**"),
        ([("a", 0.1, 0.1), ("b", None, None)], "The price is unknown of `b`;"),
        ([("a", 0.0, 0.0)], "costs nothing"),
    ],
    ids=["known", "unknown", "none"],
)
def test_a_forecast_with_one_unknown_price_is_unknown(costs, said):
    assert said in explored(("a", PARAGRAPH), forecast=forecast_of(*costs))


def test_what_tuning_and_judging_asked_is_part_of_what_the_run_cost():
    asked = {"requests": 2, "tokens": 9, "cost_usd": 1.5}
    fields = {"asked": {"tuning: seed": asked, "verdicts": asked}}

    text = tables.conclude_generation(ledger_of(ACCEPTED, side="train"), fields).text

    assert "**Published: 1 of 1 instruction**" in text
    assert "4 requests (cost: 3.00 USD)" in text


def test_the_tiny_model_is_named_plainly_and_others_are_not_blamed():
    forecast = forecast_of(("a", 0, 0)).assign(requests=1002)
    small = Params(endpoint="embedded", model=PACKAGED)
    other = Params(endpoint="https://x/v1", model="gpt-4o-mini")

    assert "135M parameters" in tables.model_notice(small, forecast).text
    assert tables.model_notice(other, forecast).text == (
        "Endpoint `https://x/v1`, model `gpt-4o-mini`: 1,002 requests to send."
    )


@pytest.mark.parametrize("character", ["\x1b[31m", "\u202e", "\x9b", "\u2067"])
def test_n21_what_hides_or_turns_text_is_shown_by_its_escape(character):
    escape = f"\\u{ord(character[0]):04x}"
    row = make_pair(0, f"Notes {character}on bread.", instruction=f"Write {character}of bread.")
    rows = table_of([row])
    displays = [
        tables.show_pairs(rows), tables.show_texts(rows), tables.show(rows[["id", "instruction"]]),
        tables.show_note(f"a {character}"), tables.join_displays([tables.show_note(character)]),
    ]  # fmt: skip

    for display in displays:
        shown = display._repr_html_() + repr(display)
        assert escape in shown
        assert character[0] not in shown
