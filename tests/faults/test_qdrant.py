"""FAULTS.md, Qdrant: Q01 to Q15, on the real client over loopback and on the real embedded engine."""

import gzip
import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import endpoint as scripted
from documents import busy, document
from product import Failed, Study, read_contents
from qdrant_server import Fault, qdrant_server
from running import findings_of, load, make_bench, start_python


def put(server, count: int, **payload) -> None:
    server.put((n, {"cleaned_content": f"DOC-{n}", **payload}) for n in range(count))


def texts(server, *, page_size: int = 3) -> list[str]:
    return [content["text"] for content in read_contents(server.url, page_size=page_size, seconds=3)]


def refusal(address: str, **options) -> tuple[int, str]:
    """Fail to read, and give the exit code that a command ends with, and what it says."""
    with pytest.raises(Failed) as failed:
        list(read_contents(address, **options))
    return failed.value.exit_code, str(failed.value)


def test_q01_a_server_that_is_down_is_named_within_fifteen_seconds():
    started = time.monotonic()

    code, message = refusal("http://127.0.0.1:1")

    assert time.monotonic() - started < busy(15)
    assert code == 4
    assert re.search(r"127\.0\.0\.1:1 .* 3 tries", message)


def test_q01_a_server_that_never_answers_is_left():
    with qdrant_server() as server:
        server.faults = [Fault("collections", times=9, seconds=1.5, hang_up=True)]

        code, message = refusal(server.url, seconds=0.6)

    assert code == 4
    assert "did not answer" in message


def test_q02_a_missing_collection_lists_near_names():
    with qdrant_server() as server:
        server.engine.create_collection("cleaned_post", vectors_config={})

        code, message = refusal(server.url)

    assert code == 4
    assert "mean cleaned_post" in message


@pytest.mark.parametrize("status", [401, 403])
def test_q03_a_refused_key_is_asked_once_named_and_not_shown(status):
    with qdrant_server() as server:
        server.faults = [Fault("", status, {"status": {"error": "bad key qd-CANARY"}}, times=9)]

        code, message = refusal(server.url, api_key="qd-CANARY")

    assert code == 3
    assert "QDRANT_API_KEY" in message
    assert "CANARY" not in message
    assert [seen.api_key for seen in server.requests] == ["qd-CANARY"]


def test_q03_an_echoed_key_is_taken_out_of_the_message():
    with qdrant_server() as server:
        put(server, 1)
        server.faults = [Fault("scroll", 400, {"status": {"error": "your key qd-CANARY is odd"}})]

        code, message = refusal(server.url, api_key="qd-CANARY")

    assert code == 4
    assert re.search(r"your key .key. is odd", message)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("scroll", 429, {}, after=6),
        Fault("scroll", 429, {}, after=6, headers={"Retry-After": "0"}),
        Fault("scroll", 503, {}, after=6),
        Fault("scroll", after=6, hang_up=True),
        Fault("scroll", after=6, seconds=1.2, hang_up=True),
    ],
    ids=["429", "retry-after", "503", "reset", "timeout"],
)
def test_q04_page_seven_is_asked_again_and_no_page_comes_twice(fault):
    with qdrant_server() as server:
        put(server, 30)
        server.faults = [fault]

        found = texts(server)

        assert found == [f"DOC-{n}" for n in range(30)]
        assert len(server.scrolls()) == 11


def test_q04_a_page_that_never_comes_ends_after_three_tries():
    with qdrant_server() as server:
        put(server, 9)
        server.faults = [Fault("scroll", 503, {}, after=1, times=99)]

        code, message = refusal(server.url, page_size=3, seconds=3)

        assert code == 4
        assert re.search(r"3 tries .HTTP 503", message)
        assert len(server.scrolls()) == 4


def test_q05_a_repeating_offset_ends_the_reading():
    page = {
        "result": {"points": [{"id": 1, "payload": {"content": "a"}}], "next_page_offset": 1},
        "status": "ok",
    }
    with qdrant_server() as server:
        put(server, 1)
        server.faults = [Fault("scroll", 200, page, times=10**6)]

        code, message = refusal(server.url)

        assert code == 4
        assert "page offset 1 twice" in message
        assert len(server.scrolls()) == 2


