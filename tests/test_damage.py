"""Signs that a text was damaged before it came here."""

from __future__ import annotations

import pytest
from written import sample_texts

from llmtwin_data.curation import damage_of, sign_of_loss

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
        pytest.param(
            SPANISH.encode().decode("latin-1"),
            "letters replaced by ? or read in the wrong encoding",
            id="mojibake",
        ),
        pytest.param(
            SPANISH.encode("ascii", "replace").decode(),
            "letters replaced by ? or read in the wrong encoding",
            id="question marks",
        ),
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

    assert sign_of_loss(f"{damaged} {address}") == "letters replaced by ? or read in the wrong encoding"
    assert sign_of_loss(f"{ENGLISH.replace(' ', '')} {address}") == "all blanks deleted"


def test_the_sample_looks_whole():
    assert [text for text in sample_texts().values() if sign_of_loss(text)] == []
