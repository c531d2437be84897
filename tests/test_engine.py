"""Asking: batches formed, written, read, paid, settled and stored; whole calls on the scripted endpoint."""

import json
import os
import signal
import threading
import time
from dataclasses import replace

import endpoint as scripted
import pytest
from asking import QUICK, ask_about, asking, document, endpoint_at, open_store, question, recipe_for, stop_at
from scripted import instruction_for, opening_of

from llmtwin_data.answers import Answer, AnswerStore
from llmtwin_data.embeddings import encode_packaged
from llmtwin_data.engine import (
    Backlog,
    Batch,
    Dialect,
    Room,
    Session,
    Slot,
    ask,
    settle,
    terminate_sets,
    write_request,
)
from llmtwin_data.errors import Interrupted, QualityGate
from llmtwin_data.replies import Choice, Completion
from llmtwin_data.transport import Problem, Reply

RECIPE = recipe_for(endpoint_at("http://h/v1"))
OTHER = recipe_for(endpoint_at("http://h/v1"), k=2)


def numbers(batches):
    return [[int(slot.question.content_id) for slot in batch.slots] for batch in batches]


def backlog_of(questions, folder, *, answered=()):
    with open_store(folder) as store:
        store.save(answers=[Answer(question(n, RECIPE).key, "ok", ("x",)) for n in answered])
    store = open_store(folder)
    return Backlog(questions, store, store.claims(), batch_size=4)


def test_answered_ones_leave_gaps_and_move_nobody(tmp_path):
    backlog = backlog_of([question(n, RECIPE) for n in range(8)], tmp_path, answered=[1, 5, 6])

    assert numbers(backlog.read()) == [[0, 2, 3], [4, 7]]
    assert backlog.answered_before == 3


def test_while_questions_are_read_none_counts_as_repeated(tmp_path):
    seen = []

    def asked():
        for number in [*range(8), 0]:
            seen.append(backlog.repeated)
            yield question(number, RECIPE)

    backlog = backlog_of(asked(), tmp_path)
    backlog.read()

    assert (set(seen), backlog.repeated) == ({0}, 1)


def test_those_asked_again_go_first_and_later_ones_wait(tmp_path):
    backlog = backlog_of([question(n, RECIPE) for n in range(12)], tmp_path)
    first, second, third = backlog.read()
    backlog.fresh.append(first)
    backlog.put(second)
    backlog.put(third, moment=5.0)

    assert [backlog.pop(1.0) for _ in range(3)] == [second, first, None]
    assert (backlog.next_moment(), backlog.pop(5.0)) == (5.0, third)
    assert backlog.empty()


def alike(number, *, post):
    """Give a text whose first lines are those of every other of this post."""
    return question(
        number, RECIPE, text=f"{document(900 + post)} {document(950 + post)} " * 3 + document(number)
    )


JUDGE = recipe_for(endpoint_at("http://h/v1"), prompt="judge")
FORMED = {
    "equal ones": ([question(n % 3, RECIPE) for n in range(8)], [[0, 1, 2]]),
    "two recipes": ([question(n, OTHER if n % 2 else RECIPE) for n in range(4)], [[0, 2], [1, 3]]),
    "no opening tells them apart": (
        [alike(n, post=1 if n < 3 else 2) for n in range(6)],
        [[0, 3], [1, 4], [2, 5]],
    ),
    "a longer opening does": (
        [question(n, RECIPE, text=f"What my first summer of {document(n)}") for n in range(8)],
        [[0, 1, 2, 3], [4, 5, 6, 7]],
    ),
    "one within the first lines of another": (
        [question(0, RECIPE, text="Hello world"), question(1, RECIPE, text="She said: hello world.")],
        [[0], [1]],
    ),
    "without words": (
        [question(n, RECIPE, text=text) for n, text in enumerate(["🎉", "One of the posts", "—"])],
        [[0], [1], [2]],
    ),
    "pairs to be judged": (
        [question(n, JUDGE, text=f"Genre: posts\nContent:\n{document(n)}") for n in range(3)],
        [[0], [1], [2]],
    ),
}


