"""Params, their table in the notebooks, and the files that come with the project."""

from __future__ import annotations

import ast
import logging
from dataclasses import fields, replace

import pytest
from papermill import execute_notebook, inspect_notebook

from llmtwin_data.curation import RULES
from llmtwin_data.errors import ParamsError
from llmtwin_data.folders import PROJECT_ROOT
from llmtwin_data.params import (
    Params,
    expected,
    explained,
    load_params,
    make_params,
    may_be_sent_key,
    parse_yaml,
    read_environ,
    redact,
    secret_values,
    settings_of,
)

NOTEBOOKS = sorted((PROJECT_ROOT / "notebooks").glob("*.ipynb"))
FILES = sorted((PROJECT_ROOT / "params").glob("*.yaml"))
each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


@each_notebook
def test_a_notebook_declares_the_study_and_a_dozen_values_as_params_has_them(notebook):
    seen = inspect_notebook(str(notebook))
    default = Params().as_dict()

    assert list(seen) == [name for name in default if name in seen]
    assert (next(iter(seen)), len(seen) <= 13) == ("study", True)
    for name, parameter in seen.items():
        assert ast.literal_eval(parameter["default"]) == default[name]
        assert (parameter["inferred_type_name"], parameter["help"]) == (
            type(default[name]).__name__,
            explained(name),
        )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_params_file_loads_and_opens_with_its_question(path):
    first = path.read_text().splitlines()[0]

    assert load_params(path).given()
    assert (first[:2], first[-1]) == ("# ", "?")


def test_every_threshold_of_the_rules_is_a_parameter():
    assert set(RULES) <= {item.name for item in fields(Params)}


def test_values_come_back_as_they_were_given():
    given = {"collections": ["a", "b"], "limit": 3, "temperature": 0.0, "request_extra": {"effort": "low"}}

    assert make_params(given | {"run_dir": "runs/x"}, place="test").given() == given


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("limit", "5", 5),
        ("temperature", "1e-1", 0.1),
        ("temperature", "0", 0.0),
        ("model", "12", "12"),
        ("comet", "off", "off"),
        ("collections", "a,b", ("a", "b")),
        ("collections", "[a, b]", ("a", "b")),
        ("authors", "7", ("7",)),
        ("batch_sizes", "1, 4", (1, 4)),
        ("models", "a,b:8b", ("a", "b:8b")),
        ("request_extra", "{effort: low}", {"effort": "low"}),
    ],
)
def test_a_word_of_the_command_line_is_read_by_its_keys_type(tmp_path, key, text, value):
    (tmp_path / "study.yaml").write_text("seed: 1\nlimit: 1\n")  # the command line wins

    assert getattr(load_params(tmp_path / "study.yaml", [(key, text)]), key) == value


