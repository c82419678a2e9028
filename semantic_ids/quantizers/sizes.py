"""Codes per level: the defaults for a number of items, and the check that the data can fill them."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import numpy as np

from sidkit.core.errors import FitError

ROWS_PER_CODE = 20
_ROWS_PER_BYTE_CODE = 3
LEAST_ITEMS = 2 * ROWS_PER_CODE
"""With fewer items, not even levels of 2 codes have 20 items per code."""


def most_codes(items: int) -> int:
    """The largest power of two of codes with 20 items per code, at least 2."""
    return int(2 ** max(1, (items // ROWS_PER_CODE).bit_length() - 1))


def byte_size(items: int) -> int:
    """The largest power of two of codes of one byte, at most 256, with 3 items per code; at least 2."""
    return min(256, int(2 ** max(1, (items // _ROWS_PER_BYTE_CODE).bit_length() - 1)))


def default_size(items: int) -> int:
    """The default level size: the power of two nearest to items / 40, within 16..1024.

    Fewer than 320 items cannot fill 16 codes; the size is then the largest power of two with 20 items per code, at least 2.
    """
    powers = 2 ** np.arange(4, 11)
    return min(int(powers[np.abs(powers - items / 40).argmin()]), most_codes(items))


def falling_sizes(items: int, levels: int = 3) -> tuple[int, ...]:
    """Decreasing codes per level, as powers of two.

    The last three levels have the ratio 8 : 2 : 1 and each earlier level is 4 times the next; the product of all levels
    is about 6.5 times the items: (128, 32, 16) for 10,000 items, (256, 64, 32) for 100,000. Our rule, modelled on the
    sizes (4096, 1024, 512) of OneSearch (arXiv 2509.03236). Sizes shrink until every code has at least 20 items.
    """
    ratios = [1, 2, *(8 * 4**step for step in range(levels))][:levels][::-1]
    last = (6.5 * items / math.prod(ratios)) ** (1 / levels)
    unit = 2 ** max(1, round(math.log2(max(last, 2))))
    while unit > 2 and ROWS_PER_CODE * unit * ratios[0] > items:
        unit //= 2
    return tuple(min(unit * ratio, most_codes(items)) for ratio in ratios)


def default_sizes(
    items: int, levels: int = 3, *, falling: bool = False, distinct: int | None = None
) -> tuple[int, ...]:
    """The sizes of a quantizer for which none are given.

    Parameters
    ----------
    items : int
        Number of rows of the fit.
    levels : int
        Number of levels.
    falling : bool
        Decreasing sizes (:func:`falling_sizes`) instead of equal ones (:func:`default_size`).
    distinct : int, optional
        Number of different rows; no level has more codes, except that each has at least 2.
    """
    sizes = falling_sizes(items, levels) if falling else (default_size(items),) * levels
    if distinct is None:
        return sizes
    return tuple(min(size, max(2, 2 ** (distinct.bit_length() - 1))) for size in sizes)


def as_sizes(sizes: Sequence[int], argument: str = "sizes") -> tuple[int, ...]:
    """The sizes as a tuple of int.

    Raises
    ------
    FitError
        When they are not a sequence of integers; names the ``argument``.
    """
    try:
        return tuple(operator.index(size) for size in sizes)
    except TypeError as error:
        raise FitError(f"expected {argument} as a sequence of integers, such as (32, 32), got {sizes!r}") from error


def check_sizes(sizes: Sequence[int], rows: int, *, force: bool) -> None:
    """Check that the data can fill levels of these sizes.

    Raises
    ------
    FitError
        When a level has more codes than rows, or fewer than 20 rows per code and ``force`` is false.
    """
    if not sizes or min(sizes) < 2:
        raise FitError(f"sizes must have at least one level, and at least 2 codes per level, got {tuple(sizes)}")
    if max(sizes) > rows:
        raise FitError(
            f"a level of {max(sizes)} codes is larger than the data ({rows} rows). Set `sizes` in the preset's [codebook] to "
            f"at most {most_codes(rows)} codes per level, or fit on more items"
        )
    if rows < ROWS_PER_CODE * max(sizes) and not force:
        raise FitError(
            f"{rows} rows for {max(sizes)} codes is {rows / max(sizes):.1f} per code; with fewer than {ROWS_PER_CODE} per "
            f"code the codes are noise. {_remedy(rows)}"
        )


def _remedy(rows: int) -> str:
    force = (
        "set `force = true` in the preset's [codebook] (`--force` of `sidkit codebooks fit`, `force=True` in Python)"
    )
    if rows < LEAST_ITEMS:
        return f"Fit on at least {LEAST_ITEMS} items, or {force}"
    return (
        f"Set `sizes` in the preset's [codebook] to at most {rows // ROWS_PER_CODE} codes per level (the default for "
        f"{rows} items is {default_size(rows)}), or {force}"
    )
