"""Reference pages of the public names of packages, for mkdocstrings."""

from __future__ import annotations

import importlib
from importlib.util import find_spec

_PAGES = {
    "reference/python.md": (
        "Python API",
        "`import sidkit` is lazy: heavy libraries are imported when a method needs them. Times are ISO 8601 text or datetimes "
        "with a zone. Methods that write take the repository's lock.",
        ("sidkit", "sidkit.api"),
    ),
    "reference/semantic-ids.md": (
        "Codebooks and estimators",
        "Quantizers and encoders follow scikit-learn: the constructor stores its arguments, `fit` learns, fitted attributes "
        "end in `_`. Vectors are `float32 [items, dim]`, codes `int32 [items, levels]`.",
        ("semantic_ids",),
    ),
}
_SKIPPED = {"__version__", "SidkitError", "SidkitWarning", "Settings"}
"""Described on the pages of errors and settings."""


def api_pages() -> dict[str, str]:
    """Path -> text of the pages."""
    return {path: _page(title, text, packages) for path, (title, text, packages) in _PAGES.items()}


def _page(title: str, text: str, packages: tuple[str, ...]) -> str:
    shown: dict[str, str] = {}
    for package in filter(find_spec, packages):
        names = importlib.import_module(package).__all__
        for name in names:
            if name not in _SKIPPED:
                shown.setdefault(_place(package, name), f"{package}.{name}")
    return f"# {title}\n\n{text}\n\n" + "\n".join(
        f'::: {place}\n    options:\n      heading: "{name}"\n      toc_label: "{name}"\n'
        for place, name in shown.items()
    )


def _place(package: str, name: str) -> str:
    """The module and name that define a public name, so that it appears once."""
    thing = getattr(importlib.import_module(package), name)
    return f"{thing.__module__}.{thing.__qualname__}"
