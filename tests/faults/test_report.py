"""C06 and N14: whatever a text, a model or a param says, the report only shows it."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

sys.path.insert(0, str(Path(__file__).parents[1]))

import product
from browser import find_chromium, opened_browser

CALL = "alert(1)"
PAYLOADS = [
    f"<script>{CALL}</script>",
    f"<SCRIPT SRC=//evil.example/x.js></SCRIPT>{CALL}",
    f"<scr<script>ipt>{CALL}</scr</script>ipt>",
    f"<img src=x onerror={CALL}>",
    f"<img src=x onerror={CALL}//",
    f"<IMG SRC=javascript:{CALL}>",
    f"<img src='x'onerror='{CALL}'>",
    f"<image href=x onerror={CALL}>",
    f"<svg onload={CALL}>",
    f"<svg><script>{CALL}</script></svg>",
    f"<svg><a xlink:href=javascript:{CALL}><text>x</text></a></svg>",
    f"<svg><animate onbegin={CALL} attributeName=x></svg>",
    f"<svg><foreignObject><body onload={CALL}></foreignObject></svg>",
    f"<svg><use href='data:image/svg+xml,<svg onload={CALL}>'/></svg>",
    f"<math><mtext><img src=x onerror={CALL}></mtext></math>",
    f"<math><a xlink:href=javascript:{CALL}>x</a></math>",
    f"<iframe src=javascript:{CALL}></iframe>",
    f"<iframe srcdoc='<script>{CALL}</script>'></iframe>",
    f"<object data=javascript:{CALL}></object>",
    f"<embed src=javascript:{CALL}>",
    f"<body onload={CALL}>",
    f"<input autofocus onfocus={CALL}>",
    f"<select autofocus onfocus={CALL}></select>",
    f"<textarea autofocus onfocus={CALL}></textarea>",
    f"<button onclick={CALL}>x</button>",
    f"<form action=javascript:{CALL}><input type=submit></form>",
    f"<form id=x></form><button form=x formaction=javascript:{CALL}>x</button>",
    f"<details open ontoggle={CALL}>x</details>",
    f"<video><source onerror={CALL}></video>",
    f"<audio src=x onerror={CALL}>",
    f"<marquee onstart={CALL}>x</marquee>",
    f"<a href=javascript:{CALL}>x</a>",
    f"<a href='java\tscript:{CALL}'>x</a>",
    f"<a href='&#106;avascript:{CALL}'>x</a>",
    f"<a href='data:text/html,<script>{CALL}</script>'>x</a>",
    f"<a href=vbscript:{CALL}>x</a>",
    "<base href=https://evil.example/>",
    "<link rel=stylesheet href=https://evil.example/x.css>",
    f"<meta http-equiv=refresh content='0;url=javascript:{CALL}'>",
    "<style>@import 'https://evil.example/x.css';</style>",
    f"<div style='background:url(javascript:{CALL})'>x</div>",
    "<div style='position:fixed;inset:0;background:red'>x</div>",
    f"<div onmouseover={CALL}>x</div>",
    f'"><script>{CALL}</script>',
    f"'><script>{CALL}</script>",
    f'" onmouseover="{CALL}',
    f"' onfocus='{CALL}' autofocus='",
    f"</textarea><script>{CALL}</script>",
    f"</title><script>{CALL}</script>",
    f"</style><script>{CALL}</script>",
    f"</details></pre></code><script>{CALL}</script>",
    f"--><script>{CALL}</script>",
    f"]]><script>{CALL}</script>",
    f"<!--<img src='--><img src=x onerror={CALL}>'>",
    f"<noscript><p title='</noscript><img src=x onerror={CALL}>'></noscript>",
    f"<template><script>{CALL}</script></template>",
    f"[x](javascript:{CALL})",
    f"![x](javascript:{CALL})",
    f'[x](https://example.org "onmouseover={CALL}")',
    f"<javascript:{CALL}>",
    f"[x]: javascript:{CALL}\n\n[x]",
    "{{7*7}}{% raw %}{{config}}{% endraw %}",
    f"`</code><script>{CALL}</script>`",
    f"```\n</code></pre><script>{CALL}</script>\n```",
    f"| a |\n|---|\n| <img src=x onerror={CALL}> |",
    f"\u202e<script>{CALL}</script>\u202c\x00\ufeff",
    f"＜script＞{CALL}＜/script＞<script\x0c>{CALL}</script>",
    f"<xss id=x tabindex=1 onfocus={CALL}>x</xss>",
]
PASSIVE = {
    *(
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "header",
        "main",
        "nav",
        "section",
        "footer",
        "figure",
        "img",
    ),
    *(
        "h1",
        "h2",
        "h3",
        "h4",
        "p",
        "span",
        "b",
        "i",
        "em",
        "strong",
        "s",
        "code",
        "pre",
        "a",
        "ol",
        "ul",
        "li",
        "div",
    ),
    *(
        "table",
        "caption",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "details",
        "summary",
        "mark",
        "blockquote",
        "br",
        "hr",
    ),
    *("small", "sub", "sup"),
}
ATTRIBUTES = {
    *(
        "class",
        "id",
        "lang",
        "charset",
        "content",
        "http-equiv",
        "name",
        "href",
        "dir",
        "alt",
        "src",
        "rel",
        "title",
    ),
    *("aria-label", "aria-labelledby"),
}


class Active(HTMLParser):
    """Collects every node that could run, load or lead anywhere but to the web."""

    def __init__(self):
        super().__init__()
        self.found = []
        self.policies = []

    def handle_starttag(self, tag, attrs):
        if tag not in PASSIVE:
            self.found.append(tag)
        for name, value in attrs:
            self.check(tag, name, value or "")
        if dict(attrs).get("http-equiv") == "Content-Security-Policy":
            self.policies.append(dict(attrs)["content"])

    def check(self, tag, name, value):
        links = {
            "href": r"#[a-z0-9-]+|https?://.*|mailto:.*",
            "src": r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=]*",
        }
        if name not in ATTRIBUTES or not re.fullmatch(links.get(name, r"(?s).*"), value):
            self.found.append(f"{tag} {name}={value[:40]}")
        if tag == "meta" and (name, value.lower()) == ("http-equiv", "refresh"):
            self.found.append("refresh")


def active_nodes(html):
    parser = Active()
    parser.feed(html)
    parser.close()
    return parser.found


def notebook_of(text):
    """Text in every place that a notebook has: prose, code, each kind of output and its metadata."""
    raw = [
        new_output("display_data", {kind: text})
        for kind in ("text/html", "text/markdown", "text/plain", "image/svg+xml")
    ]
    raw += [
        new_output(
            "display_data", {"image/png": text, "text/plain": text}, metadata={"image/png": {"alt": text}}
        )
    ]
    raw += [new_output("display_data", {"image/png": "aGk="}, metadata={"image/png": {"alt": text}})]
    raw += [new_output("display_data", {"application/javascript": text, "text/latex": text})]
    raw += [new_output("stream", name=name, text=text) for name in ("stdout", "stderr")]
    raw += [new_output("error", ename=text, evalue=text, traceback=[text])]
    raw += [new_output("display_data", {"text/html": shown}) for shown in product.displays_of(text)]
    cells = [
        new_markdown_cell(f"# {text}\n\n{text}\n\n## {text}\n\n- {text}\n\n> {text}"),
        new_code_cell(text, outputs=raw),
    ]
    return new_notebook(cells=cells)


def hostile_run(folder, text):
    """A finished run, as its files say, with the text wherever a file has room for one."""
    (folder / "dataset").mkdir(parents=True)
    (folder / "notebooks").mkdir()
    row = dict.fromkeys(("instruction", "content", "content_id", "author", "platform", "data_type"), text)
    row |= {"id": text, "collection": text, "start": 0, "end": 1, "k": 1}
    manifest = {key: {} for key in ("counts", "sides", "certificate", "rules", "screened")}
    manifest |= {"name": text, "files": {text: {"sha256": text, "bytes": 1, "rows": 1}}}
    manifest |= {"ledger_sha256": text, "notes": [], "sides": {"train": [], "test": []}}
    rejected = {"content_id": text, "start": 0, "end": 1, "k": 1, "state": "rejected", "reason": text}
    costs = {"requests": 0, "prompt_tokens": 0, "completion_tokens": 0, "cost_usd": 0.0}
    params = {"prompt": text, "model": text, "collections": [text], text: text, "endpoint": text}
    run = {
        "state": "complete",
        "dataset_name": text,
        "params": params,
        "given": params,
        "versions": {text: text},
    }
    files = {
        "dataset/train.jsonl": row,
        "dataset/manifest.json": manifest,
        "ledger.jsonl": rejected | {"value": text} | costs | {"collection": ""},
        "run.json": run,
    }
    for name, held in files.items():
        (folder / name).write_text(json.dumps(held) + "\n")
    (folder / "dataset/test.jsonl").touch()
    nbformat.write(notebook_of(text), folder / "notebooks" / "1_explore.ipynb")
    return folder


def report_of(*runs):
    """Write the report, or a comparison of several, and give its place."""
    code, output, errors = product.command("report", *runs)
    assert code == 0, errors
    return Path(output.strip().partition(": ")[2])


def test_c06_there_are_at_least_sixty_payloads():
    assert len(set(PAYLOADS)) >= 60


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_c06_n14_a_hostile_text_leaves_no_active_node_in_the_report(tmp_path, payload):
    run = hostile_run(tmp_path / "run", payload.replace("\x00", ""))

    html = report_of(run).read_text(encoding="utf-8")

    assert active_nodes(html) == []


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_c06_what_cells_show_has_no_active_node_either(payload):
    html = "".join(product.displays_of(payload))

    assert active_nodes(html) == []


@pytest.mark.skipif(not find_chromium(), reason="there is no Chromium; .ci/run installs Debian's")
def test_c06_n14_in_a_browser_nothing_runs_even_without_the_policy(tmp_path):
    texts = dict(enumerate(payload.replace("\x00", "") for payload in PAYLOADS))
    pages = {n: report_of(hostile_run(tmp_path / str(n), text)) for n, text in texts.items()}
    (control := tmp_path / "control.html").write_text(f"<p>x<script>{CALL}</script>")

    with opened_browser(tmp_path) as browser:
        browser.call("Page.enable")
        browser.call("Page.setBypassCSP", enabled=True)
        browser.call("Page.addScriptToEvaluateOnNewDocument", source="ran = 0; alert = () => ran++")
        assert opened(browser, control)[0] == 1
        found = {n: opened(browser, page) for n, page in pages.items()}

    assert {n: ran for n, (ran, _) in found.items() if ran} == {}
    assert {n: active for n, (_, html) in found.items() if (active := active_nodes(html))} == {}


def opened(browser, page):
    """Open a page; give how often it called alert, and what the browser made of it."""
    browser.call("Page.navigate", url=page.as_uri())
    browser.wait_for(f"document.readyState === 'complete' && location.pathname === {str(page)!r}")
    return browser.evaluate("[ran, document.documentElement.outerHTML]")


def test_n14_the_report_forbids_everything_but_style_and_inline_pictures(tmp_path):
    parser = Active()

    parser.feed(report_of(hostile_run(tmp_path / "run", "text")).read_text(encoding="utf-8"))

    assert len(parser.policies) == 1
    assert parser.policies[0].startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")


def test_c06_a_comparison_has_no_active_node(tmp_path):
    runs = [hostile_run(tmp_path / name, "".join(PAYLOADS[:40]).replace("\x00", "") + name) for name in "ab"]

    html = report_of(*runs).read_text(encoding="utf-8")

    assert active_nodes(html) == []


def test_the_check_itself_sees_active_nodes():
    for payload in (
        f"<script>{CALL}</script>",
        f"<p onclick={CALL}>",
        f"<a href=javascript:{CALL}>",
        "<img src=http://x>",
    ):
        assert active_nodes(payload)
