"""The on-demand views of the template, computed without pandas; a view whose function was changed is left to Feast's function.

A data frame of one row costs more than reading a user's features.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sidkit.core.arrays import one_chunk

Computed = Callable[[pa.Table], dict[str, npt.NDArray[Any]]]

USER_RECENCY = """
def user_recency(inputs: pd.DataFrame) -> pd.DataFrame:
    newest = [np.nan if times is None or len(times) == 0 else times[0] for times in inputs["timestamps_us"]]
    return pd.DataFrame({"hours_since_last_click": (inputs["at_us"] - newest) / 3.6e9})
"""
"""The function of the template's ``user_recency``."""


def template_function(view: Any) -> Computed | None:
    """The computation that equals a view's function; None if it is no function of the template.

    Parameters
    ----------
    view : feast.OnDemandFeatureView
    """
    if view.mode != "pandas":
        return None
    return _known().get(_body(getattr(view.feature_transformation, "udf_string", "")) or "")


def is_user_recency(view: Any) -> bool:
    """Whether a view's function is that of the template's ``user_recency``."""
    return template_function(view) is _user_recency


def hours_since(newest_us: float, at_us: int) -> float:
    """The value of ``user_recency`` for one user; NaN without a history."""
    return float((at_us - newest_us) / 3.6e9)


def _user_recency(table: pa.Table) -> dict[str, npt.NDArray[Any]]:
    lists = one_chunk(table.column("user_history__timestamps_us"))
    lengths = np.nan_to_num(lists.value_lengths().to_numpy(zero_copy_only=False)).astype(np.int64)
    newest = np.full(len(lists), np.nan)
    first = np.cumsum(lengths) - lengths
    filled = lengths > 0
    newest[filled] = lists.flatten().to_numpy(zero_copy_only=False)[first[filled]]
    at_us = one_chunk(table.column("at_us")).to_numpy(zero_copy_only=False)
    return {"hours_since_last_click": (at_us - newest) / 3.6e9}


@lru_cache(maxsize=1)
def _known() -> dict[str, Computed]:
    return {_body(USER_RECENCY) or "": _user_recency}


@lru_cache(maxsize=64)
def _body(source: str) -> str | None:
    """A function without its decorators and layout; None if the text is no function."""
    try:
        [function] = ast.parse(source).body
    except (SyntaxError, ValueError):
        return None
    if not isinstance(function, ast.FunctionDef):
        return None
    function.decorator_list = []
    return ast.dump(function)
