"""Executed notebooks as safe HTML."""

from __future__ import annotations

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from llmtwin_data.reports import clean_html, read_page, render_markdown

PNG = "iVBORw0KGgo="


def page_of(tmp_path, *cells):
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    nbformat.write(new_notebook(cells=list(cells)), tmp_path / "1_explore.ipynb")
    return read_page(tmp_path / "1_explore.ipynb", anchor="nb1")


def shown(tmp_path, output):
    return str(page_of(tmp_path, new_code_cell("1", outputs=[output])).html)


def test_the_first_heading_is_the_title_and_the_others_are_listed(tmp_path):
    page = page_of(tmp_path, new_markdown_cell("# Explore\n\nWhy.\n\n## What\n\n## And"))

    assert (page.title, page.headings) == ("Explore", [("nb1-1", "What"), ("nb1-2", "And")])


def test_code_is_folded_away_and_escaped(tmp_path):
    html = str(page_of(tmp_path, new_code_cell("print('<b>')")).html)

    assert "<details" in html
    assert "&lt;b&gt;" in html


def test_a_picture_keeps_its_alternative_text(tmp_path):
    output = new_output("display_data", {"image/png": PNG}, metadata={"image/png": {"alt": 'a "figure"'}})

    assert f'<img alt="a &#34;figure&#34;" src="data:image/png;base64,{PNG}">' in shown(tmp_path, output)


def test_a_forged_picture_is_no_picture(tmp_path):
    output = new_output("display_data", {"image/png": 'x" onerror="alert(1)', "text/plain": "fallback"})

    assert "<img" not in shown(tmp_path, output)


def test_an_svg_is_not_shown_as_markup(tmp_path):
    output = new_output("display_data", {"image/svg+xml": "<svg onload=alert(1)>", "text/plain": "figure"})

    assert "<svg" not in shown(tmp_path, output)


def test_a_form_that_is_not_shown_is_no_picture_and_no_warning(tmp_path):
    html = shown(tmp_path, new_output("display_data", {"image/svg+xml": "aGk=", "text/latex": "x"}))

    assert "<img" not in html


def test_a_progress_bar_shows_its_last_state_only(tmp_path):
    output = new_output("stream", name="stderr", text="\r".join(f"{n}%" for n in range(100_001)))

    html = shown(tmp_path, output)

    assert "100000%" in html
    assert len(html) < 1000


def test_a_widget_is_left_out(tmp_path):
    output = new_output(
        "display_data", {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "HBox()"}
    )

    assert "HBox" not in shown(tmp_path, output)


def test_an_error_is_shown_without_colour_codes(tmp_path):
    output = new_output(
        "error", ename="ValueError", evalue="<b>", traceback=["\x1b[31mValueError\x1b[0m: <b>"]
    )

    assert "ValueError: &lt;b&gt;" in shown(tmp_path, output)


def test_our_classes_stay_and_others_go():
    assert (
        str(clean_html('<p class="lt-head">a</p><p class="tiles">b</p>'))
        == '<p class="lt-head">a</p><p>b</p>'
    )


@pytest.mark.parametrize(
    "address", ["javascript:alert(1)", "data:text/html,x", "#outcome", "/etc/passwd", "//evil", "file:///x"]
)
def test_a_link_leads_only_to_the_web(address):
    assert "href" not in str(render_markdown(f"[x]({address})")).replace('href="#harmful-link"', "")


def test_markdown_shows_html_as_text():
    assert "<img" not in str(render_markdown("a <img src=x onerror=alert(1)> b"))


def test_markdown_keeps_emphasis_tables_and_code():
    html = str(render_markdown("**b** `c`\n\n| a | b |\n|---|---|\n| 1 | 2 |"))

    for tag in ("<strong>", "<code>", "<td>"):
        assert tag in html
