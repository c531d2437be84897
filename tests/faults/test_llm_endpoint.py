"""Rows L01 to L48, L50, L53 to L55 and L62, each against the scripted endpoint over loopback."""

import os
import shutil
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

import endpoint as scripted  # noqa: E402
import product  # noqa: E402
from documents import busy, document  # noqa: E402
from product import (  # noqa: E402
    Study,
    answer_key,
    ask_documents,
    burst,
    probes,
    retry_after,
)
from running import make_bench  # noqa: E402
from written import read_lines  # noqa: E402

EIGHT = range(8)
REFUSED_WARMTH = {"status": 400, "error": {"message": "Unsupported value", "param": "temperature"}}
CANARY = "sk-CANARY-0123456789"
IMPATIENT = {"first_contact": 1.0, "outage": 1.0}


@pytest.fixture
def store(tmp_path):
    return tmp_path / "answers.sqlite"


def outcome_of(script, docs, store, *, options=None, **settings):
    """Ask about documents under a script; give the outcome and the endpoint's own counts."""
    with scripted.serve(script=script, **(options or {})) as server:
        outcome = ask_documents(docs, server.base_url, store, **settings)
        stats = server.stats()
    assert outcome.wrong() == []
    return outcome, stats


def always(**do):
    return [{"when": {}, "do": do}]


def once(**do):
    return [{"when": {"request": 1}, "do": do}]


AUTHORITY = """
[ca]
default_ca = own
[own]
database = index.txt
serial = serial
new_certs_dir = .
default_md = sha256
policy = any
x509_extensions = names
[any]
commonName = supplied
[names]
subjectAltName = DNS:{name}
"""


def make_certificate(folder, *, name, ends):
    """Make a certificate that has signed itself, in ``cert.pem``, with its key in ``key.pem``."""
    for file, text in {"ca.cnf": AUTHORITY.format(name=name), "index.txt": "", "serial": "01"}.items():
        (folder / file).write_text(text)
    request = f"req -new -newkey rsa:2048 -nodes -subj /CN={name} -keyout key.pem -out csr.pem"
    sign = "ca -batch -notext -selfsign -config ca.cnf -keyfile key.pem -in csr.pem -out cert.pem"
    for command in (request, f"{sign} -startdate 20200101000000Z -enddate {ends}"):
        done = subprocess.run(["openssl", *command.split()], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@contextmanager
def tls_server(folder):
    """Serve over TLS on localhost with the folder's certificate; give the port and the bodies received."""
    bodies = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_error(400)

        def log_message(self, *_):
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    server = HTTPServer(("127.0.0.1", 0), Receiver)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1], bodies
    server.shutdown()
    server.server_close()


def test_l01_a_bad_key_costs_one_request_and_names_the_variable(store):
    outcome, stats = outcome_of(always(status=401), range(100), store, api_key=CANARY)

    assert outcome.error == "KeyRejected"
    assert "OPENAI_API_KEY" in outcome.said
    assert stats["by_status"]["401"] == 1


def test_l02_a_forbidden_key_quotes_the_server(store):
    script = always(status=403, error={"message": f"country not supported for {CANARY}"})
    outcome, _ = outcome_of(script, EIGHT, store, api_key=CANARY)

    assert outcome.exit_code == 3
    assert "country not supported" in outcome.said
    assert CANARY not in outcome.said


def test_l03_an_unknown_model_is_named_with_those_there_are(store):
    with scripted.serve(models=["scripted-1", "scripted-2"]) as server:
        outcome = ask_documents(EIGHT, server.base_url, store, model="scripted-3")
        stats = server.stats()

    assert outcome.error == "ModelUnknown"
    assert outcome.exit_code == 2
    assert "scripted-3" in outcome.said
    assert "scripted-2" in outcome.said
    assert server.base_url in outcome.said
    assert stats["requests"] == 1


@pytest.mark.parametrize(
    ("status", "code"), [(402, "payment_required"), (429, "insufficient_quota")], ids=["402", "quota"]
)
def test_l04_money_is_not_asked_for_twice(store, status, code):
    outcome, stats = outcome_of(always(status=status, error={"code": code}), range(100), store)

    assert outcome.error == "BillingRefused"
    assert stats["requests"] == 1


@pytest.mark.parametrize("poison", range(8))
@pytest.mark.parametrize("docs", [range(8), range(16)], ids=["one_batch", "two_batches"])
def test_l05_a_poison_text_costs_six_requests_and_no_batch_mate(store, poison, docs):
    outcome, stats = outcome_of([{"when": {"doc": poison}, "do": {"status": 400}}], docs, store)

    assert outcome.failed() == {poison: "http_400"}
    assert outcome.good() == [doc for doc in docs if doc != poison]
    assert stats["requests"] - len(docs) // 8 <= 6


def test_l05_the_next_run_asks_nothing(store):
    script = [{"when": {"doc": 3}, "do": {"status": 400}}]
    outcome_of(script, range(16), store)
    _, stats = outcome_of(script, range(16), store)

    assert stats["requests"] <= 15  # asked of a new endpoint, under a new recipe


def test_l06_refusing_everything_ends_after_five_calls(store):
    outcome, stats = outcome_of(always(status=400), range(100), store)

    assert outcome.error == "EndpointDown"
    assert stats["requests"] <= 5
    assert outcome.answers == {}


def test_l06_single_texts_are_not_failed_for_a_fault_of_the_request(store):
    outcome, stats = outcome_of(always(status=400), range(100), store, batch_size=1)

    assert stats["requests"] <= 5
    assert outcome.answers == {}