def test_q06_each_unusable_payload_has_its_reason():
    payloads = [
        None,
        {},
        {"type": "posts"},
        *({"cleaned_content": value} for value in (None, 7, ["a"], "", " \n\u200b")),
    ]
    points = [{"id": n, "payload": payload} for n, payload in enumerate(payloads)]
    with qdrant_server() as server:
        put(server, 1)
        server.faults = [Fault("scroll", 200, {"result": {"points": points}, "status": "ok"})]

        found = list(read_contents(server.url))

    assert [content["reason"] for content in found] == [
        "no_payload", "no_payload", "no_text", "no_text", "not_text", "not_text", "blank", "blank",
    ]  # fmt: skip


def test_q07_a_point_that_comes_twice_is_one_content():
    first = {
        "result": {"points": [{"id": 1, "payload": {"content": "a"}}] * 2, "next_page_offset": 2},
        "status": "ok",
    }
    second = {"result": {"points": [{"id": n, "payload": {"content": "a"}} for n in (1, 2)]}, "status": "ok"}
    with qdrant_server() as server:
        put(server, 1)
        server.faults = [Fault("scroll", 200, first), Fault("scroll", 200, second)]

        found = [content["id"] for content in read_contents(server.url)]

    assert found == ["1", "2"]


def test_q08_more_than_ten_thousand_points_are_all_read(tmp_path):
    rows = ({"id": n, "content": f"DOC-{n}"} for n in range(10_001))
    load(tmp_path / "qdrant", rows, file=tmp_path / "rows.jsonl")

    found = [content["text"] for content in read_contents(tmp_path / "qdrant")]

    assert len(found) == len(set(found)) == 10_001


