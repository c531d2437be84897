"""JupyterLab as `make lab` starts it, on a copy of the project, in headless Chromium."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from browser import Browser, end_group, opened_browser

PANEL = "jupyterapp.shell.currentWidget"
OPEN = """(async () => {{
  const panel = await jupyterapp.commands.execute('docmanager:open', {{path: {path}}});
  await panel.revealed; await panel.sessionContext.ready; jupyterapp.shell.activateById(panel.id);
  return panel.sessionContext.kernelDisplayName;
}})()"""
RUN_ALL = "jupyterapp.commands.execute('notebook:run-all-cells')"
IDLE = f"{PANEL}.sessionContext.session?.kernel?.status === 'idle'"
CELLS = f"""{PANEL}.content.widgets.filter(cell => cell.model.type === 'code').map(cell => ({{
  source: cell.model.sharedModel.source, count: cell.model.executionCount,
  errors: cell.model.outputs.toJSON().filter(output => output.output_type === 'error')
    .map(output => output.ename + ': ' + output.evalue)}}))"""
ADD = f"""(source => source.setSource(source.source + {{line}}))(
  {PANEL}.content.widgets[{{index}}].model.sharedModel)"""
PRESS = f"""[...{PANEL}.node.querySelectorAll('.jp-OutputArea-output button')]
  .find(button => button.innerText === {{name}}).click()"""
# A person sees it: scrolled to, with an extent, loaded, and nothing in front of it.
SEEN = """(() => [...document.querySelectorAll({selector})].filter(node => {{
  node.scrollIntoView({{block: 'center'}});
  const box = node.getBoundingClientRect();
  const front = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
  return box.width && box.height && node.naturalWidth !== 0
    && (node.contains(front) || front?.contains(node));
}}).length)()"""
# Ends the group when the command ends, and when this process is gone, however that came.
LEASHED = ["sh", "-c", '("$0" "$@" </dev/null; kill 0) & cat >/dev/null; kill 0']
# The server's questions about news would stand in front of notebooks, and want the network.
NO_NEWS = {"fetchNews": "false", "checkForUpdates": False}


@dataclass
class Lab:
    """JupyterLab in a browser."""

    browser: Browser

    def open(self, notebook: str) -> str:
        """Open a notebook in front, wait for its kernel and give the kernel's name."""
        return self.browser.evaluate(OPEN.format(path=json.dumps(f"notebooks/{notebook}.ipynb")))

    def run_all(self, *, seconds: float = 90) -> bool:
        """Run all cells of the notebook in front, and say whether all of them ended well."""
        done = self.browser.evaluate(RUN_ALL, seconds=seconds)
        self.browser.wait_for(IDLE)
        return done

    def start_all(self) -> None:
        """Run all cells of the notebook in front without waiting."""
        self.browser.evaluate(f"void (window.running = {RUN_ALL})")

    def stop(self) -> None:
        """Press the stop button and wait until the cells that were started have ended."""
        self.browser.evaluate("jupyterapp.commands.execute('notebook:interrupt-kernel')")
        self.browser.evaluate("window.running")

    def add_to_cell(self, index: int, line: str) -> None:
        """Write one more line into a cell of the notebook in front."""
        self.browser.evaluate(ADD.format(index=index, line=json.dumps("\n" + line)))

    def cells(self) -> list[dict[str, Any]]:
        """Give source, execution count and errors of each code cell."""
        return self.browser.evaluate(CELLS)

    def press(self, name: str) -> None:
        """Press the button of this name that an output shows."""
        self.browser.evaluate(PRESS.format(name=json.dumps(name)))

    def wait_for_text(self, text: str) -> None:
        """Wait until the notebook in front shows this."""
        self.browser.wait_for(f"{PANEL}.content.node.innerText.includes({json.dumps(text)})")

    def seen(self, selector: str) -> int:
        """Count the elements in the notebook in front that a person can see."""
        inside = f".jp-NotebookPanel:not(.lm-mod-hidden) {selector}"
        return self.browser.evaluate(SEEN.format(selector=json.dumps(inside)))


@contextmanager
def opened_lab(folder: Path, *, project: Path, environ: dict[str, str], **size: int) -> Iterator[Lab]:
    """Start `make lab` in a copy of the project and open it; all its processes end with the block."""
    with (
        served_lab(folder, project=project, environ=environ) as url,
        opened_browser(folder, **size) as browser,
    ):
        browser.call("Page.navigate", url=url)
        browser.wait_for("window.jupyterapp && jupyterapp.restored.then(() => true)")
        yield Lab(browser)


@contextmanager
def served_lab(folder: Path, *, project: Path, environ: dict[str, str]) -> Iterator[str]:
    """Give the address, token included, of the server that `make lab` starts with a home of its own."""
    settings = (
        folder / ".jupyter/lab/user-settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    )
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps(NO_NEWS))
    runtime = folder / "runtime"
    environ = environ | {"HOME": str(folder), "JUPYTER_RUNTIME_DIR": str(runtime)}
    options = "LAB_OPTIONS=--no-browser --port=0 --expose-app-in-browser"
    make = ["make", "--old-file=.venv/.ready", f"BIN={Path(sys.executable).parent}", options, "lab"]
    with (folder / "lab.log").open("wb") as log:
        process = subprocess.Popen(
            [*LEASHED, *make], cwd=project, env=environ, stdin=subprocess.PIPE, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    server = 0
    try:
        info = _server_info(runtime, process, folder / "lab.log")
        server = info["pid"]
        yield f"{info['url']}lab?token={info['token']}&reset"
    finally:
        if server:
            os.kill(server, signal.SIGTERM)
        else:
            process.stdin.close()
        end_group(process)
        process.stdin.close()


def _server_info(runtime: Path, process: subprocess.Popen[bytes], log: Path) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        for path in runtime.glob("jpserver-*.json"):
            try:
                return json.loads(path.read_text())
            except ValueError:
                break  # half written
        time.sleep(0.05)
    raise AssertionError(f"make lab did not start:\n{log.read_text()}")
