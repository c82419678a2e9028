"""A comparison as one HTML page."""

from ranking.comparison.report.page import write_page

__all__ = ["write_page"]
