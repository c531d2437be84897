"""What was submitted is known before it is waited for, and found again whatever was killed in between."""

import json
from dataclasses import replace

import endpoint as scripted
import pytest
from asking import endpoint_at, open_store, question, recipe_for

from llmtwin_data.answers import Answer
from llmtwin_data.batches import Provider, Submissions, request_line
from llmtwin_data.engine import Batch, Dialect, Slot, write_request
from llmtwin_data.errors import EndpointDown


@pytest.fixture
def bench(tmp_path):
    with scripted.serve() as server, open_store(tmp_path) as store:
        endpoint = endpoint_at(server.base_url)
        with Provider(endpoint, timeout_seconds=60.0) as provider:
            yield server, store, Submissions(store, provider, endpoint=endpoint.identity), provider


def slots_at(server, *numbers):
    asked = [question(number, recipe_for(endpoint_at(server.base_url))) for number in numbers]
    return {one.key: Slot(one, one.key) for one in asked}


def send(submissions, slots):
    batch = Batch(list(slots.values()))
    body, key = write_request(batch, Dialect("m"))
    return submissions.send({key: batch}, [request_line(key, body)])


def states(store):
    return store.totals()["batches"]


def test_what_is_sent_is_open_under_the_providers_name(bench):
    server, store, submissions, provider = bench

    submitted = send(submissions, slots_at(server, 1, 2))

    assert states(store) == {"open": 1, "submitted": 1}
    assert provider.look(submitted.stored.id).status == "in_progress"


def test_the_next_run_takes_it_up_with_its_boundary(bench):
    server, _, submissions, _ = bench
    sent = send(submissions, slots_at(server, 1, 2))

    found = submissions.resume(slots_at(server, 1, 2, 3))

    assert [one.stored.id for one in found] == [sent.stored.id]
    (line,), (before,) = found[0].lines.values(), sent.lines.values()
    assert (line.boundary, line.texts()) == (before.boundary, before.texts())


def test_an_intent_that_never_arrived_is_given_up_and_asked_anew(bench):
    server, store, submissions, _ = bench
    server.change([{"when": {"kind": "files"}, "do": {"status": 404}}])

    with pytest.raises(EndpointDown):
        send(submissions, slots_at(server, 1))

    assert submissions.resume(slots_at(server, 1)) == []
    assert states(store) == {"lost": 1}


def test_a_batch_stays_open_for_questions_of_others(bench):
    server, store, submissions, _ = bench
    slots = slots_at(server, 1, 2)
    send(submissions, slots)

    (mine,) = submissions.resume(slots)
    others = submissions.resume(slots_at(server, 3))
    submissions.close(mine)

    assert others == []
    assert states(store) == {"collected": 1, "submitted": 1}


def test_a_line_received_before_a_kill_is_not_waited_for_again(bench):
    server, store, submissions, _ = bench
    first, second = slots_at(server, 1, 2)
    send(submissions, slots_at(server, 1, 2))
    store.save(answers=[Answer(first, "ok", ("Write it.",))])

    assert submissions.resume({second: slots_at(server, 2)[second]}) == []
    assert states(store) == {"collected": 1, "submitted": 1}


def test_a_batch_that_an_earlier_version_sent_needs_no_openings(bench):
    server, store, submissions, _ = bench
    before = send(submissions, slots_at(server, 1, 2)).stored
    lines = {name: line for name, line in json.loads(before.lines).items() if line.pop("openings")}
    store.save_batch(replace(before, lines=json.dumps(lines)))

    (line,) = submissions.resume(slots_at(server, 1, 2))[0].lines.values()

    assert not line.openings