@pytest.mark.parametrize("status", [413, 400])
def test_l07_a_text_too_long_is_split_off_and_failed(store, status):
    error = {"message": "This model's maximum context length is 8192 tokens"}
    script = [{"when": {"doc": 3}, "do": {"status": status, "error": error}}]
    outcome, _ = outcome_of(script, range(16), store)

    assert outcome.failed() == {3: "too_long"}
    assert len(outcome.good()) == 15


def test_l07_batches_shrink_once_the_limit_is_known(store):
    script = [{"when": {"contents": {"from": 3, "to": 9}}, "do": {"status": 413}}]
    outcome, stats = outcome_of(script, range(80), store, concurrency=1)

    assert len(outcome.good()) == 80
    assert stats["by_status"]["413"] <= 5


@pytest.mark.slow
def test_l08_a_limit_of_six_seconds_loses_nothing_and_is_not_hammered(store):
    limit = {"status": 429, "headers": {"Retry-After": "6"}}
    with scripted.serve(script=[{"when": {"seconds": {"from": 0, "to": 6}}, "do": limit}]) as server:
        outcome = ask_documents(range(40), server.base_url, store, batch_size=1, concurrency=16)
        arrivals = server.arrivals()

    assert len(outcome.good()) == 40
    assert len(arrivals) <= 44
    assert max(later - earlier for earlier, later in pairwise(arrivals)) < 6 + busy(2)


def test_l08_a_burst_is_cut_once():
    allowed = burst(16, wait=6.0)

    assert allowed["cuts"] == 1
    assert allowed["after"] == allowed["before"] / 2


HEADERS = [
    ({"retry-after": "6"}, 6.0),
    ({"retry-after": "0"}, 0.0),
    ({"retry-after": "0.5"}, 0.5),
    ({"retry-after": " 7 "}, 7.0),
    ({"retry-after": "-10"}, 0.0),
    ({"retry-after": "inf"}, None),
    ({"retry-after": "-inf"}, None),
    ({"retry-after": "nan"}, None),
    ({"retry-after": "120"}, 120.0),
    ({"retry-after": "121"}, 121.0),
    ({"retry-after": "3600"}, 3600.0),
    ({"retry-after": "1e400"}, None),
    ({"retry-after": "1767225630"}, None),
    ({"retry-after": ""}, None),
    ({"retry-after": "soon"}, None),
    ({"retry-after": "<b>6</b>"}, None),
    ({}, None),
    ({"retry-after-ms": "1500"}, 1.5),
    ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
    ({"retry-after-ms": "x", "retry-after": "9"}, 9.0),
    ({"retry-after-ms": "-5"}, 0.0),
    ({"retry-after": "Thu, 01 Jan 2026 00:00:30 GMT"}, 30.0),
    ({"retry-after": "Wed, 31 Dec 2025 23:00:00 GMT"}, 0.0),
    ({"retry-after": "Thu, 01 Jan 2026 00:00:30 -0000"}, 30.0),
    ({"retry-after": "Thu, 99 Jan 2026 00:00:30 GMT"}, None),
    ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, None),
]


@pytest.mark.parametrize(("headers", "seconds"), HEADERS)
def test_l09_retry_after_is_read_in_every_form(headers, seconds):
    assert retry_after(headers, datetime(2026, 1, 1, tzinfo=UTC)) == seconds


@pytest.mark.parametrize("header", ["121", "3600", "date"])
def test_l09_a_wait_above_the_cap_ends_the_run_and_says_until_when(store, header):
    value = format_datetime(datetime.now(UTC) + timedelta(hours=1)) if header == "date" else header
    script = always(status=429, headers={"Retry-After": value})
    outcome, stats = outcome_of(script, EIGHT, store)

    assert outcome.error == "EndpointDown"
    assert "UTC" in outcome.said
    assert stats["requests"] == 1


def test_l10_a_limit_for_minutes_is_asked_at_most_twice_a_minute():
    seen = probes("limited")

    assert seen["in_flight"] == 1
    assert 540 <= seen["ended"] <= 600
    assert all(later - earlier >= 30 for earlier, later in pairwise(seen["sent"][8:]))


def test_l11_every_third_call_limited_costs_no_more_than_that(store):
    script = [{"when": {"every": 3}, "do": {"status": 429}}]
    outcome, stats = outcome_of(script, range(90), store, batch_size=1)

    assert len(outcome.good()) == 90
    assert stats["requests"] <= 1.6 * 90


def test_l12_each_passing_fault_costs_one_request(store):
    statuses = [408, 409, 425, 500, 502, 503, 504, 529]
    script = [{"when": {"doc": n, "attempt": 1}, "do": {"status": s}} for n, s in enumerate(statuses)]
    outcome, stats = outcome_of(script, range(24), store, batch_size=1)

    assert len(outcome.good()) == 24
    assert stats["requests"] == 24 + len(statuses)


REPLAYED = [(429, 1), (500, 1), (503, 1), (529, 1), (408, 2), (409, 2), (502, 2), (504, 2)]


@pytest.mark.parametrize(("status", "extra"), REPLAYED, ids=str)
def test_l12_an_error_that_is_replayed_for_its_key_keeps_no_text_pending(store, status, extra):
    script = [{"when": {"doc": 3, "attempt": 1}, "do": {"status": status}}]
    options = {"replay": True, "honour_idempotency": True}
    outcome, stats = outcome_of(script, range(24), store, batch_size=1, options=options)

    assert (outcome.error, len(outcome.good())) == ("", 24)
    assert stats["requests"] == 24 + extra
    assert stats["paid_twice"] == 0


