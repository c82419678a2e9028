"""On-demand feature views: which features and request inputs they need, and their values from the rows of stored views."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sidkit.core.arrays import Ints, one_chunk
from sidkit.core.errors import ConfigError, ServingError
from sidkit.stores.offline.plan import ViewRows
from sidkit.stores.template_views import template_function

if TYPE_CHECKING:
    from feast import FeatureService, FeatureStore

ROW_TIME = "at_us"
"""Request input that sidkit provides: the row's time, microseconds UTC."""
CHUNK_ROWS = 50_000
_TEMPLATE_INPUTS = {"user_history__timestamps_us", ROW_TIME}

Values: TypeAlias = "Sequence[Any] | npt.NDArray[Any] | pa.Array | pa.ChunkedArray"


@dataclass(frozen=True)
class OnDemandView:
    """One on-demand view of a feature service.

    Parameters
    ----------
    name : str
        Its name (or alias) in the service.
    view : feast.OnDemandFeatureView
        The view with its transformation.
    features : tuple of (str, pyarrow.DataType)
        The features of the service, with their declared types.
    sources : mapping
        Source view -> full names of the features that it reads.
    request : mapping
        Request input -> type.
    """

    name: str
    view: Any
    features: tuple[tuple[str, pa.DataType], ...]
    sources: Mapping[str, tuple[str, ...]]
    request: Mapping[str, pa.DataType]

    def rows(self, views: Mapping[str, ViewRows], inputs: Mapping[str, pa.Array], count: int) -> ViewRows:
        """Compute the view's features for rows, a chunk at a time.

        Parameters
        ----------
        views : mapping
            The rows of its source views.
        inputs : mapping
            Request input -> values of its type, one per row.
        count : int
            Number of rows.

        Raises
        ------
        ConfigError
            When the transformation fails, or does not return the declared features.
        """
        parts = []
        for start in range(0, max(count, 1), CHUNK_ROWS):
            size = min(CHUNK_ROWS, count - start)
            columns = {name: inputs[name].slice(start, size) for name in self.request}
            for source, names in self.sources.items():
                plain = _plain(views[source], names, start, size)
                columns |= dict(zip(plain.column_names, plain.columns, strict=True))
            parts.append(self._transformed(pa.table(columns), size))
        return ViewRows(self.name, np.arange(count), pa.concat_tables(parts).combine_chunks())

    def _transformed(self, table: pa.Table, rows: int) -> pa.Table:
        names = [f"{self.name}__{feature}" for feature, _ in self.features]
        if rows == 0:
            return pa.schema([(name, kind) for name, (_, kind) in zip(names, self.features, strict=True)]).empty_table()
        try:
            made = self._made(table)
            missing = [name for name in names if name not in made]
            if not missing and all(len(made[name]) == rows for name in names):
                kinds = [kind for _, kind in self.features]
                return pa.table([_cast(made[name], kind) for name, kind in zip(names, kinds, strict=True)], names=names)
        except Exception as error:
            raise ConfigError(
                f"the on-demand view {self.name} failed ({type(error).__name__}: {error}). Its function gets the columns "
                f"{', '.join(table.column_names)} (and each without its view's name) and no others; correct it, and run "
                "`sidkit apply`"
            ) from error
        expected = ", ".join(feature for feature, _ in self.features)
        got = f"no {', '.join(missing)}" if missing else f"{len(made[names[0]])} values"
        raise ConfigError(
            f"the on-demand view {self.name}: expected one value of {expected} for each of {rows} rows, got {got}; correct "
            "its function, and run `sidkit apply`"
        )

    def _made(self, table: pa.Table) -> dict[str, pa.ChunkedArray | pa.Array]:
        """The columns that the function returns, by their full names."""
        of_template = template_function(self.view)
        if of_template is not None and set(table.column_names) >= _TEMPLATE_INPUTS:
            return {
                f"{self.name}__{name}": pa.array(values, from_pandas=True)
                for name, values in of_template(table).items()
            }
        if self.view.mode == "pandas":  # as Feast does, in half the time
            frame = table.to_pandas(use_threads=len(table) >= CHUNK_ROWS)  # threads cost more than a request saves
            for source, names in self.sources.items():
                for name in names:
                    frame[name.removeprefix(f"{source}__")] = frame[name]
            made = self.view.feature_transformation.udf(frame)
            columns = {name: pa.array(made[name].to_numpy(), from_pandas=True) for name in made.columns}
            return columns | {f"{self.name}__{name}": column for name, column in columns.items()}
        if self.view.mode == "substrait":
            import ibis

            result = self.view.transform_ibis(ibis.memtable(table), True).to_pyarrow()
        else:
            result = self.view.transform_arrow(table, True)
        return dict(zip(result.column_names, result.columns, strict=True))


def _plain(view: ViewRows, names: Sequence[str], start: int, size: int) -> pa.Table:
    """Features of some rows of a view, one row each."""
    table, index = view.table.select(list(names)), view.index[start : start + size]
    if len(table) == size and bool((index == np.arange(size)).all()):
        return table
    return ViewRows(view.name, index, table).plain()


