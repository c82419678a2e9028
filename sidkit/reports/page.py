"""Self-contained HTML pages: Jinja2 templates with style, scripts and data inlined; a page may load nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

_SHARED = "sidkit.reports"


def render_page(
    package: str, *, styles: Sequence[str] = (), scripts: Sequence[str] = (), data: Any, content: Mapping[str, Any]
) -> str:
    """Render ``templates/page.html`` of a package as one HTML file.

    Parameters
    ----------
    package : str
        A package with ``templates/page.html``, which extends the shared ``layout.html``, and with the files of
        ``styles`` and ``scripts`` in ``static/``.
    styles, scripts : sequence of str
        File names, joined in their order after the shared ``style.css`` and ``base.js``. All scripts share one scope
        and run in strict mode.
    data : JSON value
        What the scripts read.
    content : mapping
        Variables of the template. Their text is escaped when it is inserted.

    Returns
    -------
    str
        The page: the same text for the same arguments.
    """
    style = _joined("style.css", package, styles)
    script = f'"use strict";\n(() => {{\n{_joined("base.js", package, scripts)}\n}})();\n'
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:"
    # Markup: these four are our own files, hashes of them, and JSON that is escaped for a script element.
    own = {"policy": policy, "style": style, "script": script, "data": json_in_html(data)}
    page = _environment(package).get_template("page.html")
    return page.render({**content, **{name: Markup(text) for name, text in own.items()}})


def json_in_html(value: Any) -> str:
    """JSON that can stand in a ``<script>`` element whatever its strings are."""
    dumped = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", dumped)


def _environment(package: str) -> Environment:
    """Templates of the package first, then the shared ones; every inserted value is escaped, a missing one is an error."""
    return Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader(_SHARED)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _joined(shared: str, package: str, names: Sequence[str]) -> str:
    own = files(package) / "static"
    parts = [files(_SHARED) / "static" / shared, *(own / name for name in names)]
    return "\n".join(part.read_text(encoding="utf-8") for part in parts)


def _hash(inline: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()}'"