@pytest.mark.parametrize("do", [{"status": 400}, {"raw": "no"}], ids=str)
def test_l12_a_failure_asked_again_is_not_answered_by_its_replay(store, do):
    with scripted.serve(script=[{"when": {"doc": 3}, "do": do}], replay=True) as server:
        first = ask_documents(EIGHT, server.base_url, store)
        again = ask_documents(EIGHT, server.base_url, store, retry_failed=True)
        server.change([])
        last = ask_documents(EIGHT, server.base_url, store, retry_failed=True)

    assert len(first.failed()) == len(again.failed()) == again.report["failed"] == 1
    assert last.failed() == {}
    assert first.answers[3]["requests"] < again.answers[3]["requests"] < last.answers[3]["requests"]


@pytest.mark.parametrize("do", [{"reset": "paid"}, {"cut": 60}, {"status": 504, "paid": True}], ids=str)
def test_l12_what_may_have_been_charged_is_repeated_under_its_key(store, do):
    script = [{"when": {"doc": 3, "attempt": 1}, "do": do}]
    outcome, stats = outcome_of(script, range(24), store, batch_size=1, options={"honour_idempotency": True})

    assert len(outcome.good()) == 24
    assert (stats["idempotency_repeated"], stats["paid_twice"]) == (1, 0)


def test_l13_an_endpoint_that_stays_down_is_probed_then_left(store):
    outcome, stats = outcome_of(always(status=503), range(100), store, patience=IMPATIENT)

    assert outcome.error == "EndpointDown"
    assert stats["requests"] <= 30


def test_l13_probes_are_few_with_real_patience():
    assert len(probes("down")["sent"]) <= 20


def test_l13_it_goes_on_by_itself_when_the_endpoint_is_back(store):
    script = [{"when": {"request": {"from": 4, "to": 24}}, "do": {"status": 503}}]
    outcome, _ = outcome_of(script, range(80), store, batch_size=2)

    assert outcome.error == ""
    assert len(outcome.good()) == 80


NOBODY = {"127.0.0.1": "nothing listens at 127.0.0.1 port {}", "nope.invalid": "name nope.invalid (port {})"}


@pytest.mark.parametrize("host", NOBODY)
def test_l14_nobody_there_is_said_soon_and_in_words(tmp_path, host):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    bench = make_bench(tmp_path, scripted.Server(f"https://{host}:{port}/v1"))
    began = time.monotonic()

    ended = bench.run()

    assert time.monotonic() - began < busy(20)
    assert "Notebook 1" not in ended.stdout
    assert ended.returncode == 5
    assert NOBODY[host].format(port) in ended.stderr
    assert "Errno" not in ended.stderr
    assert bench.out.read()["state"] == "incomplete"


def test_l14_the_engine_says_the_same_where_no_command_went_before(store):
    outcome = ask_documents(EIGHT, "http://127.0.0.1:9/v1", store, patience=IMPATIENT)

    assert outcome.error == "EndpointDown"
    assert "nothing listens at 127.0.0.1 port 9" in outcome.said
    assert outcome.report["pending"] == 8


@pytest.mark.slow
def test_l14_an_endpoint_that_is_gone_is_not_missed_where_all_is_answered(tmp_path):
    with scripted.serve() as server:
        bench = make_bench(tmp_path, server)
        assert bench.run("--only", "3").returncode == 0
    first = bench.manifest()

    assert bench.run("--only", "3").returncode == 0
    assert bench.manifest() == first


def test_l15_a_reset_is_retried_and_kept_as_unknown(store):
    script = [{"when": {"doc": 1, "attempt": 1}, "do": {"reset": True}}]
    outcome, _ = outcome_of(script, range(16), store)

    assert len(outcome.good()) == 16
    assert outcome.report["maybe_paid"] == 1
    assert outcome.requests["unknown"] == 1


@pytest.mark.parametrize("honoured", [True, False])
def test_l16_a_body_cut_after_the_charge_is_asked_again_under_the_same_key(store, honoured):
    script = [{"when": {"doc": 1, "attempt": 1}, "do": {"cut": 60}}]
    outcome, stats = outcome_of(script, range(16), store, options={"honour_idempotency": honoured})

    assert len(outcome.good()) == 16
    assert stats["paid_twice"] == (0 if honoured else 1)
    assert stats["idempotency_repeated"] == 1
    assert outcome.report["maybe_paid"] == 1


def test_l17_one_deadline_holds_against_a_body_that_drips(store):
    script = once(drip=0.5)
    started = time.monotonic()
    outcome, _ = outcome_of(script, range(1), store, timeout_seconds=1.0)

    assert outcome.good() == [0]
    assert time.monotonic() - started < busy(20)  # at half a second a byte it would take minutes


def test_l18_an_endpoint_that_never_answers_is_left_with_everything_pending(store):
    patience = {"outage": 3.0}
    outcome, stats = outcome_of(always(silence=True), EIGHT, store, timeout_seconds=0.3, patience=patience)

    assert outcome.error == "EndpointDown"
    assert "timeout" in outcome.said
    assert outcome.report["pending"] == 8
    assert outcome.report["maybe_paid"] == stats["requests"] >= 2


@pytest.mark.parametrize("do", [{"html": True}, {"empty": True}], ids=["l19_html", "l20_empty"])
def test_l19_l20_what_is_not_json_is_retried_and_named(store, do):
    outcome, stats = outcome_of(once(**do), EIGHT, store)

    assert len(outcome.good()) == 8
    assert stats["requests"] == 2
    assert outcome.requests["not_json"] == 1


def test_l19_html_for_ever_ends_with_a_clear_word(store):
    outcome, stats = outcome_of(always(html=True), EIGHT, store)

    assert "not JSON from the endpoint" in outcome.said
    assert (outcome.exit_code, stats["requests"], outcome.report["pending"]) == (6, 5, 8)


def test_l21_an_error_object_under_200_is_an_error(store):
    outcome, stats = outcome_of(once(error_object=True), EIGHT, store)

    assert len(outcome.good()) == 8
    assert stats["requests"] == 2


