"""Remedies for invalid rows: a line of pandas for each rejection reason.

Every line is executed by a test on such rows and leads to a table without them.
"""

from __future__ import annotations

import re

_LINES: tuple[tuple[str, str], ...] = (
    (r"created_at is missing", 'set source.missing_created_at = "first_interaction" in sidkit.toml'),
    (r"(.+) is missing, so label is unknown", 'df = df.dropna(subset=["{0}"])'),
    (
        r"(.+) is not a number, so label is unknown",
        'df["{0}"] = pd.to_numeric(df["{0}"], errors="coerce"); df = df.dropna(subset=["{0}"])',
    ),
    (r"(\w+) is not a number", 'df["{0}"] = pd.to_numeric(df["{0}"], errors="coerce")'),
    (
        r"(\w+) (?:does not exist|occurs twice) in (\S+) .*",
        'df["{0}"] = pd.to_datetime(df["{0}"]).dt.tz_localize("{1}", ambiguous=np.ones(len(df), bool), '
        'nonexistent="shift_forward")',
    ),
    (r"(\w+) is missing", 'df = df.dropna(subset=["{0}"])'),
    (r"(\w+) is empty", 'df = df[df["{0}"] != ""]'),
    (r"(\w+) is not 0 or 1", 'df = df[df["{0}"].isin([0, 1])]'),
    (
        r"(\w+) is outside 1970\.\.2200",
        'df = df[df["{0}"].between(pd.Timestamp(0, tz="UTC"), pd.Timestamp.now("UTC"))]',
    ),
    (r"(\w+) is in the future", 'df = df[df["{0}"] <= pd.Timestamp.now("UTC")]'),
    (r"(\w+) is in 1970 .*", 'df = df[df["{0}"] >= pd.Timestamp("1971-01-01", tz="UTC")]'),
    (
        r"(\w+) is not an ISO 8601 time",
        'df["{0}"] = pd.to_datetime(df["{0}"], utc=True, format="ISO8601", errors="coerce")',
    ),
    (r"(\w+) is not a 32-bit integer", 'df["{0}"] = df["{0}"].where((df["{0}"] % 1 == 0) & (df["{0}"].abs() < 2**31))'),
    (r"(\w+) is infinite", 'df["{0}"] = df["{0}"].replace([np.inf, -np.inf], np.nan)'),
    (r"(\w+) is an empty list", 'df = df[df["{0}"].str.len() != 0]'),
    (r"(\w+) has \d+ elements, the column has (\d+)", 'df = df[df["{0}"].isna() | (df["{0}"].str.len() == {1})]'),
    (
        r"(\w+) has (?:NaN, infinite or missing elements|elements beyond .*)",
        'df = df[df["{0}"].map(lambda value: bool((np.abs(np.asarray(value, "float32")) < 1e15).all()), '
        'na_action="ignore") != False]',
    ),
    (r"the item is not in the catalogue", 'df = df[df["item_id"].isin(items["item_id"])]'),
    (
        r"a second row of this item and updated_at",
        'df = df[~df.assign(at=df["updated_at"].fillna(df.get("created_at", df["updated_at"])))'
        '.duplicated(["item_id", "at"], keep="last")]',
    ),
    (r"a second row of this item", 'df = df.drop_duplicates("item_id", keep="last")'),
    (
        r"a second row of this user and updated_at",
        'df = df[~df.assign(at=df["updated_at"].fillna(df.get("created_at", df["updated_at"])))'
        '.duplicated(["user_id", "at"], keep="last")]',
    ),
    (r"a second row of this user", 'df = df.drop_duplicates("user_id", keep="last")'),
    (r"an exact copy of another row", "df = df.drop_duplicates()"),
    (r"(\w+) is before (created_at)", 'df = df[~(df["{0}"] < df["{1}"])]'),
)
_MOST_ARE_WRONG = (
    r"(\w+) is not 0 or 1",
    'df["{0}"] = (df["{0}"] >= 0.8 * df["{0}"].max()).astype("float64").where(df["{0}"].notna())  # choose the threshold',
)


def row_remedy(reason: str, share: float) -> str:
    """A line of pandas that fixes or removes the rows of ``df`` with this reason; empty if there is none.

    Parameters
    ----------
    reason : str
        A reason given by :func:`sidkit.contract.rows.normalise` or the checks of whole tables.
    share : float
        Share of the table's rows with this reason: if most labels are neither 0 nor 1, they are ratings.
    """
    for pattern, line in (*((_MOST_ARE_WRONG,) if share > 0.5 else ()), *_LINES):
        match = re.fullmatch(pattern, reason)
        if match:
            return str(line.format(*match.groups()))
    return ""
