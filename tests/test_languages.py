import pytest

from llmtwin_data.texts import language_matches, language_name, language_of, script_of

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


def test_addresses_and_product_names_say_nothing():
    text = (
        "Escribe sobre https://www.example.com/machine-learning-in-production #MachineLearning para el equipo"
    )

    assert language_of(text) == "es"


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


def test_one_simplified_row_among_traditional_is_seen():
    traditional = "我們發現評估方式會影響最後的品質，這個問題應該先解決。"
    simplified = "我们发现评估方式会影响最后的质量，这个问题应该先解决。"

    assert [language_of(row) for row in [traditional] * 3 + [simplified]] == ["zh-Hant"] * 3 + ["zh-Hans"]


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