@pytest.mark.parametrize("how", ["html", "empty", "error_object"])
@pytest.mark.parametrize("at", ["first", "second"])
@pytest.mark.parametrize("kind", ["files", "batches"])
def test_l19_l20_l21_what_is_no_word_of_the_batch_api_costs_nothing(store, kind, at, how):
    before = [] if at == "first" else [{"when": {"kind": kind, "times": 1}, "do": {}}]
    with scripted.serve(script=[*before, {"when": {"kind": kind, "times": 1}, "do": {how: True}}]) as server:
        asked = [
            ask_documents(EIGHT, server.base_url, store, mode="batch", patience={"poll": 0.02}) for _ in "12"
        ]
        stats = server.stats()

    assert "expected a word of the Batch API" in asked[0].said
    assert (asked[0].exit_code, len(asked[1].good()), stats["paid_twice"]) == (5, 8, 0)


@pytest.mark.parametrize("how", ["no_choices", "empty_choices", "null_content"])
def test_l22_an_empty_answer_is_retried_once_then_split(store, how):
    script = [{"when": {"contents": 8}, "do": {how: True}}]
    outcome, stats = outcome_of(script, EIGHT, store)

    assert len(outcome.good()) == 8
    assert stats["requests"] == 4


@pytest.mark.parametrize(
    "do", [{"refusal": "I will not."}, {"refusal_text": "I'm sorry, but I can't help with that."}]
)
def test_l23_a_refusal_is_final_for_the_text_alone(store, do):
    outcome, stats = outcome_of([{"when": {"doc": 3}, "do": do}], EIGHT, store)

    assert outcome.failed() == {3: "refused"}
    assert len(outcome.good()) == 7
    assert stats["requests"] == 7


def test_l24_whole_items_before_the_cut_count(store):
    script = [{"when": {"contents": 8}, "do": {"finish": "length", "keep": 5}}]
    outcome, stats = outcome_of(script, EIGHT, store)

    assert len(outcome.good()) == 8
    assert stats["requests"] - 1 <= 2


def test_l24_a_text_that_is_always_cut_is_failed_and_its_room_was_doubled(store):
    with scripted.serve(
        script=[{"when": {"doc": 0}, "do": {"finish": "length", "keep": 0}}], keep_bodies=True
    ) as server:
        outcome = ask_documents(range(2), server.base_url, store, batch_size=1)
        bodies = [call["body"] for call in server.bodies()]
        room = [body["max_tokens"] for body in bodies if "DOC-0 " in str(body["messages"])]

    assert outcome.failed() == {0: "cut"}
    assert room[1] == 2 * room[0]


def test_l25_filtered_is_failed_and_its_mates_are_not(store):
    script = [{"when": {"doc": 3}, "do": {"finish": "content_filter"}}]
    outcome, _ = outcome_of(script, EIGHT, store)

    assert outcome.failed() == {3: "filtered"}
    assert len(outcome.good()) == 7


def test_l25_filtered_by_status_400_is_told_apart(store):
    error = {"code": "content_filter", "message": "The response was filtered"}
    script = [{"when": {"doc": 3}, "do": {"status": 400, "error": error}}]
    outcome, _ = outcome_of(script, range(16), store)

    assert outcome.failed() == {3: "filtered"}


@pytest.mark.parametrize("wrap", ["fenced", "prose", "fenced_prose", "bom", "trailing_comma"])
def test_l26_json_in_wrapping_is_read(store, wrap):
    outcome, stats = outcome_of(always(wrap=wrap), EIGHT, store)

    assert len(outcome.good()) == 8
    assert stats["requests"] == 1


def test_l27_missing_items_are_asked_once_more(store):
    script = [{"when": {"contents": 8}, "do": {"drop": 3}}]
    outcome, stats = outcome_of(script, EIGHT, store)

    assert len(outcome.good()) == 8
    assert stats["requests"] == 2


def test_l28_an_answer_with_items_nobody_asked_for_is_asked_again_then_alone_and_counted(store):
    script = [{"when": {"contents": 8}, "do": {"extra": 3}}]
    outcome, stats = outcome_of(script, EIGHT, store)

    assert len(outcome.good()) == 8
    assert stats["requests"] == 1 + 1 + 8
    assert outcome.report["ignored"] == 2 * 11
    assert [*outcome.shown().values()][-1] == "22"


def test_l29_a_number_told_twice_is_trusted_in_neither(store):
    script = [{"when": {"doc": 3, "contents": 8}, "do": {"repeat": True}}]
    outcome, stats = outcome_of(script, EIGHT, store)

    assert len(outcome.good()) == 8
    assert not outcome.answers[3]["values"][0].startswith("another")
    assert stats["requests"] == 2


NUMBERS = [("4", 1), (4, 1), (3.0, 2), (True, 2), ("Content 4", 2), ("４", 2), (3.5, 2), ("04", 2)]
# Outside 1 to 8 however it is written, so that nothing in the answer is trusted, again, then alone.
OUTSIDE = [-1, 0, 9, "0", "9", 0.0, 9.0, "Content 0", "０"]


@pytest.mark.parametrize(("number", "requests"), [*NUMBERS, ({"digits": 5000}, 4)], ids=str)
def test_l30_only_exact_numbers_count(store, number, requests):
    script = [{"when": {"doc": 3, "contents": 8}, "do": {"number": number}}]
    outcome, stats = outcome_of(script, EIGHT, store)

    assert len(outcome.good()) == 8
    assert stats["requests"] <= requests


@pytest.mark.parametrize("number", OUTSIDE, ids=repr)
def test_l30_an_answer_with_a_number_outside_is_trusted_in_no_part(store, number):
    script = [{"when": {"doc": 3, "contents": 8}, "do": {"number": number}}]
    outcome, stats = outcome_of(script, EIGHT, store)

    assert len(outcome.good()) == 8
    assert stats["requests"] == 1 + 1 + 8


