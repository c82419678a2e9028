"""HTML report on comparisons."""

from ranking.experiments.comparison.report.page import write_page

__all__ = ["write_page"]