@pytest.mark.parametrize(("asked", "batches"), FORMED.values(), ids=FORMED)
def test_questions_share_a_request_where_openings_tell_them_apart(tmp_path, asked, batches):
    backlog = backlog_of(asked, tmp_path)

    assert numbers(backlog.read()) == batches
    assert backlog.seen == len(asked)


def test_batches_do_not_depend_on_what_is_answered_or_read_at_once(tmp_path):
    asked = [alike(n, post=n % 3 > 0) for n in range(128)]
    small, large = (backlog_of(asked, tmp_path / folder) for folder in ("small", "large"))
    expected = [batch for _ in range(4) for batch in numbers(small.read(1))]

    assert numbers(large.read()) == expected
    with open_store(tmp_path) as store:
        store.save(answers=[Answer(asked[0].key, "ok", ("x",))])
        without = numbers(Backlog(asked, store, store.claims(), batch_size=4).read())
    assert without == [[number for number in batch if number] for batch in expected]


def batch_of(count, *, endpoint="http://h/v1", **recipe):
    recipe = recipe_for(endpoint_at(endpoint), **recipe)
    return Batch([Slot(one, one.key) for one in (question(number, recipe) for number in range(count))])


def test_texts_that_break_the_server_stop_no_other(tmp_path):
    breaks = {"when": {"doc": [0, 1, 2]}, "do": {"status": 500}}
    with scripted.serve(script=[breaks]) as server, open_store(tmp_path) as store:
        outcome = ask_about(range(20), server.base_url, store)

    assert (outcome.error, outcome.good()) == (None, [*range(3, 20)])
    assert outcome.report.stopped == "3 left for now: server errors"


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (2, [1, 1]), (5, [3, 2])])
def test_halves_hold_every_text_once(count, sizes):
    batch = batch_of(count)

    halves = batch.halves()

    assert [len(half.slots) for half in halves] == sizes
    assert [text for half in halves for text in half.texts()] == batch.texts()


def test_costs_are_shared_by_length_and_stay_unknown_once_unknown():
    batch = batch_of(2)

    batch.charge(100, 10, 0.5)
    known = sum(slot.cost_usd for slot in batch.slots)
    batch.charge(None, None, None)

    assert known == pytest.approx(0.5)
    assert [slot.cost_usd for slot in batch.slots] == [None, None]
    assert [slot.requests for slot in batch.slots] == [2, 2]


WARM = recipe_for(endpoint_at("http://h/v1"), request_extra='{"top_p": 0.9}', candidates=2)


def body(dialect, *, recipe=WARM, count=3, **batch):
    slots = [Slot(one, one.key) for one in (question(n, recipe) for n in range(count))]
    return json.loads(write_request(Batch(slots, **batch), dialect)[0])


def refusal(message, param=""):
    return Problem("request", "http_400", message, param)