@pytest.mark.parametrize("order", ["reverse", "shuffle"])
def test_l31_order_means_nothing(store, order):
    outcome, stats = outcome_of(always(order=order), range(64), store)

    assert len(outcome.good()) == 64
    assert stats["requests"] == 8


@pytest.mark.parametrize("value", [["a"], {"a": 1}, 7, [["a"]], None], ids=str)
def test_l32_an_instruction_that_is_no_text_is_asked_again(store, value):
    script = [{"when": {"doc": 3, "attempt": 1}, "do": {"instruction": value}}]
    outcome, stats = outcome_of(script, EIGHT, store)

    assert len(outcome.good()) == 8
    assert stats["requests"] == 2


@pytest.mark.parametrize(("keys", "requests"), [("extra", 1), ("missing", 2)])
def test_l32_extra_keys_are_dropped_and_missing_ones_asked_again(store, keys, requests):
    script = [{"when": {"doc": 3, "attempt": 1}, "do": {"keys": keys}}]
    outcome, stats = outcome_of(script, EIGHT, store)

    assert len(outcome.good()) == 8
    assert stats["requests"] == requests


@pytest.mark.parametrize(
    ("do", "length"), [({"instruction": ""}, 0), ({"instruction": " "}, 0), ({"long": 20_000}, 20_000)]
)
def test_l33_lengths_are_curations_to_judge(store, do, length):
    with scripted.serve(script=[{"when": {"doc": 3}, "do": do}]) as server:
        outcome = ask_documents(EIGHT, server.base_url, store)

    assert outcome.answers[3]["state"] == "ok"
    assert abs(len(outcome.answers[3]["values"][0]) - length) <= 1


def test_l33_an_endless_instruction_is_rejected_for_its_length(tmp_path):
    with scripted.serve(script=[{"when": {"doc": 3}, "do": {"long": 20_000}}]) as server:
        bench = make_bench(tmp_path, server)
        bench.publish()
    ledger = read_lines(bench.out.ledger_file)
    rows = {row["content_id"]: (row["state"], row["reason"]) for row in ledger}

    assert rows["3"] == ("rejected", "length")
    assert [state for state, _ in rows.values()].count("accepted") == 23


def test_l34_copies_are_curations_to_judge(store):
    with scripted.serve(script=[{"when": {"doc": 3}, "do": {"copy": True}}]) as server:
        outcome = ask_documents(EIGHT, server.base_url, store)

    assert outcome.answers[3]["values"] == (document(3),)


STRANGE = [
    ("a\ud800b", "a\ufffdb"),
    ("a\0b", "ab"),
    ("a\u2028b", "a\u2028b"),
    ("a\u202eb\u200bc", "a\u202eb\u200bc"),
]


@pytest.mark.parametrize(("said", "stored"), STRANGE, ids=["surrogate", "nul", "u2028", "rtl_zero_width"])
def test_l36_strange_characters_are_stored_as_valid_text(store, said, stored):
    with scripted.serve(script=[{"when": {"doc": 3}, "do": {"instruction": said}}]) as server:
        outcome = ask_documents(EIGHT, server.base_url, store)

    assert outcome.answers[3]["values"] == (stored,)


HUGE = [{"big": 50 * 2**20}, {"nest": 200_000}, {"nan": True}]


@pytest.mark.parametrize("do", HUGE, ids=["50_mb", "nested", "nan"])
def test_l37_monstrous_answers_are_refused_and_retried(store, do):
    script = [{"when": {"contents": 8}, "do": do}]
    outcome, _ = outcome_of(script, EIGHT, store)

    assert len(outcome.good()) == 8


def test_l37_l38_memory_stays_small(store):
    with scripted.serve(
        own_process=True,
        script=[
            {"when": {"request": [1, 3]}, "do": {"big": 50 * 2**20}},
            {"when": {"request": [2, 4]}, "do": {"gzip_bomb": 10 * 2**30}},
        ],
    ) as server:
        code = (
            "import resource, sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
            "import product\n"
            "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
            "product.answer_key(0, sys.argv[2])\n"
            "before = peak()\n"
            "found = product.ask_documents(range(8), sys.argv[2], Path(sys.argv[3]))\n"
            "print(len(found.good()), peak() - before)"
        )
        command = [sys.executable, "-c", code, str(TESTS), server.base_url, str(store)]
        good, grown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    assert int(good) == 8
    assert int(grown) < 64


def test_l39_a_redirect_is_not_followed(store):
    with (
        scripted.serve() as other,
        scripted.serve(script=always(redirect=f"{other.root}/v1/chat/completions")) as server,
    ):
        outcome = ask_documents(EIGHT, server.base_url, store)
        elsewhere = other.stats()

    assert outcome.error == "EndpointDown"
    assert other.root in outcome.said
    assert elsewhere["requests"] == 0


