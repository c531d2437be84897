"""The engine in a loop of the test: slots, drain, and what ends it."""

import asyncio

import endpoint as scripted
import pytest
from asking import PRICE, asking, endpoint_at, open_store, question, recipe_for

from llmtwin_data.engine import Backlog, Call, Engine, Tally
from llmtwin_data.errors import Interrupted


@pytest.fixture
def engine_for(tmp_path):
    """Give an engine over questions about these documents, read as they are needed."""
    with open_store(tmp_path) as store:

        def make(docs, server, *, say=lambda word: None, **settings):
            where = endpoint_at(server.base_url)
            questions = (question(doc, recipe_for(where)) for doc in docs)
            given = asking(**{"batch_size": 1} | settings)
            backlog = Backlog(questions, store, batch_size=given.batch_size)
            return Engine(Call(backlog, Tally(PRICE), where, store, given), say)

        yield make


def test_it_asks_until_nothing_is_left(engine_for):
    with scripted.serve(latency_ms=20) as server:
        engine = engine_for(range(60), server)
        asyncio.run(engine.run())

    assert (engine.call.tally.answered, engine.ending, engine.most_in_flight) == (60, None, 8)


def test_halted_before_it_starts_it_sends_nothing(engine_for):
    with scripted.serve() as server:
        engine = engine_for(range(8), server)
        engine.halt(Interrupted("first"))
        engine.halt(Interrupted("second"))
        asyncio.run(engine.run())
        requests = server.stats()["requests"]

    assert (requests, str(engine.ending)) == (0, "first")


def test_a_source_that_breaks_ends_it_with_what_was_received_stored(engine_for):
    def broken():
        yield from range(20)
        raise OSError("gone")

    with scripted.serve() as server:
        engine = engine_for(broken(), server)
        asyncio.run(engine.run())
        paid = server.stats()["paid_total"]

    assert isinstance(engine.ending, OSError)
    assert engine.call.tally.answered == paid > 0


def test_it_holds_after_the_pilot_until_told_to_go_on(engine_for):
    with scripted.serve() as server:
        held = []

        def say(word):
            held.append((word, server.stats()["requests"]))
            engine.go_on()

        engine = engine_for(range(40), server, say=say, pilot=lambda: None, pilot_size=16)
        asyncio.run(engine.run())

    assert (held, engine.call.tally.answered) == ([("pilot", 16)], 40)


def test_calls_given_up_may_have_been_paid(engine_for):
    with scripted.serve(latency_ms=60_000) as server:
        engine = engine_for(range(8), server)

        async def give_up():
            running = asyncio.create_task(engine.run())
            while not server.stats()["requests"]:
                await asyncio.sleep(0.01)
            engine.halt(Interrupted("stop"))
            engine.abort()
            await running

        asyncio.run(give_up())

    assert (engine.call.tally.requests, engine.call.tally.maybe_paid) == (1, 1)
