"""What a params file or a command line may hold, and what it may not: FAULTS.md, Parameters."""

from __future__ import annotations

import re
import resource
import time
from pathlib import Path

import pytest
from papermill import execute_notebook
from papermill.exceptions import PapermillExecutionError
from product import Failed, check_parameters, command
from running import CANARIES, canaries_in

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
PRICES = {"usd_per_million_input": 5, "usd_per_million_output": 20}


def refused_run(path, folder):
    """Give what a run of this params file is refused with, before it leaves anything."""
    code, _, errors = command("run", path, "--dry-run", "--out", folder / "out")
    assert (code, (folder / "out").exists()) == (2, False)
    return errors.rstrip("\n")


@pytest.fixture
def refusal(tmp_path):
    """Give what a run of these lines is refused with."""

    def refuse(text):
        path = tmp_path / "study.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return refused_run(path, tmp_path)

    return refuse


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("bach_size", "batch_size"),
        ("temprature", "temperature"),
        ("collection", "collections"),
        ("modle", "model"),
    ],
)
def test_a01_an_unknown_key_names_the_nearest(refusal, key, near):
    assert refusal(f"{key}: 4\n").endswith(f"{key} is not a parameter; did you mean {near}?")


def test_a01_an_unknown_key_ends_the_command_with_2_before_a_kernel_starts(bench):
    refused = bench.run("-p", "bach_size", "4")

    assert refused.returncode == 2
    assert "did you mean batch_size?" in refused.stderr
    assert not bench.out.path.exists()


def test_a01_bare_papermill_is_refused_in_the_third_cell(tmp_path):
    notebook = NOTEBOOKS / "3_generate_dataset.ipynb"
    with pytest.raises(PapermillExecutionError, match="did you mean batch_size"):
        execute_notebook(notebook, tmp_path / "out.ipynb", {"bach_size": 4}, progress_bar=False)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('batch_size: "10"', "expected a whole number from 1 to 100, found '10' (text)"),
        ("limit: 1e5", "expected a whole number from 0 to 100,000,000, found 100000.0 (number)"),
        ("seed: yes", "found 'yes' (text)"),
        ("seed: true", "found True (yes/no)"),
        ("limit: 1.0", "found 1.0 (number)"),
        ("temperature: ~", "found None (nothing)"),
        ("collections: 'cleaned posts'", "expected a list of names"),
        ("collections: []", "at least 1"),
        ("prompts: [seed, seed]", "each once"),
        ("models: {a: b}", "expected a list of short texts"),
        ("instruction_language: Chinese", "same, or a BCP 47 tag such as en or zh-Hant, found 'Chinese'"),
        ("study: other.yaml", "expected in a notebook"),
        ("languages: [english]", "expected a list"),
        ("platforms: [false]", "expected a list"),
        ("batch_sizes: [4, 4]", "each once"),
        ("batch_sizes: [true]", "expected a list of whole numbers from 1 to 100, each once"),
        ("model: 7", "found 7 (number)"),
        ("request_extra: high", "expected a mapping"),
        ("judge_model: off", "leave it empty for no judge, found 'off'"),
        ("mode: fast", "expected one of live, batch, found 'fast'"),
        ("quality_gate: no", "expected one of stop, warn, found 'no'"),
    ],
)
def test_a02_a_wrong_type_is_named_with_key_and_value(refusal, line, expected):
    message = refusal(line)

    assert line.partition(":")[0] in message
    assert expected in message


@pytest.mark.parametrize(
    "line",
    [
        "batch_size: 0", "batch_size: -1", "batch_size: 1000000000", "batch_sizes: [0]", "concurrency: 0",
        "concurrency: 1000000000",
        "limit: -1", "limit: 1000000000", "chunk_chars: 0", "candidates: 0", "temperature: -0.1",
        "temperature: 2.1", "temperature: .nan", "timeout_seconds: .inf", "timeout_seconds: 0",
        "max_cost_usd: -1", "max_cost_usd: -.inf", "test_fraction: 1", "min_grounding: 1.5",
        "min_judge_score: 6",
    ],
)  # fmt: skip
def test_a03_a_value_out_of_its_bounds_is_named_with_them(refusal, line):
    assert " from " in refusal(line)


