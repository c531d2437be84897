"""One call served: what is stored, what is put back, and what ends the run."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import endpoint as scripted
import pytest
from asking import PRICE, QUICK, asking, endpoint_at, open_store, question, recipe_for

from llmtwin_data.engine import Backlog, Batch, Call, Dialect, Exchange, Job, Recorder, Slot, Tally
from llmtwin_data.transport import Connection, Pace, Problem


class Served:
    """One batch of two texts, served once under a rule; then what is left of it."""

    def __init__(self, folder, do, *, successes=0):
        self.halted, self.successes = [], successes
        script = [{"when": {}, "do": do}] if do else []
        with scripted.serve(script=script) as server, open_store(folder) as self.store:
            self.url = server.base_url
            asyncio.run(self._serve())
            self.totals, self.stats = self.store.totals(), server.stats()

    async def _serve(self):
        now = asyncio.get_running_loop().time
        asked = [question(number, recipe_for(endpoint_at(self.url))) for number in range(2)]
        self.batch = Batch([Slot(one, one.key) for one in asked])
        self.backlog = Backlog([], self.store, batch_size=2)
        self.tally = Tally(PRICE)
        call = Call(self.backlog, self.tally, endpoint_at(self.url), self.store, asking())
        pace = Pace(QUICK, ceiling=4, now=now)
        pace.successes = self.successes
        connection = Connection(self.url, api_key="", concurrency=1, connect_seconds=1.0)
        with ThreadPoolExecutor(1) as writer:
            async with connection:
                exchange = Exchange(
                    call=call, pace=pace, dialect=Dialect("m"), connection=connection,
                    recorder=Recorder(self.store, writer), now=now, halt=self.halted.append,
                    is_last=lambda: False,
                )  # fmt: skip
                await exchange.serve(Job(self.batch, 0.25, started=pace.start()))
        self.waiting = self.backlog.pop(float("inf"))


def test_a_good_answer_is_durable_and_nothing_waits(tmp_path):
    served = Served(tmp_path, {})

    assert (served.totals["answers"]["ok"], served.tally.answered) == (2, 2)
    assert (served.waiting, served.halted) == (None, [])


@pytest.mark.parametrize(
    ("do", "attempt", "maybe_paid"),
    [({"status": 500}, 1, 0), ({"status": 429}, 1, 0), ({"status": 504}, 0, 0), ({"reset": True}, 0, 1)],
    ids=["500", "429", "504", "reset"],
)
def test_a_fault_puts_the_same_texts_back_under_the_right_key(tmp_path, do, attempt, maybe_paid):
    served = Served(tmp_path, do)

    assert served.waiting is served.batch
    assert (served.waiting.attempt, served.tally.maybe_paid) == (attempt, maybe_paid)


@pytest.mark.parametrize(("status", "kind"), [(401, "key"), (402, "billing"), (307, "redirect")])
def test_what_no_second_try_can_change_ends_the_run(tmp_path, status, kind):
    do = {"redirect": "http://elsewhere.invalid"} if status == 307 else {"status": status}
    served = Served(tmp_path, do)

    assert [problem.kind for problem in served.halted if isinstance(problem, Problem)] == [kind]
    assert served.totals["answers"] == {}


def test_a_refusal_is_split_once_others_have_passed(tmp_path):
    served = Served(tmp_path, {"status": 400}, successes=1)

    assert [len(batch.slots) for batch in (served.waiting, *served.backlog.again)] == [1, 1]
