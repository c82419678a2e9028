"""Self-contained HTML pages: Jinja2 templates with style, scripts and data inlined; pages load no other resources."""

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
        File names, appended in order to the shared ``style.css`` and ``base.js``; a file that the package lacks is a shared
        one, such as ``colours.js`` and ``tree.js`` of the code tree. All scripts share one scope and run in strict mode.
    data : JSON value
        Data for the scripts.
    content : mapping
        Variables of the template; text is escaped on insertion. ``policy``, ``style``, ``script`` and ``data`` are reserved.

    Returns
    -------
    str
        The page; identical arguments give identical text.
    """
    style = _joined("style.css", package, styles)
    script = f'"use strict";\n(() => {{\n{_joined("base.js", package, scripts)}\n}})();\n'
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:"
    # Markup is safe: trusted files, their hashes, and JSON escaped for a script element.
    trusted = {"policy": policy, "style": style, "script": script, "data": json_in_html(data)}
    if reserved := sorted(trusted.keys() & content.keys()):
        raise ValueError(f"expected content without the reserved names, got {', '.join(reserved)}; rename them")
    page = _environment(package).get_template("page.html")
    return page.render({**content, **{name: Markup(text) for name, text in trusted.items()}})


def json_in_html(value: Any) -> str:
    """Return JSON that is safe inside a ``<script>`` element."""
    dumped = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return re.sub("[<>&\u2028\u2029]", lambda match: f"\\u{ord(match[0]):04x}", dumped)


def _environment(package: str) -> Environment:
    """Load templates of the package, then shared ones; escape every value and reject missing variables."""
    return Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader(_SHARED)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _joined(shared: str, package: str, names: Sequence[str]) -> str:
    own, common = files(package) / "static", files(_SHARED) / "static"
    chosen = ((own if (own / name).is_file() else common) / name for name in names)
    parts = [common / shared, *chosen]
    return "\n".join(part.read_text(encoding="utf-8") for part in parts)


def _hash(inline: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()}'"
