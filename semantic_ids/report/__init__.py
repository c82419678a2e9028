"""HTML report on a codebook: code tree, metrics, collisions, map and drift."""

from semantic_ids.report.page import write_report

__all__ = ["write_report"]
