"""The notebooks as a person meets them: `make lab`, *Run All*, and a look at what is on the screen."""

from __future__ import annotations

import json
import shutil

import endpoint
import pytest
from browser import find_chromium
from lab import opened_lab
from run_nbval import STUDY, copy_project, load_posts
from running import Bench

from llmtwin_data.folders import PROJECT_ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not find_chromium(), reason="there is no Chromium; .ci/run installs Debian's"),
    pytest.mark.skipif(not shutil.which("make"), reason="there is no make"),
]
NOTEBOOKS = sorted(path.stem for path in (PROJECT_ROOT / "notebooks").glob("*.ipynb"))
BAR, BUTTON = ".widget-hprogress", ".jp-OutputArea-output button"
# A chart of one bar is a sentence.
FIGURE = ".jp-OutputArea-output img, .jp-OutputArea-output p[class^=lt-]"
ASKING = ("report = pipeline.ask_instructions(", "tuning.try_variants(", "tuning.try_batch_sizes(")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Start JupyterLab on a copy with a few posts, where two other kernels are called python3 as well."""
    folder = tmp_path_factory.mktemp("lab")
    project, home = folder / "project", folder / "home"
    project.mkdir()
    for elsewhere in (home / ".local/share/jupyter", folder / "elsewhere"):
        (elsewhere / "kernels/python3").mkdir(parents=True)
        spec = {"argv": ["false"], "display_name": "Another", "language": "python"}
        (elsewhere / "kernels/python3/kernel.json").write_text(json.dumps(spec))
    with endpoint.serve() as server:
        own = {"OPENAI_BASE_URL": server.base_url, "QDRANT_URL": str(project / "qdrant"), "STUDY": STUDY}
        environ = copy_project(project) | own | {"JUPYTER_PATH": str(folder / "elsewhere")}
        load_posts(project, environ)
        with opened_lab(home, project=project, environ=environ) as opened:
            yield opened


@pytest.mark.parametrize("asks", ASKING)
def test_the_cells_that_show_bars_are_looked_for_by_their_words(asks):
    sources = [path.read_text(encoding="utf-8") for path in (PROJECT_ROOT / "notebooks").glob("*.ipynb")]

    assert sum(asks in source for source in sources) == 1


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_n20_run_all_reaches_the_end_and_shows_bars_and_figures(lab, notebook):
    kernel = lab.open(notebook)
    done = lab.run_all()
    cells = lab.cells()

    assert (done, [cell["errors"] for cell in cells if cell["errors"]]) == (True, [])
    assert [cell["count"] for cell in cells] == [*range(1, len(cells) + 1)]
    assert kernel == "Python 3 (ipykernel)"
    assert lab.seen(FIGURE) >= sum(".draw_" in cell["source"] for cell in cells)
    assert lab.seen(BAR) >= sum(asks in cell["source"] for cell in cells for asks in ASKING)


def test_a_press_on_accept_is_kept_and_brings_the_next_pair(lab):
    lab.open("4_review_pairs")
    lab.run_all()
    assert lab.seen(BUTTON) >= 3

    lab.press("accept")

    lab.wait_for_text("1 of ")


def test_n05_n06_the_stop_button_ends_the_calls_and_run_all_goes_on(lab, tmp_path):
    with endpoint.serve(latency_ms=400) as server:
        lab.open("3_generate_dataset")
        lab.add_to_cell(1, f"endpoint, batch_size, concurrency = {server.base_url!r}, 1, 2")
        lab.start_all()
        Bench(tmp_path, server).wait_for_requests(3)
        lab.stop()
        calls = server.stats()["requests"]
        (stopped,) = [error for cell in lab.cells() for error in cell["errors"]]

        assert stopped.startswith("Interrupted: stopped; everything answered is stored")
        assert lab.run_all()
        assert server.stats()["requests"] > calls
        assert server.stats()["paid_twice"] == 0
