"""Tokens of a prompt that are not content, for each pair, by prompt and batch size."""

from __future__ import annotations

from setting import Endpoint, recipe_for, show, text_of

from llmtwin_data.prompts import batch_boundary, build_messages
from llmtwin_data.texts import estimate_tokens

ANYWHERE = Endpoint("https://e/v1", "https://e/v1", "m", "m")


def frame_tokens(prompt: str, size: int) -> float:
    """Give the tokens a pair that are not content."""
    texts = [text_of(number, words=200) for number in range(size)]
    messages = build_messages(recipe_for(ANYWHERE, prompt=prompt), texts, boundary=batch_boundary(texts))
    sent = "\n".join(message["content"] for message in messages)
    for text in texts:
        sent = sent.replace(text, "", 1)
    return estimate_tokens(sent) / size


def main() -> None:
    """Print a row a prompt."""
    sizes = (1, 4, 8, 16)
    rows = [[prompt, *(frame_tokens(prompt, size) for size in sizes)] for prompt in ("seed", "grounded")]
    show("Tokens that are not content, a pair", ("prompt", *(f"{size} a request" for size in sizes)), rows)


if __name__ == "__main__":
    main()
