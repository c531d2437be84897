"""Group commits: each waits for its own, and an error reaches everybody it concerns."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from asking import endpoint_at, question, recipe_for

from llmtwin_data.answers import Answer, PaidRequest
from llmtwin_data.engine import Batch, Entry, Recorder, Slot
from llmtwin_data.errors import DiskFailed

BATCH = Batch([Slot(question(1, recipe_for(endpoint_at("http://h/v1"))), "")])


class Disk:
    """A store that notes what each commit held, and may be full."""

    def __init__(self, *, full=False):
        self.commits = []
        self.full = full

    def save(self, *, requests, answers, questions, recipes):
        if self.full:
            raise DiskFailed("no space left")
        self.commits.append([answer.key for answer in answers])


def save_all(disk, count, *, enough=1, give_up=False):
    """Save so many entries at once; give what each save came to."""

    async def run():
        with ThreadPoolExecutor(1) as executor:
            recorder = Recorder(disk, executor, enough=enough)
            tasks = [asyncio.create_task(recorder.save(entry(number))) for number in range(count)]
            await asyncio.sleep(0)
            for task in tasks:
                give_up and task.cancel()
            return await asyncio.gather(*tasks, return_exceptions=True)

    return asyncio.run(run())


def entry(number):
    request = PaidRequest(str(number), "", (), "", "", 200, "ok", 0, 1, 1, 0.0, "m")
    return Entry(BATCH, [request], [Answer(str(number), "ok", ("x",))])


def test_what_arrives_during_a_commit_shares_the_next():
    disk = Disk()

    save_all(disk, 50)

    assert disk.commits == [["0"], [str(number) for number in range(1, 50)]]


@pytest.mark.parametrize("count", [3, 8], ids=["those of a moment", "as many as are enough"])
def test_several_share_a_commit(count):
    disk = Disk()

    save_all(disk, count, enough=8)

    assert disk.commits == [[str(number) for number in range(count)]]


def test_what_was_received_is_stored_also_when_its_call_is_given_up():
    disk = Disk()

    found = save_all(disk, 3, give_up=True)

    assert (disk.commits, found) == ([["0"], ["1", "2"]], [None] * 3)


def test_a_full_disk_is_told_to_everyone_who_waits():
    found = save_all(Disk(full=True), 5)

    assert [type(error) for error in found] == [DiskFailed] * 5