FOREVER = "20991231000000Z"
CERTIFICATES = {
    "self_signed": ("localhost", FOREVER, False, "self-signed"),
    "wrong_host": ("elsewhere.test", FOREVER, True, "not valid for 'localhost'"),
    "expired": ("localhost", "20200102000000Z", True, "expired"),
    "good": ("localhost", FOREVER, True, ""),
}
ASK_OVER_TLS = """
import sys; sys.path.insert(0, sys.argv[1])
from pathlib import Path
from product import ask_documents
outcome = ask_documents(range(8), sys.argv[2], Path(sys.argv[3]))
print(outcome.error, outcome.said)
"""


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
@pytest.mark.parametrize(("name", "ends", "trusted", "why"), CERTIFICATES.values(), ids=CERTIFICATES)
def test_l40_only_a_good_certificate_gets_a_content(tmp_path, store, name, ends, trusted, why):
    make_certificate(tmp_path, name=name, ends=ends)
    environ = os.environ | ({"SSL_CERT_FILE": str(tmp_path / "cert.pem")} if trusted else {})
    with tls_server(tmp_path) as (port, bodies):
        bench = make_bench(tmp_path, scripted.Server(f"https://localhost:{port}/v1"))
        command = [sys.executable, "-c", ASK_OVER_TLS, str(TESTS), bench.server.base_url, str(store)]
        engine = subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout
        sent_by_engine = len(bodies)
        refused = bench.run("--only", "3", environ=environ) if why else None

    assert why in engine
    assert (sent_by_engine > 0) == (not why)
    if refused:
        assert engine.startswith(f"EndpointDown https://localhost:{port}/v1: the certificate of localhost")
        assert (refused.returncode, len(bodies)) == (5, 0)
        assert why in refused.stderr
        assert len(refused.stderr.splitlines()) <= 10


@pytest.mark.parametrize("mode", ["live", "batch"])
def test_l41_what_failed_is_asked_again_without_the_field(store, mode):
    with scripted.serve(script=always(refusal="no")) as server:
        failed = ask_documents(EIGHT, server.base_url, store).failed()
        kinds = [{"kind": kind, "field": "temperature"} for kind in ("chat", "line")]
        server.change([{"when": when, "do": REFUSED_WARMTH} for when in kinds])
        patience = {"poll": 0.02, "longest_poll": 0.05}
        again = ask_documents(EIGHT, server.base_url, store, retry_failed=True, mode=mode, patience=patience)

    assert (len(failed), len(again.good()), again.error) == (8, 8, "")


@pytest.mark.parametrize("field", ["response_format", "max_tokens", "temperature"])
def test_l41_a_field_the_endpoint_does_not_know_is_found_out_once(store, field):
    outcome, stats = outcome_of([], range(64), store, options={"refuse_fields": [field]})

    assert len(outcome.good()) == 64
    assert stats["by_status"]["400"] == (2 if field == "response_format" else 1)


@pytest.mark.parametrize(
    ("refused", "mode"), [(["json_schema"], "json_object"), (["json_schema", "json_object"], "text")]
)
def test_l41_structured_output_falls_back_and_is_remembered(store, refused, mode):
    outcome, stats = outcome_of([], range(64), store, options={"refuse_modes": refused})

    assert len(outcome.good()) == 64
    assert outcome.report["mode"] == mode
    assert stats["by_status"]["400"] == len(refused)


UPSTREAM = {
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": ""},
            "finish_reason": "error",
            "error": {"code": 502, "message": "the model's host is away"},
        }
    ]
}


def test_l53_an_error_inside_a_choice_is_the_servers_and_passes(store):
    outcome, stats = outcome_of([{"when": {"request": [1, 2]}, "do": {"body": UPSTREAM}}], range(16), store)

    assert len(outcome.good()) == 16
    assert stats["requests"] <= 8


def test_l53_an_error_inside_every_choice_ends_resumable(store):
    outcome, stats = outcome_of(always(body=UPSTREAM), range(16), store)

    assert (outcome.exit_code, outcome.failed(), outcome.report["pending"]) == (5, {}, 16)
    assert "the model's host is away" in outcome.said
    assert stats["requests"] <= 12


def test_l54_a_schema_refused_with_a_500_is_left_out(store):
    do = {"status": 500, "error": {"message": "Failed to initialize samplers: failed to parse grammar"}}
    outcome, stats = outcome_of([{"when": {"field": "response_format"}, "do": do}], range(16), store)

    assert (len(outcome.good()), outcome.report["mode"]) == (16, "text")
    assert stats["requests"] <= 8


@pytest.mark.parametrize("text", ["Unknown name at 'generation_config.response_schema'"])
def test_l54_a_schema_refused_in_other_words_is_left_out(store, text):
    do = {"body": [{"error": {"code": 400, "message": text}}], "status": 400}
    outcome, _ = outcome_of([{"when": {"mode": "json_schema"}, "do": do}], range(16), store)

    assert (len(outcome.good()), outcome.report["mode"]) == (16, "json_object")


DELTA = '{"choices": [{"index": 0, "delta": {"content": "{\\"instr"}, "finish_reason": null}]}'


@pytest.mark.parametrize(
    "body",
    [f"data: {DELTA}\n\n", f": wait\r\n\r\ndata: {DELTA}\r\n\r\n", f"event: message\ndata: {DELTA}"],
    ids=["data", "comment first", "event first"],
)  # fmt: skip
def test_l56_an_event_stream_that_nobody_asked_for_is_said(store, body):
    outcome, stats = outcome_of(always(body=body), range(40), store)

    assert (outcome.exit_code, outcome.failed(), stats["requests"]) == (6, {}, 5)
    assert "not JSON from the endpoint" in outcome.said
    assert "delta" in outcome.said


def test_l55_a_400_for_what_the_model_wrote_fails_nothing(store):
    slip = {"message": "Failed to generate JSON. See 'failed_generation'", "code": "json_validate_failed"}
    script = [{"when": {"every": 2}, "do": {"status": 400, "error": slip}}]
    outcome, _ = outcome_of(script, range(32), store)

    assert (len(outcome.good()), outcome.failed()) == (32, {})


def test_l41_a_field_of_the_params_is_never_dropped_in_silence(store):
    recipe = {"request_extra": '{"reasoning_effort": "low"}'}
    outcome, _ = outcome_of([], EIGHT, store, options={"refuse_fields": ["reasoning_effort"]}, recipe=recipe)

    assert outcome.error == "ParamsError"
    assert "reasoning_effort" in outcome.said


