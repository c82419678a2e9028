"""Hooks of mkdocs: generated reference pages, figures, and checks of the built pages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File

from site_api import api_pages
from site_check import problems_of
from site_cli import cli_page
from site_figures import with_figures
from site_presets import presets_page
from site_settings import settings_page

if TYPE_CHECKING:
    from typing import Any

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

log = get_plugin_logger(__name__)
_ROLE = re.compile(r":(?:attr|class|data|exc|func|math|meth|mod):<code>~?(?:[\w.]*\.)?([^<]*)</code>")
_DIRECTIVE = re.compile(r"<p>(?:\.\. math)?::</p>\n?")
_FORMULA = re.compile(r"<p>\.\. math::\s(.*?)</p>", flags=re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are generated from the code."""
    pages = {
        "reference/cli.md": cli_page(),
        "reference/settings.md": settings_page(),
        "reference/presets.md": presets_page(),
        **api_pages(),
    }
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Draw the figures of a page."""
    return with_figures(markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Replace what Sphinx reads in docstrings: a role by its name as code, a directive by the block below it."""
    html = _FORMULA.sub(r"<pre><code>\1</code></pre>", _DIRECTIVE.sub("", html))
    return _ROLE.sub(r"<code>\1</code>", html)


def on_post_build(config: MkDocsConfig) -> None:
    """Warn of broken links and of requests to other hosts; with --strict a warning fails the build."""
    for problem in problems_of(Path(config.site_dir)):
        log.warning(problem)
