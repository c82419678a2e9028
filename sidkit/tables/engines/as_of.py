"""As-of joins of SQL trees as running maxima, for engines without such a join.

``l ASOF JOIN r ON l.key = r.key AND l.time >= r.time`` finds the newest row of ``r`` at or before each row of ``l``. Its time
is the maximum over the times of ``r`` up to then, in the union of both sides' times; two equality joins add the columns. Rows
of ``r`` must be unique by key and time.
"""

from __future__ import annotations

from typing import cast

from sqlglot import exp


def without_as_of_joins(tree: exp.Expr) -> exp.Expr:
    """Replace all as-of joins of a tree; it is changed in place and returned.

    Raises
    ------
    ValueError
        When a join is not of the form above, with the columns of the left side first.
    """
    number = 0
    for select in list(tree.find_all(exp.Select)):
        joins = select.args.get("joins") or []
        for at, join in enumerate(list(joins)):
            if (join.method or "").upper() == "ASOF":
                start = joins.index(join)
                if at:
                    raise ValueError(
                        f"expected an as-of join as the first join, got it behind others: {select.sql('duckdb')}"
                    )
                joins[start : start + 1] = _two_joins(select, join, f"_as_of_{number}")
                number += 1
        select.set("joins", joins)
    return tree


def _two_joins(select: exp.Select, join: exp.Join, name: str) -> list[exp.Join]:
    left, right = select.args["from_"].this, join.this
    (key, other_key), (time, other_time) = _sides(join)
    right_name = right.alias_or_name
    moments = f"""
        SELECT _key, _time, max(_version) OVER (PARTITION BY _key ORDER BY _time ROWS UNBOUNDED PRECEDING) AS _version
        FROM (
            SELECT _key, _time, max(_version) AS _version FROM (
                SELECT {key} AS _key, {time} AS _time, CAST(NULL AS BIGINT) AS _version FROM {left.sql("duckdb")}
                UNION ALL
                SELECT {other_key}, {other_time}, {other_time} FROM {right.sql("duckdb")}
            ) AS {name}_times
            GROUP BY _key, _time
        ) AS {name}_moments
    """
    parsed = cast("exp.Select", exp.maybe_parse(moments, dialect="duckdb"))
    side = join.args.get("side") or ""
    newest = exp.Join(
        this=exp.Subquery(this=parsed, alias=exp.TableAlias(this=exp.to_identifier(name))),
        side=side,
        on=exp.condition(f"{key} = {name}._key AND {time} = {name}._time", dialect="duckdb"),
    )
    rows = exp.Join(
        this=right.copy(),
        side=side,
        on=exp.condition(
            f"{name}._key = {_of(right_name, other_key)} AND {name}._version = {_of(right_name, other_time)}",
            dialect="duckdb",
        ),
    )
    return [newest, rows]


def _sides(join: exp.Join) -> tuple[tuple[str, str], tuple[str, str]]:
    """The keys and the times of both sides as SQL."""
    on = join.args.get("on")
    if isinstance(on, exp.And) and isinstance(on.left, exp.EQ) and isinstance(on.right, exp.GTE):
        keys, times = on.left, on.right
        return (
            (keys.left.sql("duckdb"), keys.right.sql("duckdb")),
            (times.left.sql("duckdb"), times.right.sql("duckdb")),
        )
    raise ValueError(f"expected an as-of join ON l.key = r.key AND l.time >= r.time, got {join.sql('duckdb')}")


def _of(relation: str, column: str) -> str:
    return column if "." in column else f"{relation}.{column}"
