"""References: instructions that lean on a text."""

from __future__ import annotations

import pytest
from written import written

from llmtwin_data.measures import leans_on_text

LEANING = [
    "Summarise this post.",
    "What does the author argue about caching?",
    "Explain the text above",
    "According to the article, why is it slow?",
    "Describe what content number 3 says",
    "What information does the extract provide about the main topic?",
    "Rewrite the post.",
    "Based on the provided document, list three tips",
    "Resume este artículo",
    "Faça um resumo deste texto",
    "Résume cet article sur Docker",
    "Fasse diesen Beitrag zusammen",
    "Riassumi questo articolo",
    "總結本文的重點",
    "請根據這篇文章寫一個摘要",
    "根据上述内容写一段话",
    "この記事を要約してください",
    "이 글을 요약해 주세요",
]
STANDING = [
    "Write the post that made your team laugh: a story on cron jobs",
    "Write a LinkedIn post about text generation",
    "Explain how to write a README for a command line tool",
    "Write an article on this week's outage",
    "Explain why the text field of a form must be validated",
    "Describe the content strategy of a small team",
    "Escribe un artículo sobre Docker",
    "Schreibe einen Beitrag über diese Woche",
    "寫一篇文章,介紹日本文化",
    "寫一篇關於版本文件管理的貼文",
    "用中文中的成語寫一篇短文",
]


@pytest.mark.parametrize("instruction", LEANING)
def test_leaning(instruction):
    assert leans_on_text(instruction)


@pytest.mark.parametrize("instruction", STANDING)
def test_standing_on_its_own(instruction):
    assert not leans_on_text(instruction)


def test_written_instructions_stand_on_their_own():
    assert not [instruction for instruction, _ in written() if leans_on_text(instruction)]
