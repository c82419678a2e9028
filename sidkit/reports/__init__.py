"""Shared parts of the HTML reports: layout, style, base script, and rendering of a page into one file."""

from sidkit.reports.page import render_page

__all__ = ["render_page"]