def test_the_env_file_fills_in_what_the_process_does_not_set(tmp_path, monkeypatch):
    (tmp_path / "keys").write_text("OPENAI_API_KEY=sk-file\nQDRANT_API_KEY=qd-file\nCOMET_API_KEY=\n")
    monkeypatch.setenv("LLMTWIN_ENV_FILE", str(tmp_path / "keys"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-process")
    environ = read_environ()

    assert (environ["OPENAI_API_KEY"], environ["QDRANT_API_KEY"]) == ("sk-process", "qd-file")
    assert "COMET_API_KEY" not in environ


def test_secrets_are_found_by_their_names_and_taken_out_longest_first():
    secrets = secret_values({"A_KEY": "abcdef", "B_TOKEN": "abcdefghi", "PATH": "/usr/bin", "C_KEY": "abc"})

    assert secrets == ["abcdefghi", "abcdef"]
    assert redact("abcdefghi and abcdef and abc", *secrets) == "[key] and [key] and abc"


NAMES_OF_SECRETS = """
    KEY API_KEY APIKEY OPENAI_APIKEY openai_api_key apiKey KEY_1 KEY2 API_KEYS ENCRYPTION_KEYS
    AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY SSH_PRIVATEKEY KEYPASS KEYFILE STORAGE_ACCOUNTKEY MASTERKEY
    MONKEY_API_KEY KEYBOARD_KEY keyboardApiKey HF_TOKEN GITHUB-TOKEN DB_PASSWORD MYSQL_PASSWD CLIENT_SECRET
    KEYCLOAK_ADMIN GOOGLE_APPLICATION_CREDENTIALS DJANGO_SECRETKEY
"""
OTHER_NAMES = """
    KEYBOARD KEYBOARD_LAYOUT XKB_KEYMAP KEYMAP MONKEY MONKEYS_2 TURKEY_URL keyword SEO_KEYWORDS PATH HOME LANG
"""


@pytest.mark.parametrize("name", (NAMES_OF_SECRETS + OTHER_NAMES).split())
def test_a_secret_is_told_by_the_words_of_its_name(name):
    assert secret_values({name: "english"}) == ["english"] * (name in NAMES_OF_SECRETS.split())


@pytest.mark.parametrize(
    ("text", "secret", "redacted"),
    [
        ("wrong key sk-proj-abcdef123456, try", "", "wrong key [key], try"),
        ("cm-CANARY-123456 hf_abcdefghijkl gsk_0123456789", "", "[key] [key] [key]"),
        ("a risk-free, sk-ill and task-oriented text", "", "a risk-free, sk-ill and task-oriented text"),
        ("Bearer: plainword", "plainword", "Bearer: [key]"),
        (r'{"a": "\u0070lain\/word"}', "plain/word", '{"a": "[key]"}'),
        ("an exercise", "x", "an exercise"),
    ],
    ids=["shape", "shapes", "hyphens", "any shape", "escapes of JSON", "too short to be one"],
)
def test_keys_are_redacted_and_nothing_else(text, secret, redacted):
    assert redact(text, secret, shapes=True) == redacted


HTTPS_OR_HERE = """
    https://api.openai.com/v1 https://192.168.1.5 http://localhost:8000/v1 http://LOCALHOST http://127.0.0.1
    http://127.9.8.7:1 http://127.1 http://2130706433 http://0x7f.1 http://[::1]:8000 http://[::ffff:127.0.0.1]
"""
ELSEWHERE = """
    http://192.168.1.5 http://10.0.0.7 http://172.17.0.1 http://169.254.1.1 http://[fd00::1] http://0.0.0.0
    http://[::ffff:192.168.1.5] http://128.1 http://vllm http://gpu.local http://gpu.internal http://cafe
    http://localhost.evil.example http://evil.localhost http://127.0.0.1.nip.io http://127.0.0.1@evil.example
    http://evil.example#@127.0.0.1 ftp://127.0.0.1 localhost http://
"""


@pytest.mark.parametrize("url", (HTTPS_OR_HERE + ELSEWHERE).split())
def test_l63_one_rule_says_which_address_may_be_sent_a_key(url):
    assert may_be_sent_key(url) is (url in HTTPS_OR_HERE.split())


def test_l63_looking_for_a_key_takes_no_time_in_a_hostile_body():
    hostile = ("\\" * 4_000_000 + "\\u", "s\\u0073" * 500_000, "sk-" * 1_000_000 + "\\/", "&#0" * 999_999)
    for body in hostile:
        assert redact(body, "sk-proj-abcdef123456") == body


@pytest.mark.parametrize(
    "spelled",
    ["%73k%2Dproj%2Dabcdef123456", "&#115;k&#x2d;proj&#0045;abcdef123456", "\\x73k-proj\\x2dabcdef123456",
     "sk\\u002Dproj\\\\u002dabcdef123456"],
    ids=["address", "HTML", "Python", "JSON in JSON"],
)  # fmt: skip
def test_l63_a_key_is_seen_in_other_spellings(spelled):
    assert redact(f"not {spelled}!", "sk-proj-abcdef123456") == "not [key]!"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("off", "off"),
        ("no", "no"),
        ("Yes", "Yes"),
        ("true", True),
        ("~", None),
        ("010", 10),
        ("1e5", 100_000.0),
        ("-.5", -0.5),
        ("12:30:45", "12:30:45"),
        ("2024-01-01", "2024-01-01"),
        ("0x10", "0x10"),
        ("<<", "<<"),
    ],
)
def test_words_are_read_as_in_yaml_1_2(text, value):
    found = parse_yaml(f"key: {text}\n", place="test")["key"]

    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize("text", ["a: [", "[" * 5000, "a: b: c", "\x00", "- a\nb: c"])
