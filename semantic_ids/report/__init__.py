"""A codebook as one HTML page: what its codes hold, how well they are used, and how they age."""

from semantic_ids.report.page import write_report

__all__ = ["write_report"]
