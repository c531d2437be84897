import random
from dataclasses import replace

import pytest
from shapes import SENTENCES, clean_text, keys

from llmtwin_data.contents import Chunk, screen_chunks, split_content
from llmtwin_data.screening import find_personal_data, find_secrets

CONTENT = Chunk("7", "cleaned_posts", 0, 0, "", "posts", "2", "linkedin", "https://a")
KEY = keys(random.Random(7))["anthropic"]


def screen(text: str, *, max_chars: int = 60, secrets: str = "drop", personal_data: str = "keep"):
    content = replace(CONTENT, text=text, end=len(text))
    chunks = split_content(content, max_chars=max_chars)
    rows = screen_chunks(content, chunks, secrets=secrets, personal_data=personal_data)
    return tuple([row for row in rows if row.state == state] for state in ("pending", "skipped"))


def test_a_chunk_with_a_key_is_dropped_and_the_others_stay():
    text = "A clean first sentence stands here, rather long. " + f"My key: {KEY}."

    kept, skipped = screen(text, max_chars=160)

    assert "".join(chunk.text for chunk in kept) + text[skipped[0].start : skipped[0].end] == text
    [dropped] = skipped
    assert (dropped.reason, dropped.value, dropped.author) == ("secret", "anthropic_key", "2")
    assert dropped.text == ""


def test_a_key_that_a_cut_parts_is_found_in_both_chunks():
    text = f"Words before it. {KEY} Words after it are here."

    kept, skipped = screen(text, max_chars=60)

    assert len(skipped) >= 2
    assert not any(part in chunk.text for chunk in kept for part in (KEY[:20], KEY[-20:]))


def test_masking_leaves_the_rest_as_it_is_and_says_so():
    text = f"My key is {KEY}, mail me at role@example.org today."

    kept, skipped = screen(text, max_chars=2000, secrets="mask", personal_data="mask")

    assert kept[0].text == "My key is [masked: anthropic_key], mail me at [masked: email] today."
    assert (kept[0].masked, kept[0].start, kept[0].end) == ("anthropic_key,email", 0, len(text))
    assert skipped == []


def test_masking_a_parted_key_leaves_none_of_it():
    kept, _ = screen(f"Words before it. {KEY} Words after it are here.", max_chars=60, secrets="mask")

    joined = "".join(chunk.text for chunk in kept)
    assert not any(KEY[at : at + 12] in joined for at in range(len(KEY) - 12))


def test_dropping_one_group_wins_over_masking_the_other():
    text = f"My key is {KEY}, mail me at role@example.org today."

    kept, [skipped] = screen(text, max_chars=2000, secrets="mask", personal_data="drop")

    assert (kept, skipped.reason, skipped.value) == ([], "personal_data", "email")


def test_a_chunk_of_blanks_is_skipped_as_blank():
    kept, skipped = screen("Hi." + " " * 300, max_chars=100)

    assert {row.reason for row in skipped} == {"blank"}
    assert sum(row.end - row.start for row in skipped) + sum(len(chunk.text) for chunk in kept) == 303


@pytest.mark.parametrize("shape", list(keys(random.Random(0))))
def test_each_shape_is_found_in_prose(shape):
    made = [(SENTENCES[seed % 5], keys(random.Random(seed))[shape]) for seed in range(40)]

    found = [len(find_secrets(sentence.format(key))) for sentence, key in made]

    # A bare 25-letter or 40-letter value is a guess; a name for it and a vendor's shape are not.
    assert sum(map(bool, found)) >= (38 if shape in ("comet", "aws_secret") else 40)


def test_the_whole_key_is_found():
    for shape, key in keys(random.Random(3)).items():
        if shape not in ("comet", "assigned", "password_in_url"):
            [finding] = find_secrets(f"see {key} here")
            assert (finding.start, finding.end) == (4, 4 + len(key)), shape


def test_c24_clean_texts_set_off_no_alarm():
    alarms = [seed for seed in range(1000) if find_secrets(clean_text(random.Random(seed)))]

    assert len(alarms) <= 1


@pytest.mark.parametrize(
    "text",
    [
        "token = SkipMultiLineComment();",
        "const token = nextTokenFromStream2;",
        "password = Base64UrlEncoder2024",
        "key: AbstractSingletonProxyFactoryBean2024Impl7",
        "access_token = await refreshTokenV2ForUser3(session)",
        "apiKey: process.env.API_KEY_V2_PROD",
        "api_key: YourApiKeyGoesHere12, API_KEY=INSERT_KEY_1234",
        '"token": "abc1234567890"',
    ],
)
def test_c24_identifiers_and_placeholders_are_no_secrets(text):
    assert find_secrets(text) == []


@pytest.mark.parametrize(
    "text", ["password: P4ssw0rd!2", "password = Summer2024x9", "token: 9fK2mQ7xW4bT8cR1vZ6p"]
)
def test_what_is_assigned_and_no_word_is_a_secret(text):
    assert [finding.kind for finding in find_secrets(text)] in (["assigned_secret"], ["named_secret"])


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("write to ana.perez+x@mail.example.org.", "email"),
        ("信箱test@example.com.tw。", "email"),
        ("call +34 612 345 678", "phone"),
        ("call (415) 555-0132 or so", "phone"),
        ("415-555-0132", "phone"),
        ("手機 0912-345-678", "phone"),
        ("+86 138 0013 8000", "phone"),
        ("06 12 34 56 78", "phone"),
        ("IBAN DE89 3704 0044 0532 0130 00", "iban"),
        ("GB82WEST12345698765432", "iban"),
        ("card 4111 1111 1111 1111", "card"),
        ("378282246310005", "card"),
        ("DNI 12345678Z", "dni"),
        ("NIE X1234567L", "dni"),
        ("身分證 A123456789", "taiwan_id"),
        ("11010519491231002X", "resident_id"),
        ("529.982.247-25", "cpf"),
        ("SSN 123-45-6789", "ssn"),
        ("2 55 08 14 168 025 38", "nir"),
        ("RSSMRA85T10A562S", "codice_fiscale"),
        ("900101-1234567", "rrn"),
    ],
)
def test_personal_data_is_found_with_its_kind(text, kind):
    assert [finding.kind for finding in find_personal_data(text)] == [kind]


@pytest.mark.parametrize(
    "text",
    [
        "DE89 3704 0044 0532 0130 01",
        "4111 1111 1111 1112",
        "DNI 12345678A",
        "A123456788",
        "110105194912310021",
        "529.982.247-24",
        "000-45-6789",
        "git@github.com:org/repo.git",
        "logo@2x.png",
        "@user@host.social",
        "lodash@4.17.21",
        "2024-01-15 10:22:33",
        "192.168.10.255:8080",
        "urn:li:activity:7123456789012345678",
        "0000 0000 0000 0000",
        "3.14159265358979",
        "1,234,567.89",
        "arxiv 2308.06259",
    ],
)
def test_a_wrong_check_digit_or_another_number_is_no_personal_data(text):
    assert find_personal_data(text) == []