ZERO = {"prompt_tokens": 0, "completion_tokens": 0}
USAGES = [
    "missing",
    None,
    {},
    ZERO,
    {"prompt_tokens": -5, "completion_tokens": 1},
    {"prompt_tokens": "9"},
    [1],
]


@pytest.mark.parametrize("usage", USAGES, ids=str)
def test_l42_unbelievable_usage_makes_the_cost_unknown(store, usage):
    outcome, _ = outcome_of([{"when": {"request": 1}, "do": {"usage": usage}}], range(16), store)

    assert len(outcome.good()) == 16
    assert outcome.report["cost_usd"] is None
    assert outcome.answers[0]["cost_usd"] is None
    assert outcome.answers[15]["cost_usd"] > 0


def test_l43_the_model_that_answered_is_recorded(store):
    outcome, _ = outcome_of(always(model="other-7"), EIGHT, store)

    assert outcome.report["models"] == {"other-7": 1}
    assert outcome.answers[0]["model"] == "other-7"


@pytest.mark.parametrize(("name", "told"), [("other-7", True), ("scripted-2026-01-01", False)])
def test_l43_a_run_records_the_model_that_answered_and_warns_of_another(tmp_path, name, told):
    with scripted.serve(script=always(model=name)) as server:
        bench = make_bench(tmp_path, server)
        bench.publish()

    assert bench.out.read()["asked"]["instructions"]["models"] == {name: 3}
    assert any(name in line for line in bench.out.read().get("notes", [])) == told


def test_l44_a_key_echoed_by_the_server_goes_nowhere(store, tmp_path):
    outcome, _ = outcome_of(always(echo_key=True), EIGHT, store, api_key=CANARY)

    assert "CANARY" not in f"{outcome.said} {outcome.report}"
    assert not any(b"CANARY" in file.read_bytes() for file in tmp_path.iterdir())


def test_l44_a_key_inside_an_answer_is_not_stored(store, tmp_path):
    with scripted.serve(script=[{"when": {"doc": 3}, "do": {"instruction": f"Use {CANARY}"}}]) as server:
        outcome = ask_documents(EIGHT, server.base_url, store, api_key=CANARY)

    assert outcome.answers[3]["values"] == ("Use [key]",)
    assert not any(b"CANARY" in file.read_bytes() for file in tmp_path.iterdir())


def test_l45_an_answer_that_quotes_the_frame_is_asked_again(store):
    script = [{"when": {"doc": 3, "attempt": 1}, "do": {"leak": "boundary"}}]
    outcome, stats = outcome_of(script, EIGHT, store)

    assert len(outcome.good()) == 8
    assert stats["requests"] == 2


def test_l45_one_that_always_quotes_it_is_failed(store):
    outcome, _ = outcome_of([{"when": {"doc": 3}, "do": {"leak": "boundary"}}], EIGHT, store)

    assert outcome.failed() == {3: "boundary"}


def test_l46_a_key_revoked_at_half_costs_nothing_twice(store):
    with scripted.serve(
        script=[{"when": {"key": "old", "request": {"from": 11, "to": 999}}, "do": {"status": 401}}]
    ) as server:
        first = ask_documents(range(160), server.base_url, store, api_key="old")
        second = ask_documents(range(160), server.base_url, store, api_key="new")
        stats = server.stats()

    assert first.error == "KeyRejected"
    assert len(first.good()) == 80
    assert len(second.good()) == 160
    assert stats["paid_twice"] == 0


@pytest.mark.parametrize(
    "changed", [{"temperature": 0.1}, {"k": 2}, {"language": "en"}, {"request_extra": '{"seed": 1}'}], ids=str
)
def test_l47_another_recipe_is_another_question(changed):
    here, other = "http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"
    key = answer_key(1, here)

    assert answer_key(1, here) == key
    assert answer_key(1, here, **changed) != key
    assert answer_key(1, other) != key


