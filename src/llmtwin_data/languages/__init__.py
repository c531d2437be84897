"""Script and language of a text; with words, sentences and tokens under one roof."""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

import regex

from llmtwin_data.languages.sentences import grapheme_boundary, graphemes, sentence_ends
from llmtwin_data.languages.tokens import estimate_tokens
from llmtwin_data.languages.words import (
    NORMAL_FORM,
    WINDOW_WORDS,
    is_spaceless,
    mixed,
    normal_form,
    terms,
    windows,
    words,
)

__all__ = [
    "NORMAL_FORM",
    "WINDOW_WORDS",
    "estimate_tokens",
    "grapheme_boundary",
    "graphemes",
    "is_spaceless",
    "language_matches",
    "language_of",
    "mixed",
    "normal_form",
    "script_of",
    "sentence_ends",
    "terms",
    "windows",
    "words",
]

_SCRIPTS = {
    "Latn": "Latin", "Hani": "Han", "Hira": "Hiragana", "Kana": "Katakana", "Hang": "Hangul",
    "Cyrl": "Cyrillic", "Arab": "Arabic", "Hebr": "Hebrew", "Grek": "Greek", "Deva": "Devanagari",
    "Thai": "Thai", "Beng": "Bengali", "Taml": "Tamil", "Telu": "Telugu", "Knda": "Kannada",
    "Mlym": "Malayalam", "Gujr": "Gujarati", "Guru": "Gurmukhi", "Sinh": "Sinhala", "Khmr": "Khmer",
    "Laoo": "Lao", "Mymr": "Myanmar", "Ethi": "Ethiopic", "Armn": "Armenian", "Geor": "Georgian",
}  # fmt: skip
_SCRIPT = regex.compile("|".join(rf"(?P<{code}>\p{{{name}}})" for code, name in _SCRIPTS.items()))

# Characters that say as much as one word: a Chinese sentence full of English names stays Chinese.
_CHARACTERS_A_WORD = {
    "Hani": 1.2, "Hira": 2.0, "Kana": 2.5, "Hang": 2.5, "Thai": 4.0, "Laoo": 4.0, "Khmr": 4.0, "Mymr": 4.0,
}  # fmt: skip
_LETTERS_A_WORD = 5.0

_ONE_LANGUAGE = {
    "Jpan": "ja", "Kore": "ko", "Hani": "zh", "Hant": "zh-Hant", "Hans": "zh-Hans", "Hebr": "he",
    "Grek": "el", "Thai": "th", "Beng": "bn", "Taml": "ta", "Telu": "te", "Knda": "kn", "Mlym": "ml",
    "Gujr": "gu", "Guru": "pa", "Sinh": "si", "Khmr": "km", "Laoo": "lo", "Mymr": "my", "Ethi": "am",
    "Armn": "hy", "Geor": "ka",
}  # fmt: skip
# Rare neighbours (Aragonese, Nigerian Pidgin, ...) win short technical texts when they are let in.
_SEVERAL_LANGUAGES = {
    "Latn": "en es de fr pt it nl ca pl sv da no fi cs ro tr id vi hu hr sk sl et lv lt sq",
    "Cyrl": "ru uk be bg sr mk kk mn",
    "Arab": "ar fa ur ps",
    "Deva": "hi mr ne sa",
}
_SURE_ENOUGH = 0.3  # 54 short instructions in 7 languages: all wrong guesses lie below, 2 right ones too
_ENOUGH_CHARACTERS = 1200

# Names of products and addresses say nothing of the language around them.
_NO_LANGUAGE = regex.compile(
    r"https?://\S+|\S+@\S+|[@#][\w-]+|`[^`\n]*`|\b(?:\w*[\p{Lu}\d]\w*[\p{Lu}\d]\w*|\p{Lu}+)\b"
)

_CHINESE_REGIONS = {"tw": "hant", "hk": "hant", "mo": "hant", "cn": "hans", "sg": "hans"}


def script_of(text: str) -> str:
    """Give the dominant script as ISO 15924, weighed in words; Hant and Hans told apart; Zyyy when none."""
    counts = _script_counts(text)
    chinese = counts["Hani"] + counts["Hira"] + counts["Kana"]
    weights = {code: count / _CHARACTERS_A_WORD.get(code, _LETTERS_A_WORD) for code, count in counts.items()}
    east_asian = sum(weights.pop(code, 0.0) for code in ("Hani", "Hira", "Kana"))
    dominant = max(weights, key=lambda code: weights[code], default="Zyyy")
    if east_asian > weights.get(dominant, 0.0):
        # Chinese borrows a kana now and then; the barest Japanese has one for every twelve characters.
        japanese = counts["Hira"] + counts["Kana"] > chinese / 12
        return "Jpan" if japanese else _chinese_script(text)
    return "Kore" if dominant == "Hang" else dominant


def language_of(text: str) -> str:
    """Give the language as a BCP 47 tag, from the script where it decides; ``und`` when too short to tell."""
    script = script_of(text)
    if script not in _SEVERAL_LANGUAGES:
        return _ONE_LANGUAGE.get(script, "und")
    plain = _NO_LANGUAGE.sub(" ", text[: 2 * _ENOUGH_CHARACTERS])
    plain = (
        " ".join(plain.split())[:_ENOUGH_CHARACTERS] or " ".join(text.split())[:_ENOUGH_CHARACTERS].lower()
    )
    language, probability = _identifier(script).classify(plain)
    return str(language) if probability >= _SURE_ENOUGH else "und"


def language_matches(found: str, asked: str) -> bool:
    """Tell whether a found language is the asked one: zh is either script, und is any."""
    found_parts, asked_parts = _parts(found), _parts(asked)
    if "und" in (found_parts[0], asked_parts[0]) or not asked:
        return True
    scripts = {found_parts[1], asked_parts[1]} - {""}
    return found_parts[0] == asked_parts[0] and len(scripts) < 2


def _script_counts(text: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    for character, count in Counter(text).items():
        code = _script_of_character(character)
        if code:
            counts[code] += count
    return counts


@functools.lru_cache(maxsize=1 << 15)
def _script_of_character(character: str) -> str:
    match = _SCRIPT.match(character)
    return str(match.lastgroup) if match else ""


def _chinese_script(text: str) -> str:
    """Give Hant or Hans by the characters that only one of them has; Hani when there are as many of both."""
    only_traditional, only_simplified = _chinese_characters()
    traditional = sum(character in only_traditional for character in text)
    simplified = sum(character in only_simplified for character in text)
    if traditional == simplified:
        return "Hani"
    return "Hant" if traditional > simplified else "Hans"


@functools.cache
def _chinese_characters() -> tuple[frozenset[str], frozenset[str]]:
    from hanzidentifier import helpers

    traditional, simplified = helpers.TRADITIONAL_CHARACTERS, helpers.SIMPLIFIED_CHARACTERS
    return frozenset(traditional - simplified), frozenset(simplified - traditional)


@functools.cache
def _identifier(script: str) -> Any:
    from py3langid.langid import LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file("data/model.npz.xz", norm_probs=True)
    identifier.set_languages(_SEVERAL_LANGUAGES[script].split())
    return identifier


def _parts(tag: str) -> tuple[str, str]:
    """Give a tag's language and, for Chinese, its script: a region decides where no script is named."""
    language, *rest = tag.replace("_", "-").lower().split("-")
    if language != "zh":
        return language, ""
    named = [part for part in rest if part in ("hant", "hans")]
    return language, (named or [_CHINESE_REGIONS[part] for part in rest if part in _CHINESE_REGIONS] or [""])[
        0
    ]