def test_a_request_holds_all_that_is_asked():
    sent = body(Dialect("m"))

    assert document(2) in sent["messages"][-1]["content"]
    assert (sent["model"], sent["n"], sent["top_p"], sent["temperature"]) == ("m", 2, 0.9, 0.7)
    schema = sent["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["instructions"]["items"]["properties"]["content"]["enum"] == [1, 2, 3]


def test_the_limit_is_doubled_for_what_was_cut_and_has_room_besides():
    def limit(**more):
        return body(Dialect("m"), count=1, **more)["max_tokens"]

    assert limit(stretch=1) == 2 * limit()
    assert limit(stretch=9) == 4 * limit()
    assert limit(stretch=1, room=500) == 2 * limit() + 500


def test_only_the_embedded_model_gets_a_seed_another_one_for_each_request():
    recipe = replace(WARM, endpoint="embedded")
    slot = Slot(question(1, recipe), "key")

    def seed(own):
        return json.loads(write_request(Batch([slot]), Dialect("m", seed=own))[0])["seed"]

    first, again, other = seed(42), seed(42), seed(43)
    slot.requests += 1

    assert first == again
    assert len({first, other, seed(42)}) == 3
    assert "seed" not in body(Dialect("m"))


REFUSED = [
    ("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", "max_tokens", "max_tokens"),
    ("'temperature' does not support 0.7 with this model", "", "temperature"),
    ("Unrecognized request argument supplied: n", "n", "n"),
    ("Unrecognized request argument supplied: reasoning_effort", "", "reasoning_effort"),
    ("'reasoning_effort' does not support 'none'.", "reasoning_effort", "reasoning_effort"),
    ('[{"type": "extra_forbidden", "loc": ["body", "reasoning_effort"]}]', "", "reasoning_effort"),
    ("temperature is only supported with reasoning_effort none", "", "temperature"),
]


@pytest.mark.parametrize(("message", "param", "gone"), REFUSED)
def test_a_field_that_is_refused_is_left_out(message, param, gone):
    dialect = Dialect("m", effort="none")

    assert dialect.learn(refusal(message, param), WARM)
    assert gone not in body(dialect)


def test_keys_depend_on_body_and_attempt_alone():
    batches = [batch_of(1), batch_of(1), Batch(batch_of(1).slots, attempt=1), batch_of(2)]

    first, same, *others = [write_request(batch, Dialect("m"))[1] for batch in batches]

    assert first == same
    assert len({first, *others}) == 3


def session_of(**settings):
    endpoint = endpoint_at("http://h/v1")
    backlog = Backlog([], None, None, batch_size=8)
    return Session(backlog, endpoint=endpoint, answers=None, asking=asking(**settings), stop=None)


@pytest.mark.parametrize(
    ("batch", "larger"),
    [
        (batch_of(1), batch_of(8)),
        (batch_of(1), batch_of(1, candidates=3)),
        (batch_of(1), Batch(batch_of(1).slots, stretch=1)),
    ],
    ids=["more texts", "candidates", "room for a cut answer"],
)
def test_the_worst_cost_grows_with_what_may_be_written(batch, larger):
    session = session_of(max_cost_usd=1.0)

    assert 0 < session.worst_cost(batch) < session.worst_cost(larger)


def test_what_is_in_flight_counts_against_the_limit_and_without_one_nothing_is_weighed():
    worst = session_of(max_cost_usd=1.0).worst_cost(batch_of(1))
    session = session_of(max_cost_usd=2.5 * worst, spent_usd=0.5 * worst)

    assert [session.reserve(batch_of(1)) for _ in range(3)] == [True, True, False]
    assert session_of().worst_cost(batch_of(1)) == 0.0


def answered(*choices, hidden):
    return Completion(choices, 10, 10, "m", "", hidden)


CUT, WHOLE = Choice("", "cut"), Choice("x")


def test_what_was_cut_for_its_own_length_gets_no_more():
    room = Room()
    batch = replace(batch_of(8), room=4_096)

    assert not room.learn(batch, answered(Choice("a long text", "cut"), hidden=100))


def test_a_repetition_keeps_its_room_and_the_worst_cost_counts_it():
    session, batch, fresh = session_of(max_cost_usd=1.0), batch_of(8), batch_of(8)
    session.reserve(batch)
    before = batch.worst
    session.room.grow(1_000, lacking=True)
    for each in (batch, fresh):
        session.reserve(each)

    assert (batch.worst, batch.room) == (before, 0)
    assert fresh.worst == pytest.approx(before + 8_192 * 0.6 / 1_000_000)


TOO_HIGH = [
    "max_tokens is too large: 9192. This model supports at most 4096 completion tokens.",
    "'max_completion_tokens' must be less than or equal to 8192",
    "max_output_tokens must be in range [1, 8192]",
]


@pytest.mark.parametrize("message", TOO_HIGH)
def test_a_limit_refused_as_too_high_is_lowered_and_holds_once_it_is_taken(message):
    room, batch = Room(tokens=8_192), replace(batch_of(8), room=8_192)

    assert room.lower(batch, refusal(message))
    assert batch.room == 2_048
    room.learn(batch, answered(WHOLE, hidden=300))
    assert room.for_batch(batch_of(8)) == 2_048


def test_a_text_too_long_without_any_room_is_the_texts_own_fault():
    room, long = Room(tokens=8_192), Problem("too_long", "too_long", "context length")
    batch = replace(batch_of(1), room=8_192)

    assert [room.lower(batch, long) for _ in range(4)] == [True, True, True, False]
    assert room.for_batch(batch_of(1)) == 8_192


@pytest.mark.parametrize("message", ["Unsupported parameter: 'max_tokens'", "the text is bad", "too large"])
def test_no_other_refusal_takes_room(message):
    assert not Room(tokens=8_192).lower(replace(batch_of(8), room=8_192), refusal(message))


def choosing(*choices, problem=""):
    """Give a completion whose choices map numbers to instructions, or to an opening and an instruction."""
    texts = [json.dumps({"instructions": [item(n, told) for n, told in told.items()]}) for told in choices]
    return Completion(tuple(Choice(text, problem) for text in texts), 10, 5, "m", "")


def item(number, told):
    opening, instruction = told if isinstance(told, tuple) else (opening_of(document(number - 1)), told)
    return {"content": number, "opening": opening, "instruction": instruction}


def told(*numbers):
    return {number: instruction_for(document(number - 1)) for number in numbers}


def settled(batch, choosing):
    return settle(batch, choosing, attempts=4, request_id="r")


def sizes(settlement):
    return [len(batch.slots) for batch in settlement.again]


def test_what_is_missing_is_asked_once_together_then_alone():
    first = settled(batch_of(8), choosing(told(1, 2, 3, 4, 5)))
    second = settled(first.again[0], choosing({}))
    third = settled(first.again[0], choosing({1: (opening_of(document(5)), told(6)[6])}))

    assert sizes(first) == [3]
    assert sizes(second) == [2, 1]
    assert sizes(third) == [1, 1]


def test_exchanged_instructions_are_asked_alone():
    swapped = told(1, 2, 3) | {1: instruction_for(document(1)), 2: instruction_for(document(0))}
    found = settled(batch_of(3), choosing(swapped))

    assert sizes(found) == [1, 1]
    assert [answer.key for answer in found.answers] == [batch_of(3).slots[2].key]


def test_an_instruction_of_a_text_without_answer_is_not_taken_for_another():
    found = settled(batch_of(3), choosing(told(1) | {2: instruction_for(document(2))}))

    assert [answer.key for answer in found.answers] == [batch_of(3).slots[0].key]


def test_the_best_grounded_candidate_is_chosen_wherever_it_stands():
    best = instruction_for(document(0))
    choices = [{1: "Write a short piece on something nice for everyone"}, {1: best}, {1: "Write"}]

    found = settled(batch_of(1, candidates=3), choosing(*choices))

    assert found.answers[0].values == (best,)


@pytest.mark.parametrize(
    "reference", [(), tuple(document(number) for number in range(1, 33))], ids=["alone", "beside others"]
)
def test_of_a_text_asked_alone_one_shared_word_does_not_win(reference):
    best = instruction_for(document(0))
    choices = [{1: "Write a short piece on some DOC for everyone"}, {1: best}]

    found = settle(
        batch_of(1, candidates=2), choosing(*choices),
        attempts=4, request_id="r", reference=reference,
    )  # fmt: skip

    assert found.answers[0].values == (best,)


ENGLISH = "We cut our Docker image from two gigabytes to ninety megabytes; the deploy is fast now."


def chosen_by(*candidates, text=ENGLISH, encode=encode_packaged, **how):
    batch = batch_of(1, candidates=len(candidates), **how)
    batch.slots[0].question = replace(batch.slots[0].question, text=text)
    choices = [{1: candidate} for candidate in candidates]
    found = settle(
        batch, choosing(*choices), attempts=4, request_id="r", reference=[document(1)], encode=encode
    )
    return candidates.index(found.answers[0].values[0])


def no_vectors(texts):
    raise AssertionError("no vector is needed")


@pytest.mark.parametrize(
    "how",
    [{"endpoint": "embedded"}, {"endpoint": "embedded", "language": "zh-Hant"}, {"language": "zh-Hant"}],
)
def test_vectors_choose_for_a_small_model_and_in_another_language(how):
    assert chosen_by("寫一篇關於酵種麵包的貼文", "寫一篇關於縮小容器映像檔的貼文", **how) == 1


@pytest.mark.parametrize("language", ["same", "en", "en-GB"])
def test_words_choose_where_a_larger_model_writes_in_the_language_of_the_text(language):
    said = ["Write something nice for all of us", "Write about a Docker image that was cut"]

    assert chosen_by(*said, language=language, encode=no_vectors) == 1
    assert chosen_by(*said, endpoint="embedded", language=language, encode=None) == 1


def test_a_copied_example_is_refused_as_a_candidate():
    batch = batch_of(1, candidates=2, prompt="small")
    example = batch.slots[0].question.recipe.template.examples[0][1]
    batch.slots[0].question = replace(batch.slots[0].question, text=f"{document(0)} {example}")
    own = instruction_for(document(0))

    assert settled(batch, choosing({1: example}, {1: own})).answers[0].values == (own,)


def test_an_example_in_other_words_loses_where_a_small_model_writes():
    like = "Write a post about 3 checks before trusting a benchmark and who has paid."
    own = "Write a post about who wrote the questions of a model."
    text = "Three things I check before I trust a leaderboard, from who wrote the questions."

    assert chosen_by(like, own, text=text, endpoint="embedded", prompt="small") == 1


def test_missing_candidates_are_asked_for_again():
    batch = batch_of(1, candidates=3)

    found = settled(batch, choosing(told(1)))

    assert found.answers == []
    assert (found.again[0].slots[0].missing(), found.again[0].slots[0].tries) == (2, 0)


def test_what_there_is_counts_when_no_more_candidates_come():
    batch = batch_of(1, candidates=3)
    batch.slots[0].candidates, batch.slots[0].tries = [("Write about it",)], 3

    assert settled(batch, choosing({})).answers[0].state == "ok"


def test_what_shows_another_opening_is_asked_again_together_then_alone():
    other = (opening_of(document(1)), instruction_for(document(1)))
    first = settled(batch_of(8), choosing(told(2, 3, 4, 5, 6, 7, 8) | {1: other}))
    second = settled(first.again[0], choosing({1: ("", instruction_for(document(0)))}))

    assert (sizes(first), first.again[0].slots[0].reason) == ([1], "opening")
    assert [(one.unproven, len(one.values)) for one in first.readings] == [(1, 7)]
    assert [answer.state for answer in second.answers] == ["ok"]  # alone it needs none


def test_a_candidate_with_other_numbers_does_not_spoil_the_others():
    found = settled(batch_of(2, candidates=2), choosing(told(1, 2), {0: "a", 1: "b"}))

    assert [slot.candidates for slot in found.again[0].slots] == [[(told(n)[n],)] for n in (1, 2)]


def sent(count):
    return replace(batch_of(count), worst=0.25, boundary="f0f0f0")


def answering(*docs, tokens=100):
    told = [item(doc + 1, instruction_for(document(doc))) for doc in docs]
    return Completion((Choice(json.dumps({"instructions": told})),), tokens, tokens, "m-1")


def received(session, batch, completion):
    return session.receive(
        batch, completion, Reply(200, {}, "raw text", 0.5), request_id="r-1", batch_id="b-1"
    )


@pytest.mark.parametrize(("tokens", "spent", "cost"), [(100, 0.000075, 0.000075), (None, 0.25, None)])
def test_a_reply_without_tokens_counts_at_its_worst_and_costs_what_nobody_knows(tokens, spent, cost):
    session = session_of()

    entry = received(session, sent(1), answering(0, tokens=tokens))

    assert session.spent == pytest.approx(spent)
    assert entry.requests[0].cost_usd == (None if cost is None else pytest.approx(cost))
    assert (session.report.paid_requests, session.report.prompt_tokens) == (1, tokens or 0)


HINDI = "DOC-{} आज हम इस बारे में बात करेंगे कि अपने काम के समय को सही ढंग से कैसे व्यवस्थित किया जाए। "
CHINESE = "DOC-{} 今天我們來談談如何妥善安排工作時間，並且不要忘記每天等待著我們的重要事情。"
ENGLISH = "DOC-{} Today we talk about how to organise your working time and keep what waits in mind. "
CACHED = {"prompt_tokens": 40, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 9000}}
READ_FROM_CACHE = {"prompt_tokens": 40, "completion_tokens": 9, "cache_read_input_tokens": 9000}


