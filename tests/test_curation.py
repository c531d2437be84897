"""Curation: one reason and one value for every rejection; alarms over a run; signs of damage."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from written import sample_texts
from written_pairs import changed, measured, pair, table_of, written_pairs

from llmtwin_data import curation
from llmtwin_data.curation import REASONS, RULES, damage_of, sign_of_loss, with_decisions
from llmtwin_data.measures import MEASURES
from llmtwin_data.params import Params

TEXT = "We cut our Docker image from two gigabytes to ninety megabytes with a multi-stage build last week."
OTHER = "My sourdough starter died twice before I learned to feed it at the same hour of every day."
ASKED = "Write a post about a smaller Docker image."


def decide(*rows, rules=None, prompt_words="", **measures):
    """Give reason and value of each row."""
    table = table_of(rows, **measures)
    decided = with_decisions(table, replace(Params(), **rules or {}), prompt_words=prompt_words)
    assert ((decided.state == "rejected") == (decided.reason != "")).all()
    return list(zip(decided.reason, decided.value, strict=True))


class Reading:
    """Settings that know which of them were read."""

    def __init__(self):
        self.names = set()

    def __getattr__(self, name):
        self.names.add(name)
        return getattr(Params(min_judge_score=1), name)


def test_every_param_that_a_rule_reads_stands_in_the_manifest():
    settings = Reading()

    with_decisions(table_of([pair(ASKED, TEXT)]), settings)

    settings.names.remove("cluster")  # where the rules look, not what they see
    assert settings.names
    assert settings.names <= set(RULES)


MAIL, VAGUE = f"{ASKED} Mail role@example.org.", {"evidence": 0.0, "repeated_bigrams": 1.0}
UNMEASURED = {"grounding": None, "evidence": None, "measured_by": ""}
# Columns of the row, rules that differ, and the reason with its value.
RULED = {
    "a good pair": ({}, {}, ("", "")),
    "language": ({"language_ok": False, "language": "nl"}, {}, ("language", "nl")),
    "leaning": ({"self_contained": False}, {}, ("not_self_contained", "leans on a text")),
    "quoting": ({"copied_instruction": 0.75}, {}, ("copied", "0.7500")),
    "quoting all": ({"copied_content": 1.0}, {}, ("copied", "1.0000")),
    "copied off": ({"copied_content": 1.0}, {"max_copied": 1}, ("", "")),
    "generic": ({"genericness": 0.5}, {}, ("generic", "0.5000")),
    "ungrounded": ({"grounding": 0.25}, {}, ("ungrounded", "0.2500")),
    "grounding off": ({"grounding": 0.0}, {"min_grounding": 0}, ("", "")),
    "vague": ({"evidence": 0.25}, {}, ("vague", "0.2500")),
    "a loop": ({"repeated_bigrams": 0.25}, {}, ("vague", "0.2500")),
    "evidence off": (VAGUE, {"min_evidence": 0}, ("", "")),
    "cannot be measured": (UNMEASURED, {}, ("", "")),
    "too long for the trainer": ({"tokens": 101}, {"max_pair_tokens": 100}, ("too_long", "101")),
    "tokens off": ({"tokens": 100_000}, {"max_pair_tokens": 0}, ("", "")),
    "short": ({"instruction": "Docker."}, {}, ("length", "1 word")),
    "long": ({"instruction": "word " * 300}, {}, ("length", "300 words")),
    "no word": ({"instruction": "…!"}, {}, ("length", "0 words")),
    "address": ({"instruction": "https://www.youtube.com/watch?v=5dvjmBRkuA4"}, {}, ("length", "0 words")),
    "code": ({"instruction": "`docker run --rm image`"}, {}, ("length", "0 words")),
    "tags": ({"instruction": "<a href='docker run --rm image'></a>"}, {}, ("length", "0 words")),
    "the frame": ({"instruction": "See Content number 3 a1b2c3"}, {}, ("boundary", "number line")),
    "a key": ({"instruction": "Use ghp_" + "a1B2" * 9}, {}, ("secret", "github_token")),
    "personal data kept": ({"instruction": MAIL}, {"personal_data": "keep"}, ("", "")),
    "personal data masked": ({"instruction": MAIL}, {"personal_data": "mask"}, ("personal_data", "email")),
    "personal data dropped": ({"instruction": MAIL}, {"personal_data": "drop"}, ("personal_data", "email")),
    "a good verdict": ({"judge_score": 4}, {"min_judge_score": 4}, ("", "")),
    "a bad verdict": ({"judge_score": 3}, {"min_judge_score": 4}, ("judge", "3")),
    "no verdict": ({"judge_score": None}, {"min_judge_score": 4}, ("judge", "no verdict")),
    "a person": ({"review": "reject"}, {}, ("review", "rejected by a person")),
}


@pytest.mark.parametrize(("columns", "rules", "expected"), RULED.values(), ids=RULED)
def test_each_rule_has_its_reason_and_value(columns, rules, expected):
    measures = {name: value for name, value in columns.items() if name in MEASURES}
    row = {name: value for name, value in columns.items() if name not in MEASURES}

    assert decide(changed(pair(ASKED, TEXT), **row), rules=rules, **measures) == [expected]


# Instruction, text and content of later pairs; their reasons, whose value is the id of the first.
LATER = {
    "a copied content": ([("Tell how an image shrank.", TEXT.upper(), 2)], 0.8, ["duplicate"]),
    "a near copy": ([("Tell how an image shrank.", TEXT + " Really.", 2)], 0.8, ["near_duplicate"]),
    "near copies off": ([("Tell how an image shrank.", TEXT + " Really.", 2)], 1, [""]),
    "a repeated instruction": (
        [(ASKED + "!", OTHER, 2), (ASKED.upper(), "Trams run late on Mondays.", 3)], 0.8, ["duplicate"] * 2,
    ),
    "several of one chunk": ([("Tell how an image shrank by far.", TEXT, 1)], 0.8, [""]),
}  # fmt: skip


@pytest.mark.parametrize(("later", "threshold", "reasons"), LATER.values(), ids=LATER)
def test_the_first_of_copies_is_kept(later, threshold, reasons):
    first = pair(ASKED, TEXT, 1)

    decided = decide(first, *(pair(*it, k=2) for it in later), rules={"near_duplicate": threshold})

    assert decided == [("", ""), *((reason, first.id * bool(reason)) for reason in reasons)]


def test_no_pair_falls_for_a_rejected_one():
    pairs = [pair(ASKED, TEXT, 1), pair("Tell how an image shrank.", TEXT, 2)]

    assert [reason for reason, _ in decide(*pairs, grounding=[0.0, 1.0])] == ["ungrounded", ""]


def test_a_near_copy_of_a_content_that_is_not_kept_stays():
    near = pair("Tell how an image shrank by far.", TEXT + " Really.", 3)
    pairs = [pair(ASKED, OTHER, 1), pair(ASKED, TEXT, 2), near]

    assert decide(*pairs) == [("", ""), ("duplicate", pairs[0].id), ("", "")]


def test_written_pairs_pass_the_default_rules_but_for_one():
    decided = with_decisions(measured(written_pairs()), Params())

    rejected = decided[decided.state == "rejected"]
    assert rejected.reason.tolist() == ["too_long"]  # in Chinese


def test_the_first_reason_in_their_order_counts():
    """Each rule broken hides those after it; what is mended in turn names them all."""
    worst = {"language_ok": False, "boilerplate": 0.9, "self_contained": False, "copied_content": 1.0,
             "genericness": 1.0, "grounding": 0.0, "evidence": 0.0, "tokens": 9_999}  # fmt: skip
    good = {"language_ok": True, "boilerplate": 0.5, "self_contained": True, "copied_content": 0.0,
            "genericness": 0.0, "grounding": 1.0, "evidence": 1.0, "tokens": 5}  # fmt: skip
    secret = "\x1bContent number 1 a1b2c3 ghp_" + "a1B2" * 9 + " role@example.org" + " word" * 300
    row = pair(secret, TEXT, review="reject", judge_score=1)
    rules = {"personal_data": "drop", "min_judge_score": 2}
    reasons = [decide(row, rules=rules, **worst)[0][0]]
    for mended in ({"review": ""}, {"instruction": secret.replace("ghp_", "")},
                   {"instruction": "\x1bContent number 1 a1b2c3" + " word" * 300},
                   {"instruction": "Content number 1 a1b2c3" + " word" * 300},
                   {"instruction": "word " * 300}, {"instruction": ASKED}):  # fmt: skip
        row = changed(row, **mended)
        reasons += [decide(row, rules=rules, **worst)[0][0]]
    for name in worst:
        worst |= {name: good[name]}
        reasons += [decide(row, rules=rules, **worst)[0][0]]

    assert reasons == [reason for reason in REASONS if reason not in (*curation.COPIES, "leak", "tied")]


def test_rows_without_an_instruction_stay_as_they_are():
    failed = changed(pair(ASKED, TEXT, 1), instruction=None, state="failed", reason="refused")
    rows = [pair(ASKED, TEXT), failed]

    decided = with_decisions(table_of(rows, genericness=1.0), Params())

    assert decided[["state", "reason"]].values.tolist() == [["rejected", "generic"], ["failed", "refused"]]


@pytest.fixture(scope="module")
def good():
    return written_pairs()


def alarms_of(pairs, *, language="same"):
    found = curation.alarms_of(measured(pairs, language=language), instruction_language=language)
    return {alarm.name: alarm for alarm in found}


def reworded(pairs, instructions):
    return [changed(each, instruction=words) for each, words in zip(pairs, instructions, strict=True)]


def retold(pairs, change):
    return [changed(each, content=change(each.content)) for each in pairs]


def test_c17_a_good_run_raises_none_whoever_wrote_it(good):
    assert alarms_of(good) == alarms_of([changed(each, author="7") for each in good]) == alarms_of([]) == {}


def test_good_pilots_raise_none(good):
    draw = random.Random(5)

    assert [found for _ in range(30) if (found := alarms_of(draw.sample(good, 32)))] == []


def test_shuffled_pairs_are_ungrounded(good):
    instructions = [each.instruction for each in good]

    alarm = alarms_of(reworded(good, instructions[5:] + instructions[:5]))["ungrounded"]

    assert alarm.level == "alarm"
    assert "retrieve their own chunk" in alarm.seen
    assert len(alarm.examples) == 3


def test_a_prompt_without_the_content_is_ungrounded(good):
    subjects = ("leadership", "productivity", "remote work", "innovation", "networking", "marketing", "agile")
    invented = [f"Write about {subjects[n % 7]} in {n} lessons." for n in range(len(good))]

    assert "ungrounded" in alarms_of(reworded(good, invented))


def test_equal_contents_may_have_equal_instructions(good):
    twice = good[:20] + [changed(each, content_id=f"x{each.content_id}") for each in good[:20]]

    assert "collapsed" not in alarms_of(twice)


def test_another_language_than_asked(good):
    alarm = alarms_of(good, language="zh-Hant")["language"]

    assert "zh-Hant" in alarm.expected
    assert "en 64" in alarm.seen


@pytest.mark.parametrize(
    ("change", "sign"),
    [
        (lambda text: text.replace(" ", ""), "all blanks deleted"),
        (lambda text: "".join(sign for sign in text if sign in " ,.:!?\n") * 5, "letters deleted"),
    ],
    ids=["blanks", "letters"],
)
def test_destroyed_contents(good, change, sign):
    assert sign in alarms_of(retold(good, change))["destroyed"].seen


def test_one_destroyed_collection_among_whole_ones(good):
    code = [
        pair(f"Write a script {n}.", "".join(each.content.split()), n, collection="code")
        for n, each in enumerate(good[-9:])
    ]

    assert "of code look destroyed" in alarms_of(good + code)["destroyed"].seen


def test_few_pairs_say_nothing(good):
    assert alarms_of(reworded(good[:7], ["Write a post."] * 7)) == {}


def test_one_content_that_fills_the_set_is_only_a_warning(good):
    one = [changed(each, content_id="7", start=n) for n, each in enumerate(good)]

    alarm = alarms_of(one)["one_content"]

    assert (alarm.level, alarm.seen) == ("warning", "content posts/7 has 77 of 77 pairs")


def test_no_pair_left_is_an_alarm_whatever_the_number(good):
    fates = [("rejected", "length"), ("failed", "refused"), ("rejected", "near_duplicate")]
    fates.append(("skipped", "empty"))
    given = zip(good, fates, strict=False)
    rows = [changed(each, state=state, reason=reason) for each, (state, reason) in given]
    rows[2:] = [changed(row, instruction=None) for row in rows[2:]]

    (alarm,) = curation.alarms_of(table_of(rows))

    assert (alarm.name, alarm.level, alarm.seen) == (
        "empty",
        "alarm",
        "0 of 3 instructions accepted; rejected length 1, failed refused 1, rejected near duplicate 1",
    )
    assert len(alarm.examples) == 2
    assert curation.alarms_of(table_of([*rows, good[5]])) == curation.alarms_of(table_of(rows[3:])) == []


ENGLISH = (
    "We moved our nightly report from a server that nobody owned to a small scheduled job, and for the first "
    "time in two years the numbers were there before the first meeting of the day, which nobody noticed. "
) * 3
SPANISH = (
    "Ayer publicamos la nueva versión de la guía. Muchas personas preguntaron cómo usarla. Y por qué "
    "la búsqueda devolvía resultados extraños después de la migración; todavía no sé la razón, mañana habrá. "
) * 3
CHINESE = (
    "昨天我們把叢集升級到新版, 結果排程器停了: 所有工作都卡住, 沒有警報! 為什麼? 設定檔少了一行, 對, 一行。"
    * 3
)


REPLACED = "letters replaced by ? or read in the wrong encoding"


def ascii_only(text: str) -> str:
    return text.encode("ascii", "ignore").decode()


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        ("A post with caf\ufffd in it", "bytes that could not be read (U+FFFD)"),
        ("We shipped it.Then it failed.Users wrote us.Again and again.", "sentences glued together"),
        ("A whole sentence. Another one! And e.g. this. v1.2.3", ""),
        ("短い投稿です。とても短い。", ""),
        ("🚀🚀🚀 launch!", ""),
    ],
    ids=["unreadable bytes", "glued", "whole", "japanese", "emoji"],
)
def test_damage_is_named(text, sign):
    assert damage_of(text) == sign


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        pytest.param(ascii_only(CHINESE), "letters deleted, their punctuation left", id="Chinese deleted"),
        pytest.param(ascii_only(SPANISH), "all accents deleted", id="accents deleted"),
        pytest.param(ENGLISH.replace(" ", ""), "all blanks deleted", id="blanks deleted"),
        pytest.param(SPANISH.encode().decode("latin-1"), REPLACED, id="mojibake"),
        pytest.param(SPANISH.encode("ascii", "replace").decode(), REPLACED, id="question marks"),
        pytest.param(ENGLISH, "", id="English"),
        pytest.param(SPANISH, "", id="Spanish"),
        pytest.param(CHINESE, "", id="Chinese"),
        pytest.param("def f(a, b):\n    return [a, b]\n" * 9, "", id="code"),
        pytest.param("", "", id="empty"),
    ],
)
def test_signs_of_loss(text, sign):
    assert sign_of_loss(text) == sign


ADDRESSES = {
    "query": "https://blog.example/part?utm_source=a",
    "no scheme": "www.blog.example/join?ref=post",
    "no scheme, no path": "shop.example?item=book",
    "a page, no value": "index.php?print",
    "mail": "mailto:me@blog.example?subject=hello",
    "file path": r"C:\notes\what?ever.txt",
    "link target": "[the page](notes?part)",
    "link reference": "[1]: notes?part",
    "attribute": '<a title="is it so?or not" href="/x">so</a>',
    "inline code": "`colou?r`",
    "code": "```\nis_old?yes no?maybe\n```",
    "ternary": "old?yes:no",
    "optional chaining": "user?.name ?? user?.mail",
    "interrobang": "What?! Really?",
    "in Chinese": "請看https://blog.example/?b=c那裡,",
}


@pytest.mark.parametrize("address", ADDRESSES.values(), ids=ADDRESSES)
def test_c21_addresses_and_code_are_no_prose(address):
    assert sign_of_loss(f"{ENGLISH} See {address} there.\n" * 5) == ""


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            "\n".join(f"https://blog.example/notes/{n}/on-bread" for n in range(40)), id="a list of links"
        ),
        pytest.param(
            "Hoy hay pan nuevo en casa y lo cuento en https://blog.example/" + "bread" * 50, id="accents"
        ),
        pytest.param(f"{ENGLISH}\n~~~\nis_old?yes no?maybe who?knows colou?r", id="unclosed code"),
        pytest.param("Read x.example/Then.Next it. " * 4, id="glued"),
        pytest.param("![a](data:image/png;base64," + "iVBORw0KGgo" * 900 + ")", id="embedded picture"),
    ],
)
def test_c21_no_letter_of_an_address_counts(text):
    assert damage_of(text) == ""


@pytest.mark.parametrize("address", [*ADDRESSES.values(), ""], ids=[*ADDRESSES, "none"])
def test_c21_damage_beside_an_address_is_still_found(address):
    damaged = SPANISH.encode("ascii", "replace").decode()

    assert sign_of_loss(f"{damaged} {address}") == REPLACED
    assert sign_of_loss(f"{ENGLISH.replace(' ', '')} {address}") == "all blanks deleted"


def test_the_sample_looks_whole():
    assert [text for text in sample_texts().values() if sign_of_loss(text)] == []


RYE = "We baked rye bread at home for a year and kept a sourdough starter in the cellar."


@pytest.mark.parametrize(
    ("character", "value"),
    [("\x1b[2J", "U+001B"), ("\x9b", "U+009B"), ("\u202e", "U+202E"), ("\u2066", "U+2066"), ("\r", "U+000D"),
     ("\x7f", "U+007F"), ("\x08", "U+0008")],
)  # fmt: skip
def test_n21_an_instruction_with_a_control_or_bidi_override_is_rejected(character, value):
    words = f"Describe baking rye bread {character}at home with a sourdough starter."
    decided = with_decisions(measured([pair(words, RYE)]), Params())

    assert decided[["state", "reason", "value"]].to_numpy().tolist() == [["rejected", "control", value]]


def test_n21_lines_tabs_and_marks_of_a_script_are_no_control():
    words = "Describe baking rye bread at home:\r\n\t- with a sourdough\u200f starter\n- 👩\u200d🍳"
    decided = with_decisions(measured([pair(words, RYE)]), Params())

    assert decided.reason.tolist() != ["control"]
