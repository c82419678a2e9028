"""The reference of ``sidkit.toml``, from its models."""

from __future__ import annotations

from sidkit.core.config import Settings
from site_models import section_text, sections

_HEAD = """\
# Settings

The settings of a repository are in its file `sidkit.toml`. `sidkit init` infers `[source]` and the attributes in `[features]`
from the data. Unknown keys are rejected. A setting that determines the features cannot be changed while artefacts exist that
were built with another value; `[features]` can be changed at any time.

This page is generated from `sidkit.core.config.Settings`.

"""


def settings_page() -> str:
    """One section per table of the file."""
    return _HEAD + "".join(section_text(path, model) for path, model in sections(Settings).items())
