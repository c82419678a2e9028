"""The rendering that all HTML reports share."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jinja2 import UndefinedError

from sidkit.reports import render_page
from sidkit.reports.page import json_in_html

NASTY = "</script></style>\"'<img src=x onerror=alert(1)>{{ data }}{% raw %}"
TEMPLATE = """{% extends "layout.html" %}
{% set skip_to = ("first", "the first section") %}
{% set sections = [("first", "First"), ("second", "Second & last")] %}
{% block title %}{{ name }}{% endblock %}
{% block kicker %}A page{% endblock %}
{% block heading %}Heading{% endblock %}
{% block main %}
<p title="{{ name }}">{{ name }}</p>
{% endblock %}
{% block without_scripts %}Needs JavaScript.{% endblock %}
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A package of its own with a page, a style and a script."""
    folder = tmp_path_factory.mktemp("reports") / "one_page_report"
    for path, text in (
        ("__init__.py", ""),
        ("templates/page.html", TEMPLATE),
        ("static/own.css", "p { color: red }"),
        ("static/own.js", "make(data);"),
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    sys.path.insert(0, str(folder.parent))
    yield folder.name
    sys.path.remove(str(folder.parent))


def rendered(package: str, **content: Any) -> str:
    facts = {"summary": "A page & its summary", **content}
    return render_page(package, styles=["own.css"], scripts=["own.js"], data=[NASTY], content=facts)


def test_the_header_links_the_sections(package: str) -> None:
    page = rendered(package, name="a")
    assert '<a class="skip" href="#first-section">Skip to the first section</a>' in page
    assert re.findall(r'<a href="#(.*)">(.*)</a>', page) == [
        ("first-section", "First"),
        ("second-section", "Second &amp; last"),
    ]
    assert "<h1>Heading</h1>" in page and "A page &amp; its summary" in page


def test_content_is_escaped_in_text_and_in_attributes(package: str) -> None:
    page = rendered(package, name=NASTY)
    assert "<img" not in page
    assert page.count("</script>") == 2
    assert page.count("</style>") == 1
    assert 'title="&lt;/script&gt;&lt;/style&gt;&#34;&#39;&lt;img' in page
    assert "{{ data }}{% raw %}</p>" in page


def test_the_policy_allows_the_inlined_style_and_script_only(package: str) -> None:
    page = rendered(package, name="a")
    hashes = [
        f"'sha256-{base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()}'"
        for inner in (re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[0] for tag in ("style", "script"))
    ]
    policy = f"default-src 'none'; style-src {hashes[0]}; script-src {hashes[1]}; img-src data:"
    assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in page
    assert "p { color: red }" in page
    assert "make(data);" in page


def test_a_missing_variable_is_an_error(package: str) -> None:
    with pytest.raises(UndefinedError, match="name"):
        rendered(package)


@settings(suppress_health_check=[HealthCheck.too_slow])  # the first text that a process draws takes seconds
@given(
    st.recursive(
        st.text() | st.none() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_json_in_a_page_reads_as_what_it_was_and_closes_no_element(value: Any) -> None:
    embedded = json_in_html(value)
    assert json.loads(embedded) == value
    assert not set(embedded) & set("<>&\u2028\u2029")
