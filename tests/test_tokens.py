import pytest

from llmtwin_data.texts import estimate_tokens

# Counted with cl100k_base.
COUNTED = [
    ("hello world", 2),
    ("antidisestablishmentarianism", 6),
    ("tiktoken is great!", 6),
    ("お誕生日おめでとう", 9),
    ("Many teams believe that putting documents into a vector database is all it takes. It is not.", 19),
    ("Ayer el despliegue falló porque nadie había comprobado la configuración.", 20),
    ("昨天部署失敗，原因是環境變數沒有設定好。教訓：永遠在啟動時檢查設定。", 52),
    ("昨天部署失败，原因是环境变量没有设置好。教训：永远在启动时检查设置。", 37),
]


@pytest.mark.parametrize(("text", "tokens"), COUNTED)
def test_an_estimate_is_near_the_count(text, tokens):
    assert abs(estimate_tokens(text) - tokens) <= max(2, 0.25 * tokens)


def test_nothing_costs_nothing_and_a_blank_something():
    assert estimate_tokens("") == 0
    assert estimate_tokens(" ") == 1