def test_what_is_no_yaml_names_its_place(text):
    with pytest.raises(ParamsError, match=r"study\.yaml"):
        parse_yaml(text, place="study.yaml")


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("collections: cleaned_posts", ("cleaned_posts",)),
        ("models: gpt-4o", ("gpt-4o",)),
        ("authors: 7", ("7",)),
        ("languages: pt-BR", ("pt-BR",)),
        ("batch_sizes: 4", (4,)),
    ],
)
def test_one_value_is_a_list_of_one(tmp_path, line, values):
    (tmp_path / "study.yaml").write_text(line)

    assert getattr(load_params(tmp_path / "study.yaml"), line.partition(":")[0]) == values


@pytest.mark.parametrize("tag", ["same", "en", "zh-Hant", "pt", "sr-Latn", "es-419", "no", "yue", "DE"])
def test_a_language_is_a_bcp_47_tag(tag):
    settings = make_params({"instruction_language": tag, "languages": [tag]}, place="test")

    assert (settings.instruction_language, settings.languages) == (tag, (tag,))


def test_a_change_of_settings_is_checked_too():
    with pytest.raises(ValueError, match="limit"):
        replace(Params(), limit=-1)


def test_every_parameter_has_help_that_a_cell_can_hold_and_says_what_it_takes():
    names = [item.name for item in fields(Params)]

    assert [name for name in names if not explained(name) or set("#=|\n") & set(explained(name))] == []
    assert [name for name in names if not expected(name)] == []


STUDY = "limit: 3\nseed: 7\n"


@pytest.fixture
def kernel(tmp_path):
    """Give the namespace of a kernel in which these cells ran, and the environment that names a study."""
    (tmp_path / "study.yaml").write_text(STUDY)

    def run(*cells, study="study.yaml"):
        namespace = {"In": ["", *cells]}
        for cell in cells:
            exec(cell, namespace)
        return settings_of(namespace, {"STUDY": str(tmp_path / study)} if study else {})

    return run


CELL = 'study: str = ""  # a params file\nlimit: int = 0  # contents'


def test_a_notebook_by_hand_has_the_settings_of_its_study(kernel, tmp_path):
    settings = kernel(CELL)

    assert settings.given() == load_params(tmp_path / "study.yaml").given() == {"limit": 3, "seed": 7}
    assert settings.study == str(tmp_path / "study.yaml")


def test_without_a_study_it_has_those_of_the_demo(kernel):
    settings = kernel(CELL, study="")

    assert settings.given() == load_params(PROJECT_ROOT / "params/demo.yaml").given()
    assert settings.study == "params/demo.yaml"


# The cells that ran after each other, and what of their study is not the default.
CELLS = {
    "changed in the cell": ([CELL.replace("= 0", "= 5")], {"limit": 5, "seed": 7}),
    "added to the cell": (
        [CELL + "\nseed, chunk_chars = 8, 500"],
        {"limit": 3, "chunk_chars": 500, "seed": 8},
    ),
    "a name of a later cell": ([CELL, "endpoint = object()\nseed = 5"], {"limit": 3, "seed": 7}),
    "injected, so no study": ([CELL, "# Parameters\nlimit = 0\nmodel = 'm'\n"], {"model": "m"}),
}


@pytest.mark.parametrize(("cells", "given"), CELLS.values(), ids=CELLS)
def test_values_of_the_parameters_cell_win_over_the_study(kernel, cells, given):
    assert kernel(*cells).given() == given


def test_an_injected_value_wins_over_an_injected_study(kernel, tmp_path):
    injected = f"# Parameters\nstudy = {str(tmp_path / 'study.yaml')!r}\nlimit = 0\n"

    assert kernel(CELL, injected, study="none.yaml").given() == {"seed": 7}


def test_a_study_that_is_not_there_is_named(kernel):
    with pytest.raises(ParamsError, match=r"none\.yaml: expected a readable file"):
        kernel(CELL, study="none.yaml")


def test_settings_name_their_study_and_what_is_not_the_default(kernel, tmp_path):
    lines = str(kernel(CELL)).splitlines()

    assert lines == [f"Study {tmp_path / 'study.yaml'}; beside the defaults:", "  limit: 3", "  seed: 7"]


def test_papermill_warns_of_unknown_names_alone(tmp_path, caplog):
    notebook = PROJECT_ROOT / "notebooks" / "1_explore_content.ipynb"
    with caplog.at_level(logging.WARNING, logger="papermill"):
        options = {"prepare_only": True, "kernel_name": "python3", "language": "python"}
        execute_notebook(notebook, tmp_path / "out.ipynb", {"comet": "off", "bach_size": 4}, **options)

    assert [record.getMessage() for record in caplog.records] == ["Passed unknown parameter: bach_size"]