@pytest.mark.parametrize(
    ("text", "do", "cut"),
    [
        (ENGLISH, {"context": 512}, 7),
        (CHINESE, {"context": 400}, 7),
        (ENGLISH, {"context": 1400}, 3),
        (HINDI, {"context": 1024}, 5),
        (ENGLISH, {"usage": {"prompt_tokens": 250, "completion_tokens": 9}}, 8),
        (ENGLISH, {"usage": {"prompt_tokens": 9000, "completion_tokens": 9}}, 0),
        (ENGLISH, {"usage": {"completion_tokens": 9}}, 0),
        (ENGLISH, {"usage": CACHED}, 0),
        (ENGLISH, {"usage": READ_FROM_CACHE}, 0),
        (ENGLISH, {}, 0),
        (HINDI, {}, 0),
    ],
    ids=[
        "most far above the context", "Chinese", "three a little above it", "Hindi", "all counted alike",
        "all counted alike and as many", "not counted", "cached apart", "cached apart by another name",
        "whole", "whole, in Hindi, of which cl100k_base makes three times as many",
    ],
)  # fmt: skip
def test_l61_a_prompt_that_the_server_cut_is_counted(tmp_path, text, do, cut):
    with scripted.serve(script=[{"when": {}, "do": do}]) as server, open_store(tmp_path) as store:
        outcome = ask_about(
            range(16), server.base_url, store, text=lambda doc: text.format(doc) * (3 + 3 * doc), batch_size=2
        )

    assert (outcome.report.paid_requests, outcome.report.prompts_cut) == (8, cut)