def test_l48_proxy_variables_are_shown_and_not_used(bench):
    environ = {"HTTP_PROXY": "http://me:pw@127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}

    done = bench.run("--only", "3", environ=environ)

    assert done.returncode == 0
    assert "HTTP_PROXY, HTTPS_PROXY set, but not used" in done.stdout
    assert "me:pw" not in done.stdout
    assert bench.server.stats()["requests"] == 3


def passage(number):
    """Give a text of 150 words that names itself and shares none with any other."""
    more = (document(1_000 * n + number).split(" ", 1)[1] for n in range(1, 12))
    return " ".join([document(number), *more])


def ask_luna(store, *, thinks, model="gpt-6-luna", effort="", **options):
    """Ask about 320 passages in batches of 8, as many at once as a run does."""
    with scripted.serve(thinks=thinks, refuse_fields=["max_tokens"], refuse_warmth=True, **options) as server:
        outcome = ask_documents(
            range(320),
            server.base_url,
            store,
            model=model,
            recipe={"request_extra": f'{{"reasoning_effort": "{effort}"}}'} if effort else {},
            text=passage,
            concurrency=64,
            price=(0.1, 0.5),
        )
        return outcome, server.stats()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("median", [700, 1_500])
@pytest.mark.parametrize(
    ("model", "effort"), [("gpt-6-luna", "medium"), ("thinker", "")], ids=["asked to", "by itself"]
)
def test_l50_a_model_that_thinks_is_given_room_once(store, model, effort, median, seed):
    outcome, stats = ask_luna(store, thinks=median, model=model, effort=effort, seed=seed)

    assert (len(outcome.good()), outcome.failed(), outcome.wrong()) == (320, {}, [])
    assert stats["by_status"]["200"] <= 44
    assert stats["by_status"]["400"] <= 2
    assert outcome.report["reasoning_tokens"] > 20_000


@pytest.mark.parametrize("tells", [["message"], []], ids=["thoughts shown", "nothing told"])
def test_l50_hidden_tokens_are_known_without_being_counted(store, tells):
    outcome, stats = ask_luna(store, thinks=1_500, model="thinker", tells=tells)

    assert (len(outcome.good()), outcome.failed()) == (320, {})
    assert stats["by_status"]["200"] <= 44
    assert outcome.report["reasoning_tokens"] > 20_000


def test_l50_the_usual_model_is_not_asked_to_think(tmp_path):
    usual, stats = ask_luna(tmp_path / "one.sqlite", thinks=1_500)
    plain, _ = ask_luna(tmp_path / "other.sqlite", thinks=0)

    tokens = [run.report["prompt_tokens"] + run.report["completion_tokens"] for run in (usual, plain)]
    assert (len(usual.good()), stats["by_status"]) == (320, {"200": 40})
    assert usual.report["reasoning_tokens"] == 0
    assert tokens[0] <= 1.05 * tokens[1]


def test_l50_what_one_call_learnt_the_next_begins_with(store):
    with scripted.serve(thinks=1_500, keep_bodies=True) as server:
        ask_documents(range(8), server.base_url, store)
        first = server.stats()["requests"]
        again = ask_documents(range(8, 16), server.base_url, store)
        limits = [call["body"]["max_tokens"] for call in server.bodies()]

    assert (first, len(again.good()), again.report["requests"]) == (2, 8, 1)
    assert limits[2] == limits[0] + 8_192


def test_l50_a_limit_that_is_refused_as_too_high_is_lowered(store):
    with scripted.serve(thinks=1_500, most_tokens=4_096, keep_bodies=True) as server:
        outcome = ask_documents(range(64), server.base_url, store)
        stats = server.stats()

    assert (len(outcome.good()), outcome.failed()) == (64, {})
    assert stats["by_status"]["200"] <= 12


@pytest.mark.parametrize("size", [1, 8])
def test_l50_a_model_that_never_stops_to_think_ends_the_run_and_fails_nothing_for_good(store, size):
    with scripted.serve(thinks=10**9, keep_bodies=True) as server:
        outcome = ask_documents(range(size), server.base_url, store)
        limits = [call["body"]["max_tokens"] for call in server.bodies()]

    assert (outcome.failed(), outcome.exit_code) == ({}, 6)
    assert max(limits) < 70_000
    assert len(limits) <= 12


def test_l50_a_limit_of_the_params_is_never_raised(store):
    with scripted.serve(thinks=1_500, thinks_sigma=0.0, keep_bodies=True) as server:
        outcome = ask_documents(range(1), server.base_url, store, recipe={"max_output_tokens": 300})
        limits = {call["body"]["max_tokens"] for call in server.bodies()}

    assert (outcome.failed(), outcome.exit_code, limits) == ({}, 6, {300})


def test_l50_money_holds_with_hidden_tokens_and_the_raised_limit(store):
    with scripted.serve(thinks=1_500) as server:
        outcome = ask_documents(
            range(320), server.base_url, store, price=(1.0, 10.0), max_cost_usd=0.5, concurrency=64
        )

    assert outcome.error == "BudgetReached"
    assert 0.2 < outcome.report["cost_usd"] <= 0.5


def test_l50_hidden_tokens_are_stored_and_shown(tmp_path):
    with scripted.serve(thinks=700) as server:
        bench = make_bench(tmp_path, server)
        with Study(bench.study(request_extra={"reasoning_effort": "medium"})) as study:
            report = study.ask()
            totals = study.publish()
        with sqlite3.connect(bench.folder / "answers.sqlite") as db:
            (stored,) = db.execute("SELECT sum(reasoning_tokens) FROM requests").fetchone()

    assert 500 < stored == report["reasoning_tokens"] < report["completion_tokens"]
    assert report["shown"]["reasoning tokens"] == f"{stored:,}"
    assert bench.out.read()["asked"]["instructions"]["reasoning_tokens"] == stored
    assert bench.out.read()["totals"]["reasoning_tokens"] == totals["reasoning_tokens"] == stored


SHUTDOWNS = [
    (1_799_884_800, "2027-01-14"),
    ("1799884800", "2027-01-14"),
    ("2027-01-14", "2027-01-14"),
    ("2027-01-14T00:00:00Z", "2027-01-14"),
    (None, ""),
    ("soon", ""),
    ({"year": 2027}, ""),
    (10**30, ""),
    (True, ""),
]


@pytest.mark.parametrize(("told", "day"), SHUTDOWNS, ids=str)
def test_l62_a_model_about_to_be_shut_down_is_named_with_its_day(tmp_path, told, day):
    with scripted.serve(models=("old-1", "new-2"), shutdown_dates={"old-1": told}) as server:
        bench = make_bench(tmp_path, server, documents=1)
        params = bench.write_params(model="new-2", judge_model="old-1")
        code, output, errors = product.command("run", params, "--dry-run", "--out", bench.out.path)

    line = f"About to be shut down by {server.base_url}: old-1 on {day}; name another model in time"
    assert code == 0, errors
    assert [said for said in output.splitlines() if "shut down" in said] == ([line] if day else [])


@pytest.mark.parametrize("more", [["--dry-run"], ["--only", "3"]], ids=["dry run", "run"])
def test_l62_a_run_says_it_before_anything_is_sent(tmp_path, more):
    with scripted.serve(models=("old-1",), shutdown_dates={"old-1": "2027-01-14"}) as server:
        bench = make_bench(tmp_path, server)
        done = bench.run(*more, model="old-1")

    lines = [line for line in done.stdout.splitlines() if "shut down" in line]
    assert done.returncode == 0
    assert len(lines) == 1
    assert "old-1 on 2027-01-14" in lines[0]
