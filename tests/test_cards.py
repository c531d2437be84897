"""The dataset card: metadata that Hugging Face reads, text that a person reads."""

from __future__ import annotations

import pytest
import yaml
from published_pairs import ledger_of, make_pair, publish

from llmtwin_data.datasets import size_category

PAIRS = [
    make_pair(
        0, "Yesterday I walked along the river for an hour and thought about how bread rises in the cold."
    ),
    make_pair(
        1, "昨天我沿著河邊走了一個小時，想著麵包在寒冷中如何發酵，還有這座城市的電車為什麼總是準時抵達。"
    ),
    make_pair(2, "The tram was late again this morning, so I counted the people who read a book on paper."),
]


@pytest.fixture
def card(tmp_path):
    others = ledger_of([make_pair(3)], "rejected", "copied")
    publish(tmp_path, PAIRS, test=1, others=others, notes=["A 135M model wrote these instructions."])
    return (tmp_path / "dataset/README.md").read_text(encoding="utf-8")


def metadata(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_metadata_names_languages_size_and_configs(card):
    found = metadata(card)

    assert found["language"] == ["en", "zh"]
    assert found["language_bcp47"] == ["zh-Hant"]
    assert found["size_categories"] == ["n<1K"]
    assert [config["config_name"] for config in found["configs"]] == [
        "default",
        "alpaca",
        "sharegpt",
        "openai",
        "trl",
    ]
    assert found["configs"][0]["data_files"][1] == {"split": "test", "path": "test.jsonl"}


def test_the_licence_is_left_to_the_user_and_marked(card):
    assert "license" not in metadata(card)
    assert "# license: yours to choose" in card
    assert "**Not chosen yet.**" in card


def test_what_was_found_in_the_contents_is_shown_by_kind(tmp_path, card):
    counts = {"found": 1200, "kept": 0, "masked": 1000, "dropped": 200}
    publish(tmp_path, PAIRS, screened={"secrets": {}, "personal_data": {"email": counts}})

    shown = (tmp_path / "dataset/README.md").read_text(encoding="utf-8")
    assert "| personal data | email | 1,200 | 0 | 1,000 | 200 |" in shown
    assert "Secrets and personal data" not in card


def test_notes_and_fates_are_shown(card):
    assert "> A 135M model wrote these instructions." in card
    assert "| rejected: copied | 1 |" in card
    assert "| train | 2 |" in card


def test_an_empty_side_stands_in_no_config(tmp_path):
    publish(tmp_path, PAIRS, test=0)

    configs = metadata((tmp_path / "dataset/README.md").read_text(encoding="utf-8"))["configs"]
    assert {file["split"] for config in configs for file in config["data_files"]} == {"train"}


def test_no_text_of_the_source_can_break_the_card(tmp_path):
    publish(tmp_path, [make_pair(0, model="`</script>` | x\n# y", prompt="---\nlicense: mit\n---")], test=0)

    card = (tmp_path / "dataset/README.md").read_text(encoding="utf-8")
    assert "license" not in metadata(card)
    assert "\n# y" not in card


def test_huggingface_takes_the_metadata(card):
    hub = pytest.importorskip("huggingface_hub")

    parsed = hub.DatasetCard(card)

    assert parsed.data.pretty_name == "posts-instruct-dataset"


@pytest.mark.parametrize(
    ("rows", "word"),
    [(0, "n<1K"), (999, "n<1K"), (1_000, "1K<n<10K"), (99_999, "10K<n<100K"), (5_000_000, "1M<n<10M")],
)
def test_sizes_have_the_words_of_the_hub(rows, word):
    assert size_category(rows) == word
