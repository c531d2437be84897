"""Take the README's picture: a notebook of the demo in JupyterLab, on the answers that `make demo` stored.

make demo && .venv/bin/python tests/pictures.py docs
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import tempfile
from pathlib import Path

from lab import Lab, opened_lab
from PIL import Image
from run_nbval import PROJECT, copy_project

# File, notebook, and the heading that stands at the top of the picture.
VIEWS = (("pairs", "3_generate_dataset", "The best and the weakest that are published"),)
SIZE = {"width": 1200, "height": 778}
# Figures above get their height only when they come into view: scroll until the heading stays at the top.
AT_TOP = """(async () => {{
  const heading = [...document.querySelectorAll('.jp-NotebookPanel:not(.lm-mod-hidden) h2')]
    .find(heading => heading.textContent.startsWith({text}));
  heading.scrollIntoView({{block: 'start'}});
  for (let frame = 0; frame < 10; frame++) await new Promise(requestAnimationFrame);
  return heading.getBoundingClientRect().top < {most};
}})()"""


def main(folder: Path) -> None:
    """Write every view as PNG into a folder."""
    with tempfile.TemporaryDirectory() as place:
        project, home = Path(place) / "project", Path(place) / "home"
        for new in (project, home):
            new.mkdir()
        environ = copy_project(project) | {"COMET_API_KEY": "", "STUDY": ""}
        shutil.copytree(PROJECT / ".llmtwin", project / ".llmtwin")
        with opened_lab(home, project=project, environ=environ, **SIZE) as lab:
            for name, notebook, heading in VIEWS:
                show(lab, notebook, heading)
                save(lab.browser.picture(), folder / f"{name}.png")


def show(lab: Lab, notebook: str, heading: str) -> None:
    """Run a notebook, once, and scroll to a heading."""
    lab.open(notebook)
    lab.browser.evaluate("jupyterapp.shell.collapseLeft()")
    if not any(cell["count"] for cell in lab.cells()):
        assert lab.run_all(seconds=900), [cell["errors"] for cell in lab.cells() if cell["errors"]]
    lab.browser.wait_for(AT_TOP.format(text=json.dumps(heading), most=130))


def save(png: bytes, path: Path) -> None:
    """Save a picture in 128 colours, which screens full of words do not miss."""
    Image.open(io.BytesIO(png)).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(
        path, optimize=True
    )
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