def test_a_slot_is_free_once_its_reply_is_read_for_a_quarter_as_many_replies(tmp_path):
    store, arrived, save = open_store(tmp_path), [], AnswerStore.save

    with scripted.serve() as server:

        def wait_for_no_more(**what):
            deadline = time.monotonic() + 20
            while server.stats()["requests"] < 16 + 4 and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(0.0 if arrived else 0.3)
            arrived.append(server.stats()["requests"])
            save(store, **what)

        store.save = wait_for_no_more
        outcome = ask_about(range(60), server.base_url, store, batch_size=1, concurrency=16)

    assert arrived[0] == 16 + 4
    assert outcome.good() == list(range(60))


def test_replies_share_their_commits(tmp_path):
    store, commits, save = open_store(tmp_path), [], AnswerStore.save
    store.save = lambda **what: (commits.append(len(what["answers"])), save(store, **what))

    with scripted.serve(latency_ms=20) as server:
        outcome = ask_about(range(200), server.base_url, store, batch_size=1, concurrency=32)

    assert outcome.good() == list(range(200))
    assert (sum(commits), len(commits) <= 60) == (200, True)


def test_what_the_caller_raises_ends_the_run_with_everything_stored(tmp_path):
    def refuse(settled, failed):
        if settled:
            raise QualityGate("not good enough")

    with open_store(tmp_path) as store, scripted.serve(latency_ms=50) as server:
        outcome = ask_about(range(400), server.base_url, store, batch_size=1, on_tick=refuse)
        paid = server.stats()["paid_total"]

    assert isinstance(outcome.error, QualityGate)
    assert 0 < len(outcome.good()) == paid < 400


