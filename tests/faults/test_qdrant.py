"""FAULTS.md, Qdrant: Q01 to Q15, on the real client over loopback and on the real embedded engine."""

import gzip
import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import endpoint as scripted
from asking import busy
from qdrant_server import Fault, qdrant_server
from running import make_bench

from llmtwin_data.contents import Skipped, read_contents
from llmtwin_data.datasets.checks import check_run
from llmtwin_data.errors import KeyRejected, SourceError
from llmtwin_data.generator import DatasetGenerator
from llmtwin_data.sources import open_source
from llmtwin_data.sources.servers import ServerPatience, ServerSource
from llmtwin_data.sources.shards import EmbeddedSource

QUICK = ServerPatience(first_seconds=3, later_seconds=3, pause_seconds=0.01)


class Growing(EmbeddedSource):
    """A folder into which another program writes while it is read."""

    def scroll(self, *given, **named):
        page = super().scroll(*given, **named)
        self.write("cleaned_posts", [(99, {"content": "DOC-99 came late."})])
        return page


def put(server, count: int, **payload) -> None:
    with open_source(server.url) as source:
        source.write("cleaned_posts", ((n, {"cleaned_content": f"DOC-{n}", **payload}) for n in range(count)))
    server.requests.clear()


def texts(server, *, page_size: int = 3) -> list[str]:
    with ServerSource(server.url, patience=QUICK) as source:
        return [content.text for content in read_contents(source, "cleaned_posts", page_size=page_size)]


def test_q01_a_server_that_is_down_is_named_within_fifteen_seconds():
    started = time.monotonic()

    with (
        open_source("http://127.0.0.1:1") as source,
        pytest.raises(SourceError, match=r"127\.0\.0\.1:1 .* 3 tries") as down,
    ):
        source.collections()

    assert time.monotonic() - started < busy(15)
    assert down.value.exit_code == 4


def test_q01_a_server_that_never_answers_is_left():
    with qdrant_server() as server:
        server.faults = [Fault("collections", times=9, seconds=1.5, hang_up=True)]
        patience = ServerPatience(first_seconds=0.6, pause_seconds=0.01)

        with (
            ServerSource(server.url, patience=patience) as source,
            pytest.raises(SourceError, match="did not answer"),
        ):
            source.collections()


def test_q02_a_missing_collection_lists_near_names():
    with qdrant_server() as server:
        put(server, 1)

        with (
            open_source(server.url) as source,
            pytest.raises(SourceError, match="mean cleaned_posts") as missing,
        ):
            list(read_contents(source, "cleaned_post"))

    assert missing.value.exit_code == 4


@pytest.mark.parametrize("status", [401, 403])
def test_q03_a_refused_key_is_asked_once_named_and_not_shown(status):
    with qdrant_server() as server, open_source(server.url, api_key="qd-CANARY") as source:
        server.faults = [Fault("count", status, {"status": {"error": "bad key qd-CANARY"}}, times=9)]

        with pytest.raises(KeyRejected, match="QDRANT_API_KEY") as refused:
            source.count("cleaned_posts")

        assert "CANARY" not in str(refused.value)
        assert refused.value.exit_code == 3
        assert [seen.api_key for seen in server.requests] == ["qd-CANARY"]


def test_q03_an_echoed_key_is_taken_out_of_the_message():
    with qdrant_server() as server, open_source(server.url, api_key="qd-CANARY") as source:
        server.faults = [Fault("count", 400, {"status": {"error": "your key qd-CANARY is odd"}})]

        with pytest.raises(SourceError, match=r"your key .key. is odd"):
            source.count("cleaned_posts")


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

        with pytest.raises(SourceError, match=r"3 tries .HTTP 503"):
            texts(server)

        assert len(server.scrolls()) == 4


