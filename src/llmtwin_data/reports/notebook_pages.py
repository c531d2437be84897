"""Executed notebooks as HTML that can do nothing: words escaped, outputs through an allow-list."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mistune
import nbformat
import nh3
from markupsafe import Markup

TEXT_TAGS = "a b blockquote br code div em h3 h4 hr i li mark ol p pre s small span strong sub sup ul"
TABLE_TAGS = "table caption thead tbody tr th td"
TAGS = {*TEXT_TAGS.split(), *TABLE_TAGS.split(), "details", "summary"}
ATTRIBUTES = {
    "*": {"class", "dir"},
    "a": {"href"},
    "td": {"colspan", "rowspan"},
    "th": {"colspan", "rowspan"},
}
OUR_CLASSES = re.compile(r"(?:lt-[a-z]+|dataframe)(?: (?:lt-[a-z]+|dataframe))*")
PICTURES = ("image/png", "image/jpeg")
BASE64 = re.compile(r"[A-Za-z0-9+/=\s]*")
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
FOLD_NAMES = {"parameters": "default parameters", "injected-parameters": "parameters of this run"}
# Characters of one stream that are shown; a progress bar written a thousand times is no reading.
STREAM_CHARS = 4000


@dataclass(slots=True)
class Page:
    """One notebook: its title, its headings for the contents list, and its cells as safe HTML."""

    title: str
    anchor: str
    headings: list[tuple[str, str]] = field(default_factory=list)
    html: Markup = field(default_factory=Markup)


def read_page(path: Path, *, anchor: str) -> Page:
    """Render an executed notebook; the first heading is its title."""
    notebook = nbformat.read(path, as_version=4)
    page = Page(path.stem.replace("_", " "), anchor)
    for cell in notebook.cells:
        page.html += _markdown_cell(cell, page) if cell.cell_type == "markdown" else _code_cell(cell)
    return page


def render_markdown(text: str) -> Markup:
    """Render Markdown with every tag in it escaped, and clean the result once more."""
    html = mistune.create_markdown(escape=True, plugins=["table", "strikethrough"])(text)
    return clean_html(str(html))


def clean_html(html: str) -> Markup:
    """Let through only tags and attributes that show text; links only to the web, classes only our own."""
    cleaned = nh3.clean(
        html,
        tags=TAGS,
        clean_content_tags={"script", "style", "iframe", "object", "svg", "math", "template", "title"},
        attributes=ATTRIBUTES,
        attribute_filter=_keep_attribute,
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer",
    )
    return Markup(cleaned)


def _keep_attribute(tag: str, attribute: str, value: str) -> str | None:
    if attribute == "class":
        return value if OUR_CLASSES.fullmatch(value) else None
    # A link to a place in this page would let a text pretend to be part of the report.
    return None if tag == "a" and attribute == "href" and value.startswith(("#", "/", ".")) else value


def _markdown_cell(cell: Mapping[str, Any], page: Page) -> Markup:
    text = str(cell["source"])
    pieces = Markup("")
    for heading, body in _sections(text):
        pieces += _heading(heading, page) + (render_markdown(body) if body.strip() else Markup(""))
    return Markup('<div class="prose">{}</div>').format(pieces)


def _sections(text: str) -> Iterator[tuple[str, str]]:
    """Split at headings, which get anchors of ours; what stands before the first has none."""
    parts = re.split(r"(?m)^(#{1,2} .+)$", text)
    yield "", parts[0]
    yield from zip(parts[1::2], parts[2::2], strict=True)


def _heading(line: str, page: Page) -> Markup:
    words = line.lstrip("# ").strip()
    if line.startswith("# "):
        page.title = words
        return Markup("")
    if not line:
        return Markup("")
    anchor = f"{page.anchor}-{len(page.headings) + 1}"
    page.headings.append((anchor, words))
    return Markup('<h3 id="{}">{}</h3>').format(anchor, words)


def _code_cell(cell: Mapping[str, Any]) -> Markup:
    name = FOLD_NAMES.get("".join(cell["metadata"].get("tags", [])), "code")
    fold = Markup('<details class="code"><summary>{}</summary><pre><code>{}</code></pre></details>')
    outputs = Markup("").join(_output(output) for output in _coalesced(cell["outputs"]))
    return fold.format(name, cell["source"]) + outputs


def _coalesced(outputs: list[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Join the pieces that one stream came in."""
    streams: dict[str, str] = {}
    for output in outputs:
        if output["output_type"] == "stream":
            streams[output["name"]] = streams.get(output["name"], "") + str(output["text"])
        else:
            yield output
    yield from ({"output_type": "stream", "name": name, "text": text} for name, text in streams.items())


def _output(output: Mapping[str, Any]) -> Markup:
    if output["output_type"] == "stream":
        return _stream(output["name"], str(output["text"]))
    if output["output_type"] == "error":
        trace = ANSI.sub("", "\n".join(output["traceback"]))
        return Markup('<pre class="error">{}</pre>').format(trace)
    return _shown(output["data"], output.get("metadata", {}))


def _shown(data: Mapping[str, Any], metadata: Mapping[str, Any]) -> Markup:
    """Show the richest form that is safe; a widget lives only in JupyterLab."""
    if any("widget" in kind for kind in data):
        return Markup("")
    for kind in PICTURES:
        if kind in data and BASE64.fullmatch(str(data[kind])):
            alt = (metadata.get(kind) or {}).get("alt") or data.get("text/plain", "figure")
            picture = Markup('<figure><img alt="{}" src="data:{};base64,{}"></figure>')
            return picture.format(alt, kind, re.sub(r"\s", "", str(data[kind])))
    if "text/html" in data:
        return Markup('<div class="output">{}</div>').format(clean_html(str(data["text/html"])))
    if "text/markdown" in data:
        return Markup('<div class="prose">{}</div>').format(render_markdown(str(data["text/markdown"])))
    return Markup("<pre>{}</pre>").format(data.get("text/plain", ""))


def _stream(name: str, text: str) -> Markup:
    # A carriage return overwrites the line, as a progress bar does: only its last state is kept.
    lines = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in ANSI.sub("", text).rstrip().split("\n")]
    shown = "\n".join(line for line in lines if line.strip())
    if len(shown) > STREAM_CHARS:
        shown = f"{shown[:STREAM_CHARS]}\n[{len(shown) - STREAM_CHARS:,} more characters in the notebook]"
    fold = Markup('<details class="code"><summary>{}</summary><pre>{}</pre></details>')
    return fold.format("messages" if name == "stderr" else "printed", shown) if shown else Markup("")
