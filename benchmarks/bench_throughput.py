"""Job time against the bound of the network, and CPU per chunk; beside them a plain loop that checks nothing.

The bound of a fixed latency is ceil(requests / in flight) times the latency; of a lognormal one, list
scheduling of the very latencies that the endpoint gives. CPU is given without what making the texts takes.
`--questions 2000` is quicker and says less.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import math
import random

import aiohttp
import uvloop
from setting import Clock, Questions, Took, ask_all, bench, options, recipe_for, show, text_of, wrong_pairs

from llmtwin_data.prompts import batch_boundary, build_messages

LATENCY_MS, SIGMA, SEED = 200, 0.6, 7
CASES = ((64, 1, 0.0), (256, 1, 0.0), (64, 10, 0.0), (256, 10, 0.0), (64, 1, SIGMA))


def bound_seconds(requests: int, in_flight: int, sigma: float) -> float:
    """Give the shortest time in which so many requests can be answered."""
    if not sigma:
        return math.ceil(requests / in_flight) * LATENCY_MS / 1000
    dice = random.Random(SEED)
    free = [0.0] * in_flight
    for _ in range(requests):
        latency = LATENCY_MS / 1000 * dice.lognormvariate(0, sigma)
        heapq.heapreplace(free, free[0] + latency)
    return max(free)


def plain_loop(count: int, size: int, in_flight: int, endpoint) -> Took:
    """Send the same prompts from fixed slots over one session; read the bodies and drop them."""
    recipe = recipe_for(endpoint)

    def bodies():
        for first in range(0, count, size):
            texts = [text_of(number) for number in range(first, min(count, first + size))]
            messages = build_messages(recipe, texts, boundary=batch_boundary(texts))
            yield json.dumps({"model": "scripted-1", "messages": messages}).encode()

    async def slot(session, remaining):
        for body in remaining:
            async with session.post(f"{endpoint.base_url}/chat/completions", data=body) as reply:
                await reply.read()

    async def run():
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            remaining = bodies()
            await asyncio.gather(*(slot(session, remaining) for _ in range(in_flight)))

    with Clock() as clock:
        uvloop.run(run())
    return clock.took


def measure(count: int, in_flight: int, size: int, sigma: float) -> list[object]:
    """Run the engine and the plain loop against an endpoint each; give the row of the table."""
    settings = {"latency_ms": LATENCY_MS, "sigma": sigma, "seed": SEED}
    bound = bound_seconds(math.ceil(count / size), in_flight, sigma)
    with bench(**settings) as (server, endpoint, store):
        report, took = ask_all(count, endpoint, store, batch_size=size, concurrency=in_flight)
        assert report.answered == count, report
        assert not wrong_pairs(count, endpoint, store)
        stats = server.stats()
        with Clock() as making:
            sum(1 for _ in Questions(count, recipe_for(endpoint)))
    with bench(**settings) as (_, endpoint, _):
        plain = plain_loop(count, size, in_flight, endpoint)
    latency = f"{LATENCY_MS} ms" + (f", sigma {sigma}" if sigma else "")
    return [
        in_flight, size, latency, stats["requests"], bound, took.wall, took.wall / bound, plain.wall / bound,
        *((cpu - making.took.cpu) / count * 1000 for cpu in (took.cpu, plain.cpu)),
    ]  # fmt: skip


def main() -> None:
    """Print one row a case."""
    given = options(questions=10_000)
    rows = [measure(given.questions, *case) for case in CASES]
    columns = (
        "in flight", "chunks a request", "latency", "requests", "bound s", "engine s", "engine/bound",
        "plain/bound", "CPU ms a chunk", "plain ms",
    )  # fmt: skip
    show(f"Throughput, {given.questions:,} chunks", columns, rows)


if __name__ == "__main__":
    main()
