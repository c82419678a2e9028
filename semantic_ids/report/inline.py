"""Pages of one file: style, scripts and data go into the HTML, and the page may load nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SHARED_STYLE = Path(__file__).parent / "style.css"
SHARED_SCRIPT = Path(__file__).parent / "base.js"
"""What the pages of all reports have in common."""


def inline_page(
    template: Path, styles: Sequence[Path], scripts: Sequence[Path], data: Any, slots: Mapping[str, str]
) -> str:
    """The page as text.

    Parameters
    ----------
    template : Path
        HTML with ``{{slot}}`` marks; ``policy``, ``style``, ``script`` and ``data`` are filled here.
    styles, scripts : sequence of Path
        Joined in their order; the scripts share one scope and run in strict mode.
    data : JSON value
        What the scripts read.
    slots : mapping
        HTML of the other slots, already escaped.
    """
    style = "\n".join(path.read_text(encoding="utf-8") for path in styles)
    joined = "\n".join(path.read_text(encoding="utf-8") for path in scripts)
    script = f'"use strict";\n(() => {{\n{joined}\n}})();\n'
    filled = {
        "policy": f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:",
        "style": style,
        "script": script,
        "data": json_in_html(data),
        **slots,
    }
    # One pass: what a slot holds is never read as a slot.
    return re.sub(r"\{\{(\w+)\}\}", lambda slot: filled[slot[1]], template.read_text(encoding="utf-8"))


def json_in_html(value: Any) -> str:
    """JSON that can stand in a ``<script>`` element whatever its strings are."""
    dumped = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", dumped)


def _hash(inline: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()}'"