def test_a04_files_that_are_no_params(refusal, tmp_path):
    assert "found nothing" in refusal("")
    assert "`key: value` lines, found list" in refusal("- a\n")
    assert "UTF-8" in refusal(b"\xff\xfe\x00")
    assert "at most 65536 bytes" in refusal("# " + "x" * 70_000)
    assert "No such file" in refused_run(tmp_path / "missing.yaml", tmp_path)
    assert "Is a directory" in refused_run(tmp_path, tmp_path)


def test_a04_a_huge_file_is_not_read(tmp_path):
    with (tmp_path / "huge.yaml").open("wb") as file:
        file.truncate(2**30)
    began = time.process_time()

    assert refused_run(tmp_path / "huge.yaml", tmp_path)
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("limit: 1\nlimit: 2\n", "line 2"),
        ("request_extra: {a: 1, a: 2}\n", "'a' stands twice"),
        ("? [a]\n: 1\n", "not text"),
    ],
)
def test_a05_a_key_that_stands_twice_is_refused(refusal, text, said):
    assert said in refusal(text)


BOMB = "a: &a [x, x]\n" + "".join(
    f"{name}: &{name} [*{before}, *{before}]\n" for before, name in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        "limit: !!python/object/apply:os.system [ls]\n",
        "limit: !!int '3'\n",
        "model: &a x\nprompt: *a\n",
        BOMB,
    ],
    ids=["object", "tag", "alias", "bomb"],
)
def test_a06_tags_anchors_and_aliases_are_refused_at_once(refusal, text):
    memory, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    message = refusal(text)

    assert "refused" in message
    assert time.process_time() - began < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 50 * 1024


@pytest.mark.parametrize(
    "name", ["../../etc/x", "/etc/x", "..", ".", "a/b", "CON", "con.json", "a" * 300, "-x", "a b", "名"]
)
def test_a07_a_dataset_name_that_is_no_name_is_refused(refusal, name):
    assert "dataset_name: expected a name" in refusal(f"dataset_name: {name!r}\n")


@pytest.mark.parametrize("name", ['"a\\0b"', '"a\\nb"'])
def test_a07_control_characters_are_refused(refusal, name):
    assert "dataset_name" in refusal(f"dataset_name: {name}\n")


def test_a08_an_out_folder_that_is_a_link_elsewhere_is_shown_and_refused(bench, tmp_path):
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    bench.out.path.symlink_to(tmp_path / "elsewhere" / "deep")
    refused = bench.run()

    assert refused.returncode == 2
    assert "elsewhere/deep" in refused.stderr
    assert [*(tmp_path / "elsewhere" / "deep").iterdir()] == []


@pytest.mark.parametrize("name", ["api_key", "OPENAI_API_KEY", "token", "password"])
def test_a09_a_secret_by_its_name_is_refused_and_not_shown(refusal, name):
    message = refusal(f"{name}: hunter2-hunter2\n")

    assert "a secret is never a parameter" in message
    assert "hunter2" not in message


@pytest.mark.parametrize("key", ["model", "endpoint", "data_type", "authors", "request_extra"])
def test_a09_a_secret_by_its_shape_is_refused_and_not_shown(refusal, key):
    secret = CANARIES["OPENAI_API_KEY"]
    value = {"authors": f"[{secret}]", "request_extra": f"{{user: {secret}}}"}.get(key, secret)
    message = refusal(f"{key}: {value}\n")

    assert "a secret is never a parameter" in message
    assert secret not in message


def test_a09_a_secret_on_the_command_line_reaches_no_file(bench):
    refused = bench.run("-p", "api_key", CANARIES["OPENAI_API_KEY"])

    assert refused.returncode == 2
    assert "CANARY" not in refused.stderr + refused.stdout
    assert canaries_in(bench.folder) == []


