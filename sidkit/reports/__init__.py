"""What the HTML reports share: the layout, the style, the base script, and the rendering of a page into one file."""

from sidkit.reports.page import render_page

__all__ = ["render_page"]