def _cast(column: pa.ChunkedArray | pa.Array, kind: pa.DataType) -> pa.ChunkedArray | pa.Array:
    return column if column.type == kind else column.cast(kind, safe=False)


@dataclass(frozen=True)
class ServiceViews:
    """What a feature service needs: stored views to read, on-demand views to compute, keys and request inputs."""

    names: tuple[str, ...]
    """Names (or aliases) of the service's views, in its order."""
    stored: tuple[Any, ...]
    """Stored views to read, each with the projection to read, those of on-demand views' sources included."""
    on_demand: tuple[OnDemandView, ...]
    keys: Mapping[str, pa.DataType]
    """Join key of the stored views, by the service's name for it -> its type."""

    @classmethod
    def of(cls, store: FeatureStore, service: FeatureService) -> ServiceViews:
        """Look up the views of a service in the registry, once.

        Raises
        ------
        ConfigError
            When an on-demand view computes one row at a time (``singleton``), which Feast does not support offline.
        """
        stored: dict[str, Any] = {}
        on_demand = []

        def look_up(projection: Any) -> Any:
            view = store.registry.get_any_feature_view(projection.name, store.project, allow_cache=True)
            return view.with_projection(projection)

        def read(projection: Any) -> None:
            view = look_up(projection)
            existing = stored.setdefault(view.projection.name_to_use(), view).projection
            known = {feature.name for feature in existing.features}
            existing.features += [feature for feature in projection.features if feature.name not in known]

        for projection in service.feature_view_projections:
            view = look_up(projection)
            if _is_on_demand(view):
                on_demand.append(_on_demand(view))
                for source in view.source_feature_view_projections.values():
                    read(_copied(source, alias=None))  # Feast ignores an alias here
            else:
                read(_copied(projection, alias=projection.name_alias))
        keys = {name: kind for view in stored.values() for name, kind in _keys_of(view).items()}
        names = tuple(projection.name_to_use() for projection in service.feature_view_projections)
        return cls(names, tuple(stored.values()), tuple(on_demand), keys)

    def without(self, names: Collection[str]) -> ServiceViews:
        """The same views without some stored features, by full name; inputs of on-demand views remain."""
        unread = set(names) - {name for view in self.on_demand for read in view.sources.values() for name in read}
        return replace(self, stored=tuple(_with_fewer(view, unread) for view in self.stored))

    def excluding(self, names: Collection[str]) -> ServiceViews:
        """The same views without some of the stored ones; sources of on-demand views are still read, but not returned."""
        sources = {source for view in self.on_demand for source in view.sources}
        stored = {view.projection.name_to_use(): view for view in self.stored}
        read = tuple(view for name, view in stored.items() if name not in names or name in sources)
        return replace(self, names=tuple(name for name in self.names if name not in names), stored=read)

    def computing(self, features: Collection[str]) -> ServiceViews:
        """The same views without the on-demand views of which no feature is wanted, by full name."""
        idle = {
            view.name
            for view in self.on_demand
            if not any(f"{view.name}__{name}" in features for name, _ in view.features)
        }
        return replace(
            self,
            names=tuple(name for name in self.names if name not in idle),
            on_demand=tuple(view for view in self.on_demand if view.name not in idle),
        )

    @property
    def local(self) -> bool:
        """Whether all stored views have local Parquet files, which the kit's offline store joins itself."""
        from sidkit.stores.offline.view_plans import is_local_parquet

        return all(is_local_parquet(view.batch_source) for view in self.stored)

    @property
    def request(self) -> dict[str, pa.DataType]:
        """Request input -> type, of all on-demand views."""
        return {name: kind for view in self.on_demand for name, kind in view.request.items()}

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns that each row needs: join keys, and request inputs besides :data:`ROW_TIME`."""
        return tuple(dict.fromkeys([*self.keys, *(name for name in self.request if name != ROW_TIME)]))

    def columns(self, values: Mapping[str, Values], at_us: Ints) -> dict[str, pa.Array]:
        """The request inputs of rows as arrays of their declared types.

        Raises
        ------
        ServingError
            When one is missing, or cannot be converted.
        """
        columns = {}
        for name, kind in self.request.items():
            given = at_us if name == ROW_TIME else required(values, name, self.names)
            columns[name] = _converted(given, kind, f"the request input {name}")
        return columns

    def whole_keys(self, values: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
        """Join keys and other values, with texts read as integers where a key is one.

        Raises
        ------
        ServingError
            When a text is no integer.
        """
        typed = dict(values)
        for name, kind in self.keys.items():
            if pa.types.is_integer(kind) and name in values:
                typed[name] = _converted(values[name], kind, f"the key {name}").to_pylist()
        return typed

    def completed(
        self, views: Mapping[str, ViewRows], values: Mapping[str, Values], at_us: Ints
    ) -> dict[str, ViewRows]:
        """The service's views in its order: those of ``views`` (the stored ones) and the on-demand ones.

        Parameters
        ----------
        views : mapping
            Rows of :attr:`stored`.
        values : mapping
            Request inputs; other entries are ignored.
        at_us : int64 [rows]
            The rows' times, microseconds UTC.
        """
        if not self.on_demand:
            return {name: views[name] for name in self.names}
        columns = self.columns(values, at_us)
        made = {view.name: view.rows(views, columns, len(at_us)) for view in self.on_demand}
        return {name: made[name] if name in made else views[name] for name in self.names}


def _keys_of(view: Any) -> dict[str, pa.DataType]:
    """Join keys of a view, by the names that a service gives them, without Feast's key for views without entities."""
    from feast.feature_view import DUMMY_ENTITY_ID
    from feast.types import from_feast_to_pyarrow_type

    mapped = view.projection.join_key_map or {}
    return {
        mapped.get(key.name, key.name): from_feast_to_pyarrow_type(key.dtype)
        for key in view.entity_columns
        if key.name != DUMMY_ENTITY_ID
    }


