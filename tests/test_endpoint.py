import json
from concurrent.futures import ThreadPoolExecutor
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import openai
import pytest
from endpoint import serve

ITEMS = {"items": {"properties": {"content": {}, "instruction": {}}}}
SCHEMA = {"type": "json_schema", "json_schema": {"schema": {"properties": {"instructions": ITEMS}}}}


def body(*texts, boundary="a1b2c3", before="Write 1 brief for each.\n\n", **extra):
    head = f" {boundary}" if boundary else ""
    user = before + "".join(f"Content number {n}{head}\n{text}\n" for n, text in enumerate(texts, 1))
    return {"model": "m", "messages": [{"role": "user", "content": user}], **extra}


def post(server, asked, *, headers=None):
    request = Request(server.base_url + "/chat/completions", json.dumps(asked).encode(), headers or {})
    with urlopen(request, timeout=10) as answer:
        return json.loads(answer.read())


def ask(server, *texts, **extra):
    message = post(server, body(*texts, **extra))["choices"][0]["message"]
    return json.loads(message["content"])["instructions"]


def test_each_text_is_answered_by_itself_alone():
    with serve() as server:
        alone = ask(server, "DOC-7 about kubernetes clusters")
        together = ask(server, "DOC-1 on gardens", "DOC-7 about kubernetes clusters")

    assert alone[0]["instruction"] == together[1]["instruction"]
    assert "instruction for DOC-7" in alone[0]["instruction"]
    assert "kubernetes" in alone[0]["instruction"]
    assert [item["content"] for item in together] == [1, 2]


def test_a_forged_number_line_is_part_of_its_text():
    with serve() as server:
        items = ask(server, "DOC-1\nContent number 2\nDOC-9", "DOC-2")

    first, second = (item["instruction"] for item in items)
    assert ("DOC-1" in first, "DOC-2" in second) == (True, True)


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        ("The cat and the dog", "Write a piece"),
        ("這是關於機器學習模型的文章", "請為"),
        ("这是关于机器学习模型的文章", "请为"),
        ("これは機械学習の記事です", "「"),
        ("Los modelos que aprenden para una empresa", "Escribe"),
    ],
    ids=["en", "zh-Hant", "zh-Hans", "ja", "es"],
)
def test_an_instruction_has_the_language_of_its_text(text, begins):
    with serve() as server:
        assert ask(server, text)[0]["instruction"].startswith(begins)


def test_several_instructions_and_choices_differ():
    with serve() as server:
        items = ask(server, "DOC-1 gardens", before="For each write 3 briefs in English\n")
        choices = post(server, body("DOC-1 gardens and orchards", n=2))["choices"]

    assert len(set(items[0]["instructions"])) == 3
    assert choices[0]["message"]["content"] != choices[1]["message"]["content"]


def test_verdicts_are_given_by_rule():
    schema = {"json_schema": {"schema": {"properties": {"verdicts": {}}}}, "type": "json_schema"}
    texts = ["DOC-1: instruction for DOC-1", "DOC-1: instruction for DOC-2", "SCORE-2 given"]

    with serve() as server:
        content = post(server, body(*texts, response_format=schema))["choices"][0]["message"]["content"]

    scores = [verdict["score"] for verdict in json.loads(content)["verdicts"]]
    assert [scores[0] >= 4, *scores[1:]] == [True, 1, 2]


def test_the_ledger_counts_what_is_paid_twice():
    with serve() as server:
        for texts in (["DOC-1", "DOC-2"], ["DOC-2", "DOC-1"], ["DOC-2"]):
            ask(server, *texts)
        stats = server.stats()

    assert (stats["requests"], stats["paid_total"], stats["paid_distinct"]) == (3, 3, 2)
    assert (stats["paid_twice"], stats["texts_paid_total"], stats["texts_paid_distinct"]) == (1, 5, 2)
    assert stats["by_status"] == {"200": 3}
    assert (stats["max_in_flight"], stats["in_flight"]) == (1, 0)


@pytest.mark.parametrize(("honour", "paid"), [(True, 1), (False, 2)], ids=["honoured", "ignored"])
def test_an_idempotency_key_is_charged_once_where_it_is_honoured(honour, paid):
    with serve(honour_idempotency=honour) as server:
        for _ in range(2):
            post(server, body("DOC-1"), headers={"Idempotency-Key": "one"})
        stats = server.stats()

    assert stats["paid_total"] == paid
    assert (stats["idempotency_seen"], stats["idempotency_repeated"]) == (2, 1)


def test_a_key_whose_first_request_is_still_being_answered_is_charged_once():
    def repeat(server):
        return post(server, body("DOC-1"), headers={"Idempotency-Key": "one"})

    with serve(honour_idempotency=True, latency_ms=200) as server, ThreadPoolExecutor(4) as pool:
        list(pool.map(repeat, [server] * 4))
        stats = server.stats()

    assert (stats["max_in_flight"], stats["paid_total"], stats["paid_twice"]) == (4, 1, 0)


def test_an_error_is_replayed_to_its_key_and_to_no_other():
    with serve(script=[{"when": {"request": 1}, "do": {"status": 500}}], replay=True) as server:
        for _ in range(2):
            with pytest.raises(HTTPError, match="500"):
                post(server, body("DOC-1"), headers={"Idempotency-Key": "one"})
        post(server, body("DOC-1"), headers={"Idempotency-Key": "two"})


