"""A comparison as one HTML page."""

from ranking.experiments.comparison.report.page import write_page

__all__ = ["write_page"]
