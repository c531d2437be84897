"""Who may send next, and when nothing is left to send."""

import asyncio

from asking import PRICE, endpoint_at, open_store, question, recipe_for

from llmtwin_data.engine import Backlog, Dispatch, Tally
from llmtwin_data.errors import BudgetReached
from llmtwin_data.transport import Pace, Patience

RECIPE = recipe_for(endpoint_at("http://h/v1"))


def dispatched(folder, steps, *, count=4, max_cost_usd=0.0):
    """Run steps on a dispatch over so many batches of one text."""

    async def run():
        with open_store(folder) as store:
            backlog = Backlog([question(number, RECIPE) for number in range(count)], store, batch_size=1)
            backlog.fresh.extend(backlog.next_window(count))
            pace = Pace(Patience(), ceiling=4, now=asyncio.get_running_loop().time)
            dispatch = Dispatch(backlog, pace, Tally(PRICE, max_cost_usd), low_water=1)
            dispatch.fed = True
            return await asyncio.wait_for(steps(dispatch, backlog, pace), 5)

    return asyncio.run(run())


def test_one_call_waits_for_the_first_success_and_then_there_is_room(tmp_path):
    async def steps(dispatch, backlog, pace):
        first = await dispatch.turn()
        others = [asyncio.create_task(dispatch.turn()) for _ in range(3)]
        await asyncio.sleep(0)
        before = sum(other.done() for other in others)
        pace.succeeded()
        dispatch.release(first)
        dispatch.match()
        await asyncio.gather(*others)
        return before, pace.in_flight

    assert dispatched(tmp_path, steps) == (0, 3)


def test_it_is_over_when_the_last_job_is_handed_back(tmp_path):
    async def steps(dispatch, backlog, pace):
        job = await dispatch.turn()
        last, over = dispatch.is_last(), dispatch.over.is_set()
        dispatch.release(job)
        return last, over, await dispatch.turn(), dispatch.over.is_set()

    assert dispatched(tmp_path, steps, count=1) == (True, False, None, True)


def test_a_batch_that_waits_for_its_moment_is_handed_out_then(tmp_path):
    async def steps(dispatch, backlog, pace):
        batch = backlog.fresh.popleft()
        backlog.put_later(batch, asyncio.get_running_loop().time() + 0.02)
        return (await dispatch.turn()).batch is batch

    assert dispatched(tmp_path, steps, count=1)


def test_what_crosses_the_budget_is_not_handed_out(tmp_path):
    async def steps(dispatch, backlog, pace):
        return await dispatch.turn(), type(dispatch.ending), len(backlog.again)

    assert dispatched(tmp_path, steps, max_cost_usd=1e-9) == (None, BudgetReached, 1)


def test_whoever_waits_is_sent_home_at_the_end(tmp_path):
    async def steps(dispatch, backlog, pace):
        await dispatch.turn()
        waiting = asyncio.create_task(dispatch.turn())
        await asyncio.sleep(0)
        dispatch.end()
        return await waiting

    assert dispatched(tmp_path, steps) is None
