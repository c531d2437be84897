"""Signs of damage."""

from __future__ import annotations

import pytest

from llmtwin_data.curation.damage import damage_of


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
