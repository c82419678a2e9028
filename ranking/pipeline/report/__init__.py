"""HTML report of a run: conclusions, arms, differences, the code tree, stages and how to go on."""

from ranking.pipeline.report.page import write_report

__all__ = ["write_report"]