def test_sigterm_sets_the_event_only_meanwhile():
    stop = threading.Event()

    with terminate_sets(stop):
        os.kill(os.getpid(), signal.SIGTERM)

    assert stop.wait(60)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_handler_of_the_caller_stays():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    stop = threading.Event()

    with terminate_sets(stop):
        os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)

    assert (heard, stop.is_set()) == ([signal.SIGTERM], False)


def test_other_threads_leave_signals_alone():
    found = []

    def look():
        with terminate_sets(threading.Event()):
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()

    assert found == [signal.SIG_DFL]


@pytest.fixture
def store(tmp_path):
    with open_store(tmp_path) as store:
        yield store


def test_everything_is_answered_and_counted(store):
    with scripted.serve() as server:
        outcome = ask_about(range(100), server.base_url, store)

    assert outcome.wrong() == []
    assert (outcome.report.answered, outcome.report.requests, outcome.report.pending) == (100, 13, 0)
    assert sum(answer.prompt_tokens for answer in outcome.answers.values()) == outcome.report.prompt_tokens
    total = sum(answer.cost_usd for answer in outcome.answers.values())
    assert total == pytest.approx(outcome.report.cost_usd, rel=1e-6)


def test_a_new_text_never_makes_its_mates_be_asked_again(store):
    with scripted.serve() as server:
        ask_about([1, 2, 3], server.base_url, store)
        ask_about([1, 9, 2, 3], server.base_url, store)
        stats = server.stats()

    assert stats["texts_paid_total"] == 4


