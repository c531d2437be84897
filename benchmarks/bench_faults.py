"""A rate-limit burst, and a run in which one request in twenty goes wrong in some way."""

from __future__ import annotations

from setting import ask_all, bench, options, show, wrong_pairs

BURST = [{"when": {"seconds": {"to": 6}}, "do": {"status": 429, "headers": {"Retry-After": "6"}}}]
# Half a percent each; of a first-match list, each fraction holds those before it.
KINDS = (
    {"status": 500},
    {"status": 503},
    {"status": 429, "headers": {"Retry-After": "0.2"}},
    {"reset": True},
    {"cut": 60},
    {"html": True},
    {"drop": 1},
    {"order": "reverse"},
    {"swap": [1, 2]},
    {"finish": "length", "keep": 4},
)
MIXED = [{"when": {"fraction": 0.005 * (n + 1)}, "do": do} for n, do in enumerate(KINDS)]


def run(name: str, count: int, script: list, **settings: object) -> list[object]:
    """Ask under a script and, for the ratio, without one."""
    size = settings.get("batch_size", 8)
    with bench(latency_ms=50) as (server, endpoint, store):
        ask_all(count, endpoint, store, **settings)
        clean = server.stats()["requests"]
    with bench(latency_ms=50, script=script) as (server, endpoint, store):
        report, took = ask_all(count, endpoint, store, **settings)
        stats = server.stats()
        wrong = wrong_pairs(count, endpoint, store)
    ratio = stats["requests"] / clean
    return [
        name,
        count,
        size,
        report.answered,
        wrong,
        stats["requests"],
        ratio,
        stats["paid_twice"],
        took.wall,
    ]


def main() -> None:
    """Print a row a script."""
    given = options(questions=8_000)
    rows = [
        run("429 with Retry-After: 6 for 6 s", 40, BURST, batch_size=1, concurrency=16),
        run("5 % mixed faults", given.questions, MIXED, concurrency=32),
    ]
    columns = ("fault", "chunks", "batch", "answered", "wrong", "requests", "times clean", "paid twice", "s")
    show("Faults", columns, rows)


if __name__ == "__main__":
    main()