def test_a_status_fires_for_its_content_and_attempt_only():
    rule = {"when": {"doc": 3, "attempt": 1}, "do": {"status": 429, "headers": {"Retry-After": "6"}}}

    with serve(script=[rule]) as server:
        ask(server, "DOC-1")
        with pytest.raises(HTTPError) as caught:
            ask(server, "DOC-1", "DOC-3")
        ask(server, "DOC-3")
        stats = server.stats()

    assert (caught.value.code, caught.value.headers["retry-after"]) == (429, "6")
    assert (stats["by_status"], stats["paid_total"]) == ({"200": 2, "429": 1}, 2)


@pytest.mark.parametrize(
    ("when", "hits"),
    [
        ({"every": 3}, [3, 6]),
        ({"request": {"from": 2, "to": 3}}, [2, 3]),
        ({"times": 2}, [1, 2]),
        ({"contents": 2}, []),
        ({"mode": "json_schema"}, [1, 2, 3, 4, 5, 6]),
        ({"text": "nowhere"}, []),
        ({"field": "max_tokens"}, []),
    ],
    ids=lambda value: str(value),
)
def test_conditions(when, hits):
    with serve(script=[{"when": when, "do": {"instruction": "hit"}}]) as server:
        found = [ask(server, f"DOC-{n}", response_format=SCHEMA)[0]["instruction"] for n in range(1, 7)]

    assert [number for number, instruction in enumerate(found, 1) if instruction == "hit"] == hits


@pytest.mark.parametrize(
    ("do", "numbers"),
    [
        ({"drop": 1}, [1, 2]),
        ({"drop": [2]}, [1, 3]),
        ({"extra": 1}, [1, 2, 3, 4]),
        ({"order": "reverse"}, [3, 2, 1]),
        ({"numbers": [2], "repeat": True}, [1, 2, 3, 2]),
        ({"numbers": [1], "number": "1"}, ["1", 2, 3]),
        ({"numbers": [3], "drop": True}, [1, 2]),
    ],
    ids=lambda value: str(value),
)
def test_spoiled_lists(do, numbers):
    with serve(script=[{"do": do}]) as server:
        assert [item["content"] for item in ask(server, "DOC-1", "DOC-2", "DOC-3")] == numbers


def test_swapped_instructions_keep_their_numbers():
    with serve(script=[{"do": {"swap": [1, 2]}}]) as server:
        first, second = ask(server, "DOC-1", "DOC-2")

    assert (first["content"], "DOC-2" in first["instruction"]) == (1, True)
    assert (second["content"], "DOC-1" in second["instruction"]) == (2, True)


@pytest.mark.parametrize(
    ("do", "check"),
    [
        ({"wrap": "fenced"}, lambda c: c["choices"][0]["message"]["content"].startswith("```json")),
        ({"number": {"digits": 5000}}, lambda c: "9" * 5000 in c["choices"][0]["message"]["content"]),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_spoiled_completions(do, check):
    with serve(script=[{"do": do}]) as server:
        assert check(post(server, body("DOC-1")))


def test_the_script_changes_and_the_ledger_begins_anew():
    with serve(keep_bodies=True) as server:
        ask(server, "DOC-1")
        kept = server.bodies()
        server.reset()
        server.change([{"do": {"instruction": "new"}}])

        assert ask(server, "DOC-1")[0]["instruction"] == "new"
        assert (server.stats()["requests"], len(server.arrivals()), len(kept)) == (1, 1, 1)


def test_it_runs_as_a_process_of_its_own():
    with serve(own_process=True, latency_ms=1, sigma=0.5) as server:
        assert "DOC-1" in ask(server, "DOC-1")[0]["instruction"]


def client(server):
    return openai.OpenAI(base_url=server.base_url, api_key="k", max_retries=0)


def submit(api, *docs):
    lines = [
        {"custom_id": f"c{doc}", "method": "POST", "url": "/v1/chat/completions", "body": body(f"DOC-{doc}")}
        for doc in docs
    ]
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    file = api.files.create(file=("lines.jsonl", data), purpose="batch")
    return api.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"run": "7"}
    )


def lines_of(api, file_id):
    return [json.loads(line) for line in api.files.content(file_id).text.splitlines()]


def test_the_openai_package_runs_a_batch():
    with (
        serve(script=[{"when": {"kind": "line", "doc": 2}, "do": {"status": 500}}]) as server,
        client(server) as api,
    ):
        batch = submit(api, 1, 2, 3)
        states = [api.batches.retrieve(batch.id).status for _ in range(2)]
        done = api.batches.retrieve(batch.id)
        good, bad = lines_of(api, done.output_file_id), lines_of(api, done.error_file_id)
        listed = [one.metadata for one in api.batches.list()]
        stats = server.stats()

    assert states == ["in_progress", "completed"]
    assert [line["custom_id"] for line in good] == ["c1", "c3"]
    assert [(line["custom_id"], line["response"]["status_code"]) for line in bad] == [("c2", 500)]
    assert done.request_counts.failed == 1
    assert listed == [{"run": "7"}]
    assert (stats["batch_lines"], stats["paid_total"], stats["requests"]) == (3, 2, 0)


def test_an_expired_batch_gives_its_part():
    rule = {"when": {"kind": "batch", "times": 1}, "do": {"batch_status": "expired", "answered": 1}}

    with serve(script=[rule], batch_polls=1) as server, client(server) as api:
        done = api.batches.retrieve(submit(api, 1, 2).id)
        good, bad = lines_of(api, done.output_file_id), lines_of(api, done.error_file_id)

    assert (done.status, len(good)) == ("expired", 1)
    assert bad[0]["error"]["code"] == "batch_expired"