def test_questions_are_read_as_they_are_needed(store):
    endpoint = endpoint_at("http://127.0.0.1:9/v1")
    read = []

    def endless():
        while True:
            read.append(1)
            yield question(len(read), recipe_for(endpoint))

    with (
        scripted.serve(script=[{"when": {}, "do": {"status": 401}}]) as server,
        pytest.raises(Exception, match="key"),
    ):
        ask(endless(), endpoint=endpoint_at(server.base_url), answers=store, asking=asking())

    assert len(read) < 1_000


@pytest.mark.parametrize(("k", "candidates"), [(3, 1), (1, 4), (2, 2)])
def test_several_instructions_and_candidates(store, k, candidates):
    with scripted.serve() as server:
        outcome = ask_about(range(16), server.base_url, store, recipe={"k": k, "candidates": candidates})
        stats = server.stats()

    assert outcome.wrong() == []
    assert {len(answer.values) for answer in outcome.answers.values()} == {k}
    assert stats["requests"] == 2


def test_candidates_are_asked_one_by_one_where_n_is_unknown(store):
    with scripted.serve(refuse_fields=["n"]) as server:
        outcome = ask_about(range(8), server.base_url, store, recipe={"candidates": 3})
        stats = server.stats()

    assert len(outcome.good()) == 8
    assert stats["requests"] == 4


def test_no_more_than_concurrency_is_in_flight(store):
    with scripted.serve(latency_ms=20) as server:
        outcome = ask_about(range(200), server.base_url, store, batch_size=1, concurrency=16)
        stats = server.stats()

    assert stats["max_in_flight"] == outcome.report.max_in_flight == 16


def test_the_next_call_begins_with_what_the_endpoint_takes(store):
    with scripted.serve(latency_ms=300, refuse_fields=["temperature"]) as server:
        endpoint = endpoint_at(server.base_url)
        first, second = (
            ask_about(range(start, start + 12), endpoint, store, batch_size=1, concurrency=12).report
            for start in (0, 12)
        )

    assert (first.requests, second.requests) == (13, 12)
    assert first.max_in_flight < second.max_in_flight == 12


def test_requests_per_minute_are_kept(store):
    with scripted.serve() as server:
        ask_about(range(6), server.base_url, store, batch_size=1, requests_per_minute=1200)
        arrivals = server.arrivals()

    assert arrivals[-1] - arrivals[1] >= 4 * 0.05 - 0.01  # the first waits for its connection


def test_progress_runs_in_the_callers_thread(store):
    threads = set()
    with scripted.serve() as server:
        ask_about(range(100), server.base_url, store, on_tick=lambda *_: threads.add(threading.get_ident()))

    assert threads == {threading.get_ident()}


def test_a_source_that_breaks_ends_it_with_what_was_received_stored(store):
    def broken(recipe):
        yield from (question(number, recipe) for number in range(80))
        raise OSError("gone")

    with scripted.serve() as server:
        where, reports = endpoint_at(server.base_url), []
        settings = {"asking": asking(batch_size=1), "on_report": reports.append}
        with pytest.raises(OSError, match="gone"):
            ask(broken(recipe_for(where)), endpoint=where, answers=store, **settings)
        paid = server.stats()["paid_total"]

    assert store.totals()["answers"]["ok"] == reports[0].answered == paid > 0


def test_what_does_not_come_back_in_the_drain_is_kept_as_unknown(store):
    script = [{"when": {"request": {"from": 2, "to": 9}}, "do": {"silence": True}}]
    with scripted.serve(script=script) as server:
        patience = replace(QUICK, drain=0.3)
        outcome = ask_about(
            range(100), server.base_url, store, batch_size=1, patience=patience, **stop_at(server, 9)
        )

    assert isinstance(outcome.error, Interrupted)
    assert outcome.report.maybe_paid == 8
    assert outcome.report.seconds < QUICK.drain
