"""Logs of the service on stderr."""

from __future__ import annotations

import logging


def log_to_stderr() -> None:
    """Access lines are JSON; other lines start with time and level."""
    plain = logging.StreamHandler()
    plain.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    lines = logging.StreamHandler()
    lines.setFormatter(logging.Formatter("%(message)s"))
    for name, handler in (("sidkit.serve", plain), ("uvicorn", plain)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
    for name in ("sidkit.serve.access", "sidkit.serve.shadow"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [lines], False