def test_q05_a_repeating_offset_ends_the_reading():
    page = {
        "result": {"points": [{"id": 1, "payload": {"content": "a"}}], "next_page_offset": 1},
        "status": "ok",
    }
    with qdrant_server() as server:
        put(server, 1)
        server.faults = [Fault("scroll", 200, page, times=10**6)]

        with pytest.raises(SourceError, match="page offset 1 twice"):
            texts(server)

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

        with open_source(server.url) as source:
            found = list(read_contents(source, "cleaned_posts"))

    assert all(isinstance(content, Skipped) for content in found)
    assert [content.reason for content in found] == [
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

        with open_source(server.url) as source:
            found = [
                content.content_id if isinstance(content, Skipped) else content.id
                for content in read_contents(source, "cleaned_posts")
            ]

    assert found == ["1", "2"]


def test_q08_more_than_ten_thousand_points_are_all_read(tmp_path):
    with open_source(str(tmp_path)) as source:
        source.write("cleaned_posts", ((n, {"content": f"DOC-{n}"}) for n in range(10_001)))

        found = [content.text for content in read_contents(source, "cleaned_posts")]

        assert len(set(found)) == source.count("cleaned_posts") == 10_001


MEMORY = """
import resource, sys
from llmtwin_data.contents import read_contents
from llmtwin_data.sources import open_source
with open_source(sys.argv[1]) as source:
    count = sum(1 for content in read_contents(source, "cleaned_posts"))
print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_q09_reading_a_hundred_thousand_takes_no_more_memory_than_ten_thousand(tmp_path):
    peaks = []
    for count in (10_000, 100_000):
        folder = tmp_path / str(count)
        with open_source(str(folder)) as source:
            source.write("cleaned_posts", ((n, {"content": f"{n:09} " * 200}) for n in range(count)))
        run = [sys.executable, "-c", MEMORY, str(folder)]
        read, peak_kib = map(
            int, subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()
        )
        assert read == count
        peaks.append(peak_kib / 1024)

    assert peaks[1] - peaks[0] < 100


def test_q10_a_lower_id_added_behind_the_cursor_is_not_seen_and_the_count_tells():
    with qdrant_server() as server, open_source(server.url) as source:
        source.write("cleaned_posts", [(n, {"content": f"DOC-{n}"}) for n in range(10, 20)])
        before = source.count("cleaned_posts")
        reading = read_contents(source, "cleaned_posts", page_size=3)
        found = [next(reading)]
        source.write("cleaned_posts", [(1, {"content": "late"})])

        found += list(reading)

        assert "late" not in [content.text for content in found]
        assert (before, len(found), source.count("cleaned_posts")) == (10, 10, 11)


def test_q10_a_run_goes_on_and_says_what_the_collection_held_before_and_after(tmp_path):
    with scripted.serve() as server:
        bench = make_bench(tmp_path, server, documents=8)
        settings = bench.settings()
        opened = {"open_source": lambda address, **_: Growing(Path(address))}
        with DatasetGenerator(settings, environ={}, **opened) as generator:
            generator.publish()

    told = bench.out.read()
    assert (told["source_changed"], told["source_counts"]) == (True, {"cleaned_posts": [8, 9]})
    assert list(check_run(bench.out.path)) == []


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
            "platform", "type",
        }  # fmt: skip
        assert asked["with_vector"] is False


def test_q12_long_texts_make_pages_smaller():
    with qdrant_server() as server:
        put(server, 40, content="x")
        with open_source(server.url) as source:
            source.write("cleaned_posts", [(n, {"cleaned_content": "x" * 1_000_000}) for n in range(20)])
        server.requests.clear()

        assert len(texts(server, page_size=10)) == 40

        assert min(seen.body["limit"] for seen in server.scrolls()) < 10


def test_q13_mixed_ids_keep_one_order_in_both_engines(tmp_path):
    points = [
        (f"{n:08x}-0000-0000-0000-000000000000" if n % 3 else n, {"content": str(n)})
        for n in range(60, 0, -1)
    ]
    orders = []
    with qdrant_server() as server:
        for address in (server.url, str(tmp_path)):
            with open_source(address) as source:
                source.write("cleaned_posts", points)
                orders.append([content.id for content in read_contents(source, "cleaned_posts", page_size=7)])

    assert orders[0] == orders[1]
    assert len(orders[0]) == 60


@pytest.mark.parametrize(
    "url", ["http://qdrant.example.org:6333", "http://10.0.0.7", "http://[2001:db8::1]:6333"]
)
def test_q14_a_key_never_travels_in_clear_to_another_host(url, monkeypatch):
    with qdrant_server() as server:
        _lead_to(server.url, monkeypatch)
        with open_source(
            f"{url.removesuffix(':6333')}:{urlsplit(server.url).port}", api_key="qd-CANARY"
        ) as source:
            source.collections()

        assert [seen.api_key for seen in server.requests] == [""]


def test_q14_a_server_that_wants_a_key_and_may_not_get_it_is_named(monkeypatch):
    with qdrant_server() as server:
        _lead_to(server.url, monkeypatch)
        server.api_key = "qd-CANARY"

        with (
            open_source(f"http://10.0.0.7:{urlsplit(server.url).port}", api_key="qd-CANARY") as source,
            pytest.raises(KeyRejected, match=r"wants a key, and none was sent .* over https") as refused,
        ):
            source.collections()

    assert "CANARY" not in str(refused.value)


def _lead_to(url: str, monkeypatch) -> None:
    """Let every name and address lead to a server on loopback."""
    place = (urlsplit(url).hostname, urlsplit(url).port)
    connect = socket.create_connection
    monkeypatch.setattr(
        socket, "create_connection", lambda _, *given, **named: connect(place, *given, **named)
    )


@pytest.mark.parametrize(
    "url", ["http://localhost:6333", "http://127.0.0.1:6333", "https://qdrant.example.org"]
)
def test_q14_a_key_may_go_to_this_machine_and_over_tls(url):
    with open_source(url, api_key="qd-CANARY") as source:
        assert source.address.startswith(url)


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
    with qdrant_server() as server, open_source(server.url) as source:
        server.faults = [Fault("collections", 200, body, times=9)]

        with pytest.raises(SourceError):
            source.collections()


def test_a_redirect_is_not_followed_with_the_key():
    with (
        qdrant_server() as other,
        qdrant_server() as server,
        open_source(server.url, api_key="qd-CANARY") as source,
    ):
        server.faults = [Fault("collections", 307, {}, headers={"Location": other.url + "/collections"})]

        with pytest.raises(SourceError, match="HTTP 307"):
            source.collections()

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
    with open_source(str(folder / "q")) as source:
        return sorted(found.text for found in read_contents(source, "cleaned_posts"))


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

    assert (done.returncode, done.stdout.split(" into ")[0]) == (0, "Loaded 1000 lines")
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