def required(values: Mapping[str, Values], name: str, views: Sequence[str]) -> Values:
    """An input of rows.

    Raises
    ------
    ServingError
        When it is missing.
    """
    if name not in values:
        raise ServingError(
            f"expected a value of {name}, which {', '.join(views)} read, got {', '.join(values) or 'none'}. Pass it as "
            f"context: {name}=VALUE"
        )
    return values[name]


def array_of(values: Values, kind: pa.DataType | None = None) -> pa.Array:
    """Values as one array, of a type if given; texts are read, and microseconds since the epoch may become timestamps."""
    is_arrow = isinstance(values, pa.Array | pa.ChunkedArray)
    array = one_chunk(values) if is_arrow else pa.array(values, from_pandas=True)
    if kind is None or array.type == kind:
        return array
    if pa.types.is_timestamp(kind) and pa.types.is_integer(array.type):
        array = array.cast(pa.timestamp("us"))
    return array.cast(kind)


def reads_row_time(store: FeatureStore, features: FeatureService | Sequence[str]) -> bool:
    """Whether an on-demand view of a service, or of references ``view:feature``, has the request input :data:`ROW_TIME`."""
    if isinstance(features, Sequence):
        names = [reference.split(":")[0] for reference in features]
    else:
        names = [projection.name for projection in features.feature_view_projections]
    on_demand = {view.name: view for view in store.list_on_demand_feature_views()}
    return any(name in on_demand and ROW_TIME in on_demand[name].get_request_data_schema() for name in names)


def own_stored_views(store: FeatureStore, extra: Sequence[str]) -> list[Any]:
    """The registered stored views with the features ``view:feature``, those of on-demand views' sources included."""
    views = {view.name: view for view in store.list_all_feature_views()}
    named = [views[name] for name in dict.fromkeys(each.split(":")[0] for each in extra) if name in views]
    found: dict[str, Any] = {}
    for view in named:
        sources = getattr(view, "source_feature_view_projections", None)
        for name in [view.name] if sources is None else [source.name for source in sources.values()]:
            if name in views and getattr(views[name], "online", False):
                found[name] = views[name]
    return list(found.values())


def _converted(values: Values, kind: pa.DataType, what: str) -> pa.Array:
    try:
        return array_of(values, kind)
    except (pa.ArrowException, OverflowError) as error:
        raise ServingError(f"expected {what} as {kind}, got another type ({error}); convert it") from error


def _is_on_demand(view: Any) -> bool:
    return hasattr(view, "source_feature_view_projections")


def _copied(projection: Any, *, alias: str | None) -> Any:
    """A projection under another name, whose list of features may be extended."""
    copied = copy.copy(projection)
    copied.name_alias, copied.features = alias, list(projection.features)
    return copied


def _with_fewer(view: Any, unread: Collection[str]) -> Any:
    """A stored view whose projection lacks some features, by full name."""
    projection = _copied(view.projection, alias=view.projection.name_alias)
    name = projection.name_to_use()
    projection.features = [each for each in projection.features if f"{name}__{each.name}" not in unread]
    return view.with_projection(projection)


def _on_demand(view: Any) -> OnDemandView:
    from feast.types import from_feast_to_pyarrow_type, from_value_type

    arrow: Callable[[Any], pa.DataType] = from_feast_to_pyarrow_type
    if view.singleton:
        raise ConfigError(
            f"expected an on-demand view over all rows, got {view.name} with singleton=True, which Feast cannot compute "
            "offline. Remove singleton=True and return lists, and run `sidkit apply`"
        )
    return OnDemandView(
        view.projection.name_to_use(),
        view,
        tuple((feature.name, arrow(feature.dtype)) for feature in view.projection.features),
        {
            source.name: tuple(f"{source.name}__{feature.name}" for feature in source.features)
            for source in view.source_feature_view_projections.values()
        },
        {name: arrow(from_value_type(kind)) for name, kind in view.get_request_data_schema().items()},
    )
