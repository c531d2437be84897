"""The same command again: 10,000 answered chunks send nothing, and how long that takes."""

from __future__ import annotations

from setting import Clock, Questions, ask_all, bench, options, recipe_for, show


def main() -> None:
    """Print one row."""
    given = options(questions=10_000)
    with bench() as (server, endpoint, store):
        ask_all(given.questions, endpoint, store, batch_size=10, concurrency=64)
        server.reset()
        keys = [question.key for question in Questions(given.questions, recipe_for(endpoint))]
        with Clock() as lookup:
            assert len(store.answers(keys)) == given.questions
        with Clock() as reading:
            sum(1 for _ in Questions(given.questions, recipe_for(endpoint)))
        report, took = ask_all(given.questions, endpoint, store, batch_size=10, concurrency=64)
        requests = server.stats()["requests"]
    assert report.answered_before == given.questions, report
    columns = ("chunks", "requests", "engine s", "of it making the questions s", "lookup of all keys s")
    row = [given.questions, requests, took.wall, reading.took.wall, lookup.took.wall]
    show("Run again", columns, [row])


if __name__ == "__main__":
    main()