READING = """
import resource, sys
from product import read_contents
count = sum(1 for content in read_contents(sys.argv[1]))
print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_q09_reading_a_hundred_thousand_takes_no_more_memory_than_ten_thousand(tmp_path):
    """No more than one table of the texts that are more: their bytes half again, and 1 kB a row."""
    peaks, counts = [], (10_000, 100_000)
    for count in counts:
        folder = tmp_path / str(count)
        rows = ({"id": n, "content": f"{n:09} " * 200} for n in range(count))
        load(folder, rows, file=tmp_path / "rows.jsonl")
        reading = start_python(READING, folder, stdout=subprocess.PIPE, text=True)
        read, peak_kib = map(int, reading.communicate()[0].split())
        assert (read, reading.returncode) == (count, 0)
        peaks.append(peak_kib * 1024)

    assert peaks[1] - peaks[0] < (counts[1] - counts[0]) * (1.5 * 2000 + 1000)


def test_q10_a_lower_id_added_behind_the_cursor_is_not_seen_and_the_count_tells():
    with qdrant_server() as server:
        server.put((n, {"content": f"DOC-{n}"}) for n in range(10, 20))

        def write_late(seen):
            if len(server.scrolls()) == 2:
                server.put([(1, {"content": "late"})])

        server.before_answer = write_late
        found = texts(server)

        assert found == [f"DOC-{n}" for n in range(10, 20)]
        assert server.engine.count("cleaned_posts").count == 11


def test_q10_a_run_goes_on_and_says_what_the_collection_held_before_and_after(tmp_path):
    with scripted.serve() as server, qdrant_server() as qdrant:
        bench = make_bench(tmp_path, server, documents=1)
        qdrant.put((n, {"content": document(n)}) for n in range(8))

        def write_late(seen):
            if seen.path.endswith("/count") and qdrant.scrolls():
                qdrant.put([(99, {"content": "DOC-99 came late."})])

        qdrant.before_answer = write_late
        with Study(bench.study(qdrant=qdrant.url)) as study:
            study.publish()

    told = bench.out.read()
    assert (told["source_changed"], told["source_counts"]) == (True, {"cleaned_posts": [8, 9]})
    assert findings_of(bench.out.path) == []


def test_q11_a_break_half_way_goes_on_from_its_offset():
    with qdrant_server() as server:
        put(server, 12)
        server.faults = [Fault("scroll", after=2, hang_up=True)]

        texts(server)

        assert [seen.body.get("offset") for seen in server.scrolls()] == [None, 3, 6, 6, 9]


def test_q12_only_needed_fields_are_asked_for_and_no_vectors():
    with qdrant_server() as server:
        put(server, 2, **{f"field_{n}": "x" for n in range(50)})

        texts(server)

        asked = server.scrolls()[0].body
        assert set(asked["with_payload"]) == {
            "cleaned_content", "content", "author_id", "owner_id", "author_full_name", "link", "name",
            "platform", "type", "title", "published",
        }  # fmt: skip
        assert asked["with_vector"] is False


def test_q12_long_texts_make_pages_smaller():
    with qdrant_server() as server:
        put(server, 40, content="x")
        server.put((n, {"cleaned_content": "x" * 1_000_000}) for n in range(20))

        assert len(texts(server, page_size=10)) == 40

        assert min(seen.body["limit"] for seen in server.scrolls()) < 10


def test_q13_mixed_ids_keep_one_order_in_both_engines(tmp_path):
    points = [
        {"id": f"{n:08x}-0000-0000-0000-000000000000" if n % 3 else n, "content": str(n)}
        for n in range(60, 0, -1)
    ]
    orders = []
    with qdrant_server() as server:
        for address in (server.url, tmp_path / "qdrant"):
            load(address, points, file=tmp_path / "points.jsonl")
            orders.append([content["id"] for content in read_contents(address, page_size=7)])

    assert orders[0] == orders[1]
    assert len(orders[0]) == 60


def lead_to(url: str, monkeypatch) -> int:
    """Let every name and address lead to a server on loopback, and give its port."""
    place = (urlsplit(url).hostname, urlsplit(url).port)
    connect = socket.create_connection
    monkeypatch.setattr(
        socket, "create_connection", lambda _, *given, **named: connect(place, *given, **named)
    )
    return place[1]


@pytest.mark.parametrize("url", ["http://qdrant.example.org", "http://10.0.0.7", "http://[2001:db8::1]"])
def test_q14_a_key_never_travels_in_clear_to_another_host(url, monkeypatch):
    with qdrant_server() as server:
        put(server, 1)
        port = lead_to(server.url, monkeypatch)

        found = list(read_contents(f"{url}:{port}", api_key="qd-CANARY"))

        assert len(found) == 1
        assert {seen.api_key for seen in server.requests} == {""}


def test_q14_a_server_that_wants_a_key_and_may_not_get_it_is_named(monkeypatch):
    with qdrant_server() as server:
        port = lead_to(server.url, monkeypatch)
        server.api_key = "qd-CANARY"

        code, message = refusal(f"http://10.0.0.7:{port}", api_key="qd-CANARY")

    assert code == 3
    assert re.search(r"wants a key, and none was sent .* over https", message)
    assert "CANARY" not in message


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_q14_a_key_may_go_to_this_machine(host, monkeypatch):
    with qdrant_server() as server:
        put(server, 1)
        port = lead_to(server.url, monkeypatch)

        assert list(read_contents(f"http://{host}:{port}", api_key="qd-CANARY"))

        assert {seen.api_key for seen in server.requests} == {"qd-CANARY"}


def test_q14_a_key_may_go_over_tls(monkeypatch):
    """It is asked, by its name, and fails for its certificate alone."""
    with qdrant_server() as server:
        port = lead_to(server.url, monkeypatch)

        code, message = refusal(f"https://qdrant.example.org:{port}", api_key="qd-CANARY", seconds=3)

    assert code == 4
    assert f"qdrant.example.org:{port} did not answer usefully" in message


def test_q15_unknown_fields_and_missing_ones_are_tolerated():
    with qdrant_server() as server:
        put(server, 4)
        server.extra = {"version": 3, "shard_key": None, "order_value": None, "from_the_future": {"a": [1]}}

        assert texts(server) == [f"DOC-{n}" for n in range(4)]


@pytest.mark.parametrize(
    "body",
    [b"<html>proxy login</html>", b"", b'{"result": 7}', b'"x"'],
    ids=["html", "empty", "number", "text"],
)
def test_q15_an_answer_that_is_not_qdrants_is_said_so(body):
    with qdrant_server() as server:
        server.faults = [Fault("collections", 200, body, times=9)]

        code, message = refusal(server.url)

    assert code == 4
    assert server.url.removeprefix("http://") in message


def test_a_redirect_is_not_followed_with_the_key():
    with qdrant_server() as other, qdrant_server() as server:
        server.faults = [Fault("", 307, {}, headers={"Location": other.url + "/collections"})]

        code, message = refusal(server.url, api_key="qd-CANARY")

        assert code == 4
        assert "HTTP 307" in message
        assert other.requests == []


def loaded_by_command(folder: Path, file: str, *, before: str = "", **given) -> subprocess.CompletedProcess:
    """Load by the command, in a shell where something stands before it."""
    command = (
        f"{sys.executable} -m llmtwin_data.cli load {file} --collection cleaned_posts --qdrant {folder}/q"
    )
    return subprocess.run(
        ["bash", "-c", before + command], capture_output=True, text=True, timeout=60, cwd=folder, **given
    )


def texts_in(folder: Path) -> list[str]:
    return sorted(content["text"] for content in read_contents(folder / "q"))


UUID = "6f1c5a58-5d0b-5a0e-9d0c-1b8f4f3f6a0d"


@pytest.mark.parametrize(
    "ids",
    [
        (7, 7),
        (7, "7"),
        ("007", 7),
        (UUID, UUID.upper()),
        (UUID, f"{{{UUID}}}"),
        (UUID, f"urn:uuid:{UUID}"),
        (UUID, UUID.replace("-", "")),
    ],
    ids=str,
)
def test_q20_two_texts_under_one_id_are_refused_and_their_lines_named(tmp_path, ids):
    rows = [
        {"id": ids[0], "content": "one"}, {"content": "two"},
        {"id": ids[1], "content": "three"}, {"id": ids[1], "cleaned_content": "four"},
    ]  # fmt: skip
    (tmp_path / "posts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    done = loaded_by_command(tmp_path, "posts.jsonl")

    assert (done.returncode, done.stdout) == (4, "")
    assert "line 3 has the id of line 1 but another text; line 4 has the id of line 1" in done.stderr
    assert not (tmp_path / "q").exists()


def test_q20_one_text_twice_under_one_id_is_one_content(tmp_path):
    rows = [{"id": 7, "content": "one"}, {"id": "7", "content": "one"}, {"id": 8, "content": "one"}]
    (tmp_path / "posts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    done = loaded_by_command(tmp_path, "posts.jsonl")

    assert (done.returncode, done.stdout.split(" into ")[0]) == (0, "Loaded 2 lines")
    assert texts_in(tmp_path) == ["one", "one"]


def test_q20_of_many_clashes_some_are_named_and_all_counted(tmp_path):
    (tmp_path / "posts.jsonl").write_text("".join(f'{{"id": 1, "content": "{n}"}}\n' for n in range(101)))

    done = loaded_by_command(tmp_path, "posts.jsonl")

    assert done.returncode == 4
    assert "line 6 has the id of line 1 but another text and 95 more" in done.stderr


@pytest.mark.parametrize(
    ("before", "file"),
    [
        ("", "<(zcat posts.jsonl.gz)"),
        ("zcat posts.jsonl.gz | ", "/dev/stdin"),
        ("mkfifo pipe; (zcat posts.jsonl.gz > pipe) & ", "pipe"),
        ("zcat posts.jsonl.gz > posts.jsonl; ", "/dev/stdin < posts.jsonl"),
    ],
    ids=["process substitution", "stdin", "fifo", "stdin from a file"],
)
def test_q21_what_comes_from_a_pipe_is_loaded_whole(tmp_path, before, file):
    found = [f"text {n} " + "x" * 200 for n in range(1000)]
    lines = "".join(json.dumps({"id": n, "content": text}) + "\n" for n, text in enumerate(found))
    (tmp_path / "posts.jsonl.gz").write_bytes(gzip.compress(lines.encode()))

    done = loaded_by_command(tmp_path, file, before=before)

    assert (done.returncode, done.stdout.split(" into ")[0]) == (0, "Loaded 1,000 lines")
    assert texts_in(tmp_path) == sorted(found)


def test_q21_a_bad_line_from_a_pipe_is_named_and_nothing_is_loaded(tmp_path):
    done = loaded_by_command(tmp_path, "/dev/stdin", input='{"content": "one"}\n{"content": "tw')

    assert done.returncode == 4
    assert "line 2" in done.stderr
    assert not (tmp_path / "q").exists()


@pytest.mark.parametrize("text", ["", "\n \n\r\n", "\ufeff"], ids=["empty", "blank lines", "only a mark"])
@pytest.mark.parametrize("file", ["posts.jsonl", "<(cat posts.jsonl)"], ids=["file", "pipe"])
def test_q21_nothing_to_load_is_said_and_never_ends_with_0(tmp_path, file, text):
    (tmp_path / "posts.jsonl").write_text(text)

    done = loaded_by_command(tmp_path, file)

    assert (done.returncode, done.stdout) == (4, "")
    assert "nothing to load" in done.stderr
    assert not (tmp_path / "q").exists()