@pytest.mark.parametrize(
    "address", ["http://user:word@host/v1", "file:///etc/passwd", "http://169.254.169.254/v1", "ftp://host"]
)
def test_a10_an_address_that_is_no_endpoint_ends_with_2(bench, address):
    refused = bench.run("-p", "endpoint", address)

    assert refused.returncode == 2
    assert "endpoint" in refused.stderr
    assert "word" not in refused.stderr.replace("password", "")


def test_a11_a_prompt_that_is_not_there_ends_with_2_and_names_those_that_are(bench):
    refused = bench.run("-p", "prompt", "grunded")

    assert refused.returncode == 2
    assert "grounded" in refused.stderr


def test_a12_a_dry_run_below_the_forecast_ends_with_2_and_shows_it(bench):
    prices = ["-p", "usd_per_million_input", "5", "-p", "usd_per_million_output", "5"]
    refused = bench.run("--dry-run", "-p", "max_cost_usd", "0.000001", *prices)

    assert refused.returncode == 2
    assert re.search(r"\ninstructions +3 .* 0\.\d+ to 0\.\d+\n", refused.stdout)
    assert bench.server.stats()["requests"] == 0


def test_a12_a_dry_run_that_pays_for_a_request_but_not_for_all_ends_with_5(bench):
    prices = ["-p", "usd_per_million_input", "5", "-p", "usd_per_million_output", "5"]
    refused = bench.run("--dry-run", "-p", "max_cost_usd", "0.003", *prices)

    assert (refused.returncode, bench.server.stats()["requests"]) == (5, 0)
    assert "max_cost_usd: expected at least the forecast's" in refused.stderr


def test_a12_a_budget_below_the_first_request_ends_with_2_before_anything_is_sent(bench):
    refused = bench.run("--only", "3", max_cost_usd=0.00001, **PRICES)

    assert (refused.returncode, bench.server.stats()["requests"]) == (2, 0)
    assert "the lowest estimate for the first request" in refused.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a12_a_budget_holds_for_tuning_dataset_and_judge_together_and_a_higher_one_goes_on(bench):
    values = PRICES | {"judge_model": "judge", "tune_sample": 8, "concurrency": 4}
    stopped = bench.run(max_cost_usd=0.1, **values)
    asked = bench.out.read()["asked"]
    done = bench.run(max_cost_usd=1, **values)

    assert (stopped.returncode, done.returncode) == (5, 0), stopped.stderr + done.stderr
    assert {name.split(":")[0] for name in asked} > {"tuning"}
    assert 0.03 < sum(part["cost_usd"] for part in asked.values()) <= 0.1
    assert "Forecast of verdicts: " in stopped.stdout


def test_a12_a_budget_without_a_price_ends_with_2_before_a_kernel_starts(bench):
    refused = bench.run("--only", "3", "-p", "max_cost_usd", "1")

    assert (refused.returncode, bench.out.path.exists()) == (2, False)
    assert "usd_per_million_input" in refused.stderr
    assert "price of scripted is unknown" in refused.stderr
    assert bench.server.stats()["requests"] == 0


def test_words_of_yaml_1_1_stay_words_also_through_papermill():
    usual = check_parameters({"limit": 0})

    checked = check_parameters({"comet": False, "instruction_language": False})

    assert checked == usual | {"comet": "off", "instruction_language": "no"}


def test_other_names_in_a_notebook_are_nobody_s_business():
    namespace = {
        "In": ["", "limit: int = 3  # all", "chunks = 1\nlimits = 2"],
        "limit": 3,
        "limits": 2,
        "chunks": 1,
    }

    assert check_parameters(namespace) == check_parameters({}) | {"limit": 3}


def test_a_name_injected_or_annotated_beside_parameters_is_checked():
    for source in ("# Parameters\nlimits = 2\n", "limit: int = 0\nlimits: int = 2"):
        with pytest.raises(Failed, match="did you mean limit"):
            check_parameters({"In": ["", source], "limits": 2})
