"""Point-in-time joins as Spark's SQL, in which the newest feature row up to a time is a value of a running window.

Feast joins every entity row with every feature row of its key up to its time, and keeps the newest: costs grow with the product
of both. Here the entity rows and the feature rows of a view are sorted together by key and time, and each entity row takes the
last feature row before it: costs grow with the sum.

:data:`PLAN` is put in front of Feast's own join. It writes what Feast resolved (views, columns, bounds of time) as JSON into
the query, from which :class:`JoinPlan` reads it; Feast's join is not run.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Self

_RESOLVED = {
    "left": "left_table_query_string",
    "time": "entity_df_event_timestamp_col",
    "columns": "final_output_feature_names",
    "views": "featureviews",
    "full_names": "full_feature_names",
    "by_created": "filter_by_created_timestamp",
}
"""Entry of a plan -> variable of Feast's template."""
PLAN = (
    f"/*sidkit {{{{ {{{', '.join(f'{name!r}: {variable}' for name, variable in _RESOLVED.items())}}}"
    r" | tojson | replace('/', '\\/') }} sidkit*/"
)
"""Jinja text for the template of Feast's join; no ``*/`` inside ends the comment."""
ROW, TIME, CREATED = "__row", "__time", "__created"
"""Columns of the rows that one view gives: the number of the entity row, and the times of its feature row."""


@dataclass(frozen=True)
class JoinedView:
    """A feature view of a join: its keys by the entity rows' names, its features by their names in the result, its bounds."""

    context: dict[str, Any]
    full_names: bool
    by_created: bool

    @property
    def name(self) -> str:
        """Its name, or its alias."""
        return str(self.context["name"])

    @property
    def keys(self) -> list[str]:
        """The join keys; none for a view without entities."""
        return list(self.context["entities"])

    @property
    def features(self) -> dict[str, str]:
        """Name in the result -> column of the source."""
        known = self.context["field_mapping"]
        prefix = f"{self.name}__" if self.full_names else ""
        return {f"{prefix}{known.get(each, each)}": each for each in self.context["features"]}

    @property
    def versions(self) -> str:
        """SQL of the feature rows that an entity row can see: keys, ``__time``, ``__created`` and the features."""
        given = self.context
        created = given["created_timestamp_column"] or "CAST(NULL AS TIMESTAMP)"
        columns = [*given["entity_selections"], f"{given['timestamp_field']} AS {TIME}", f"{created} AS {CREATED}"]
        columns += [f"{column} AS {name}" for name, column in self.features.items()]
        bounds = [f"{given['timestamp_field']} <= '{given['max_event_timestamp']}'"]
        day = given["date_partition_column"]
        if day:
            bounds.append(f"{day} <= '{given['max_date_partition']}'")
        if given["ttl"]:
            bounds.append(f"{given['timestamp_field']} >= '{given['min_event_timestamp']}'")
            if day:
                bounds.append(f"{day} >= '{given['min_date_partition']}'")
        return f"SELECT {', '.join(columns)} FROM {given['table_subquery']} WHERE {' AND '.join(bounds)}"

    def as_of(self, left: str, columns: Sequence[str], time: str, taken: Collection[str]) -> str:
        """SQL of entity rows with what they see of this view.

        Parameters
        ----------
        left : str
            Relation of the entity rows.
        columns : sequence of str
            Their columns, keys included.
        time : str
            The column of their times.
        taken : collection of str
            Columns of :attr:`versions` to return besides those of the entity rows; null without a feature row.
        """
        by_created = bool(self.by_created and self.context["created_timestamp_column"])
        seen_at = f"greatest({TIME}, {CREATED})" if by_created else TIME
        fields = list(dict.fromkeys([TIME, *taken]))
        version = f"named_struct({', '.join(f'{name!r}, {name}' for name in fields)})"
        known = [f"{TIME} IS NOT NULL", *(f"{key} IS NOT NULL" for key in self.keys)]
        if by_created:
            known.append(f"{CREATED} IS NOT NULL")  # greatest() ignores nulls
        rest = [name for name in columns if name not in self.keys]
        of_version = [*self.keys, *(f"NULL AS {name}" for name in rest)]
        within = (
            f"(PARTITION BY {', '.join(self.keys) or '1'} ORDER BY __at, __asked, __order ROWS UNBOUNDED PRECEDING)"
        )
        # The order within ties of `__at`: feature rows before entity rows, a missing created time first.
        newest = "max_by(__version, __order)" if by_created else "last(__version, true)"
        ttl = self.context["ttl"]
        valid = f"__found.{TIME} >= __at - {ttl} * INTERVAL '1' SECOND" if ttl else "true"
        return f"""
            SELECT {", ".join([*columns, *(f"IF({valid}, __found.{name}, NULL) AS {name}" for name in taken)])}
            FROM (
                SELECT *, {newest} OVER {within} AS __found
                FROM (
                    SELECT {", ".join(of_version)}, {seen_at} AS __at, false AS __asked,
                        named_struct('time', {TIME}, 'created', {CREATED}) AS __order, {version} AS __version
                    FROM ({self.versions}) WHERE {" AND ".join(known)}
                    UNION ALL
                    SELECT {", ".join([*self.keys, *rest])}, {time}, true, NULL, NULL FROM {left}
                )
            )
            WHERE __asked
        """

    def distinct(self, used: str) -> str:
        """SQL of the features of the feature rows in a relation of keys, ``__time`` and ``__created``, one row for each."""
        identity = [*self.keys, TIME, CREATED]
        same = " AND ".join(f"v.{name} <=> u.{name}" for name in identity)
        return f"""
            SELECT {", ".join([*identity, *self.features])}
            FROM (
                SELECT *, row_number() OVER (PARTITION BY {", ".join(identity)} ORDER BY {TIME}) AS __nth
                FROM (SELECT v.* FROM ({self.versions}) AS v LEFT SEMI JOIN {used} AS u ON {same})
            )
            WHERE __nth = 1
        """


@dataclass(frozen=True)
class JoinPlan:
    """What Feast resolved for a join: the relation of the entity rows, their time, the columns of the result and the views."""

    left: str
    time: str
    columns: tuple[str, ...]
    views: tuple[JoinedView, ...]

    @classmethod
    def read(cls, query: str) -> Self:
        """Read the plan of a query that :data:`PLAN` began."""
        given = json.loads(query[query.index("/*sidkit ") + len("/*sidkit ") : query.index(" sidkit*/")])
        views = (JoinedView(each, given["full_names"], given["by_created"]) for each in given["views"])
        return cls(given["left"], given["time"], tuple(given["columns"]), tuple(views))

    @property
    def own_columns(self) -> list[str]:
        """The columns of the entity rows."""
        features = sum(len(view.features) for view in self.views)
        return list(self.columns[: len(self.columns) - features])

    def joined(self) -> str:
        """SQL of the entity rows with the features of all views; those of each are carried through the next."""
        relation, columns = self.left, self.own_columns
        for view in sorted(self.views, key=lambda view: len(view.features)):
            relation = f"({view.as_of(relation, columns, self.time, list(view.features))})"
            columns = [*columns, *view.features]
        return f"SELECT {', '.join(self.columns)} FROM {relation}"
