"""Stratified samples."""

from __future__ import annotations

from collections import Counter

from llmtwin_data.chunks import Chunk
from llmtwin_data.summaries.sampling import stratified_sample


def chunk(content_id: str, author: str, *, start: int = 0) -> Chunk:
    return Chunk(content_id, "cleaned_posts", start, start + 4, "text", "posts", author, "", "")


CHUNKS = [chunk(f"a{n}", "1") for n in range(80)] + [chunk(f"b{n}", "2") for n in range(20)]


def test_a_sample_holds_every_author_in_proportion():
    sample = stratified_sample(CHUNKS, most=10, seed=1)

    assert Counter(chunk.author for chunk in sample) == {"1": 8, "2": 2}


def test_the_same_seed_gives_the_same_sample():
    assert stratified_sample(CHUNKS, most=10, seed=1) == stratified_sample(CHUNKS, most=10, seed=1)
    assert stratified_sample(CHUNKS, most=10, seed=1) != stratified_sample(CHUNKS, most=10, seed=2)


def test_one_chunk_of_each_content_is_drawn():
    chunks = [chunk("a", "1", start=4 * n) for n in range(9)]

    assert len(stratified_sample(chunks, most=5, seed=1)) == 1


def test_a_small_collection_is_taken_whole_in_its_order():
    assert stratified_sample(CHUNKS[:3], most=50, seed=1) == CHUNKS[:3]


def test_nothing_gives_nothing():
    assert stratified_sample([], most=5, seed=1) == []
