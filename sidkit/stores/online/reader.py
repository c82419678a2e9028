"""Reading features by key from the packed online store as Arrow, without a Python object per value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sidkit.core.arrays import one_chunk
from sidkit.core.errors import ConfigError, OnlineStoreError, ServingError
from sidkit.stores.offline.plan import ViewRows
from sidkit.stores.online.arrow import KEY_TYPES, arrow_type, entity_keys, integer_keys, text_keys, to_arrow
from sidkit.stores.online.cache import Entry, Group
from sidkit.stores.online.checksums import event_us, since
from sidkit.stores.online.codec import layout_number, unpack, unpack_numbers
from sidkit.stores.online.layout import PROTO, Layout, kind_of
from sidkit.stores.online.one_row import RowDecoder, row_decoder
from sidkit.stores.online.transactions import READ_VIEWS, Layouts, PackedDatabase, Reading

if TYPE_CHECKING:
    from feast import FeatureService, FeatureStore


_NO_ENTITY, _NO_VALUE = "__dummy_id", ""  # Feast's DUMMY_ENTITY_ID and DUMMY_ENTITY_VAL


@dataclass(frozen=True)
class PackedView:
    """One view to read: ``stored`` is its name in the file, ``columns`` are (feature, column, kind), ``keys`` (key, column of
    the request, type).

    A view without entities has one row, with Feast's dummy key, which is not in the request.
    """

    name: str
    stored: str
    columns: tuple[tuple[str, str, str], ...]
    types: tuple[pa.DataType, ...]
    keys: tuple[tuple[str, str, str], ...]
    ttl_us: int | None

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Full names of the features."""
        return tuple(column for _, column, _ in self.columns)


class PackedReader:
    """Reads the views of one feature service; created by :func:`open_reader`."""

    def __init__(self, database: PackedDatabase, clock: Callable[[], int], views: Sequence[PackedView]) -> None:
        self.database = database
        self._clock = clock
        self._views = list(views)
        by_keys: dict[tuple[tuple[str, str, str], ...], list[PackedView]] = {}
        for view in views:
            by_keys.setdefault(view.keys, []).append(view)
        self._groups = list(by_keys.values())
        self._stored = [tuple(view.stored for view in views) for views in self._groups]
        self._decoders: dict[tuple[str, int], tuple[Layout, RowDecoder | None]] = {}

    @property
    def views(self) -> dict[str, PackedView]:
        """The views by their names (or aliases) in the service."""
        return {view.name: view for view in self._views}

    def read(self, keys: Mapping[str, Sequence[Any]], at_us: int | None = None) -> dict[str, ViewRows]:
        """Read the features of rows, all from one snapshot.

        Parameters
        ----------
        keys : mapping
            Join key (by the service's name for it) -> values; all of equal length, which is also the number of rows of
            a view without entities.
        at_us : int, optional
            Time for the TTLs, microseconds UTC; defaults to the store's clock.

        Returns
        -------
        dict
            View name (or its alias in the service) -> rows. Columns have Feast's full names and the declared types;
            ``index`` is -1 if there is no row or it is older than the TTL.

        Raises
        ------
        ServingError
            When a key of a view is missing or has another type.
        OnlineStoreError
            When the store cannot be read.
        """
        rows = len(next(iter(keys.values()), ()))
        whole = {_NO_ENTITY: [_NO_VALUE] * rows, **keys}
        serialized = [_serialized(views[0], whole) for views in self._groups]
        cached = self.database.cached(list(zip(self._stored, serialized, strict=True)))
        result: dict[str, ViewRows] = {}
        if cached is not None:
            reading, groups = cached
            for views, entries in zip(self._groups, groups, strict=True):
                for view, column in zip(views, zip(*entries, strict=True), strict=True):
                    result[view.name] = view_rows_of(reading, view, since(list(column), self._since(view, at_us)))
            return {view.name: result[view.name] for view in self._views}
        with self.database.reading() as reading:
            for views, group_keys in zip(self._groups, serialized, strict=True):
                stored = [(view.stored, self._since(view, at_us)) for view in views]
                for view, view_rows in zip(views, reading.rows_of(stored, group_keys), strict=True):
                    result[view.name] = view_rows_of(reading, view, view_rows)
        return {view.name: result[view.name] for view in self._views}

    def _since(self, view: PackedView, at_us: int | None) -> int | None:
        """The oldest event time that a view's TTL allows; None without a TTL."""
        if view.ttl_us is None:
            return None
        return (self._clock() if at_us is None else at_us) - view.ttl_us

    def read_one(self, keys: Mapping[str, Any], at_us: int | None = None) -> dict[str, Any]:
        """Read the features of one entity as Python values, faster than :meth:`read`.

        Parameters
        ----------
        keys : mapping
            Join key (by the service's name for it) -> value.
        at_us : int, optional
            As for :meth:`read`.

        Returns
        -------
        dict
            Full feature name (``view__feature``) -> value, None if it is missing: those of ``get_online_features(...,
            full_feature_names=True).to_dict()``.

        Raises
        ------
        ServingError, OnlineStoreError
            As for :meth:`read`.
        """
        whole = {_NO_ENTITY: [_NO_VALUE], **{name: [value] for name, value in keys.items()}}
        wanted = [
            (group, _serialized(views[0], whole)[0]) for group, views in zip(self._stored, self._groups, strict=True)
        ]
        newest = self.database.newest(wanted) if all(len(group) <= READ_VIEWS for group in self._stored) else None
        values = self._from_snapshot(wanted, at_us) if newest is None else self._decoded(*newest, at_us)
        if values is None:
            views = self.read({name: [value] for name, value in keys.items()} or {_NO_ENTITY: [_NO_VALUE]}, at_us)
            return {name: column[0].as_py() for view in views.values() for name, column in _columns(view)}
        return values

    def _from_snapshot(self, wanted: Sequence[tuple[Group, bytes]], at_us: int | None) -> dict[str, Any] | None:
        """Like :meth:`_decoded`, from a transaction."""
        with self.database.reading() as reading:
            entries = []
            for group, key in wanted:
                rows = reading.rows_of([(stored, None) for stored in group], [key])
                entries.append(tuple(row for [row] in rows))
            layouts = {stored: reading.layouts(stored) for group, _ in wanted for stored in group}
        return self._decoded(entries, layouts, at_us)

    def _decoded(self, entries: Sequence[Entry], layouts: Layouts, at_us: int | None) -> dict[str, Any] | None:
        """The values of verified rows; None if only arrays convert one."""
        values: dict[str, Any] = {}
        for views, entry in zip(self._groups, entries, strict=True):
            for view, row in zip(views, entry, strict=True):
                past_us = self._since(view, at_us)
                if row is None or (past_us is not None and event_us(row) < past_us):
                    values.update(dict.fromkeys(view.names))
                    continue
                number = row[0] | row[1] << 8
                layout = layouts.get(view.stored, {}).get(number)
                if layout is None:
                    return None
                known, decoder = self._decoders.get((view.name, number), (None, None))
                if known is not layout:
                    decoder = row_decoder(layout, [(feature, kind) for feature, _, kind in view.columns])
                    self._decoders[view.name, number] = layout, decoder
                if decoder is None:
                    return None
                values.update(zip(view.names, decoder(row), strict=True))
        return values if len(self._groups) == 1 else {name: values[name] for view in self._views for name in view.names}


def _columns(view: ViewRows) -> list[tuple[str, Any]]:
    plain = view.plain()
    return list(zip(plain.column_names, plain.columns, strict=True))


def open_reader(store: FeatureStore, service: FeatureService | str) -> PackedReader:
    """A reader of the online features of a feature service, many times faster than ``get_online_features``.

    The service's views are looked up in the registry once: open another reader after ``feast apply``. The rows come from the
    newest commit at each read. A reader may be used from several threads.

    Parameters
    ----------
    store : FeatureStore
        A store whose ``online_store.type`` is ``sidkit.stores.online.PackedSqliteOnlineStore``.
    service : FeatureService or str
        The service or its name.

    Raises
    ------
    ConfigError
        When the store is another one, or the service has on-demand views or features without a plain Arrow type.
    """
    from sidkit.stores.on_demand import ServiceViews

    named = store.get_feature_service(service) if isinstance(service, str) else service
    views = ServiceViews.of(store, named)
    computed = ", ".join(view.name for view in views.on_demand)
    reader = None if computed else packed_reader(store, views.stored)
    if reader is None:
        online = store.config.online_store.type
        cause = (
            f"the on-demand views {computed}" if computed else f"the online store {online} or a type that is not plain"
        )
        raise ConfigError(
            f"expected the packed online store and stored features of plain types in the service {named.name}, got {cause}; "
            "read it with store.get_online_features"
        )
    return reader


def packed_reader(store: FeatureStore, stored: Iterable[Any]) -> PackedReader | None:
    """Create a reader for the stored views of a feature service (:class:`sidkit.stores.on_demand.ServiceViews`).

    None for another online store, for a feature without a plain Arrow type, and for on-demand views with online tables.
    """
    from feast.types import from_feast_to_pyarrow_type

    from sidkit.stores.online.store import PackedOnlineStore, since_us, view_id

    online = store._get_provider().online_store
    if not isinstance(online, PackedOnlineStore):
        return None
    views = []
    for view in stored:
        projection = view.projection
        name = projection.name_to_use()
        columns = tuple(
            (feature.name, f"{name}__{feature.name}", kind_of(feature.dtype.to_value_type().name))
            for feature in projection.features
        )
        mapped = projection.join_key_map or {}
        keys = tuple(
            (column.name, mapped.get(column.name, column.name), column.dtype.to_value_type().name)
            for column in view.entity_columns
        )
        odd = any(kind == PROTO for _, _, kind in columns) or any(kind not in KEY_TYPES for _, _, kind in keys)
        if odd or not keys or not getattr(view, "batch_source", None):
            return None
        # Timestamps are stored as seconds, and Feast has no Arrow type for bytes; other types are Feast's.
        types = tuple(
            from_feast_to_pyarrow_type(feature.dtype) if kind.startswith("UNIX_TIMESTAMP") else arrow_type(kind)
            for feature, (_, _, kind) in zip(projection.features, columns, strict=True)
        )
        past = since_us(view, 0)
        ttl_us = None if past is None else -past
        views.append(PackedView(name, view_id(store.config, view), columns, types, keys, ttl_us))
    return PackedReader(online.database(store.config), online.clock, views)


def _serialized(view: PackedView, request: Mapping[str, Sequence[Any]]) -> list[bytes]:
    missing = [name for _, name, _ in view.keys if name not in request]
    if missing:
        given = [name for name in request if name != _NO_ENTITY]
        raise ServingError(
            f"expected the keys {', '.join(missing)} for {view.name}, got {', '.join(given) or 'no keys'}; add them"
        )
    if not any(len(request[name]) for _, name, _ in view.keys):
        return []  # no value of an empty list has a type
    key, name, value_type = view.keys[0]
    if len(view.keys) == 1 and value_type == "STRING":
        keys = text_keys(key, request[name])
    else:
        keys = integer_keys(key, value_type, request[name]) if len(view.keys) == 1 else None
        if keys is None:
            columns = {key: pa.array(request[name]) for key, name, _ in view.keys}
            keys = entity_keys(columns, {key: value_type for key, _, value_type in view.keys})
    if keys is None:
        needed = ", ".join(f"{name} ({value_type.lower()})" for _, name, value_type in view.keys)
        typed = ", ".join(f"{name} as {pa.array(request[name]).type}" for _, name, _ in view.keys)
        raise ServingError(f"expected {needed} without nulls for {view.name}, got {typed}; convert the keys")
    return keys


def view_rows_of(reading: Reading, view: PackedView, found_rows: Sequence[bytes | None]) -> ViewRows:
    """Convert rows as stored, one per key (None without a row), to a view's columns."""
    rows = cast(Sequence[bytes], found_rows) if all(found_rows) else [row for row in found_rows if row is not None]
    layouts = reading.layouts(view.stored)
    if rows and not layouts:
        raise reading.damaged(view.stored, "the layouts of its rows are missing")
    if len(rows) == len(found_rows):
        index = np.arange(len(found_rows))
    else:
        present = np.array([row is not None for row in found_rows], dtype=np.bool_)
        index = np.where(present, np.cumsum(present) - 1, -1)
    if len(layouts) > 1:
        return _of_layouts(reading, view, index, rows, layouts)
    number, layout = next(iter(layouts.items()), (0, Layout(())))
    return ViewRows(view.name, index, _table(reading, view, number, layout, rows))


def number_matrix(
    reading: Reading, view: PackedView, features: Sequence[str], found_rows: Sequence[bytes | None]
) -> npt.NDArray[np.float64]:
    """Numeric features of rows as stored, one per key, ``float64 [rows, features]``; NaN where null or without a row."""
    matrix = np.full((len(found_rows), len(features)), np.nan)
    rows = [row for row in found_rows if row is not None]
    if not rows:
        return matrix
    layouts = reading.layouts(view.stored)
    number = layout_number(rows[0])
    if number not in layouts:
        raise reading.damaged(view.stored, f"layout {number} is missing")
    block = unpack_numbers(layouts[number], rows, features, number)
    if block is None:
        converted = view_rows_of(reading, view, rows)
        for place, feature in enumerate(features):
            column = one_chunk(converted.table.column(f"{view.name}__{feature}"))
            doubles = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
            matrix[: len(rows), place] = doubles[converted.index]
        block = matrix[: len(rows)].copy()
    if len(rows) == len(found_rows):
        return block
    matrix[:] = np.nan
    matrix[[row is not None for row in found_rows]] = block
    return matrix


def _of_layouts(
    reading: Reading, view: PackedView, index: Any, rows: Sequence[bytes], layouts: Mapping[int, Layout]
) -> ViewRows:
    """Like :func:`view_rows_of` for rows with several layouts: rows are read by layout and the index is permuted."""
    numbers = np.array([layout_number(row) for row in rows], dtype=np.int64)
    tables, order = [], []
    for number in np.unique(numbers).tolist():
        places = np.flatnonzero(numbers == number)
        order.append(places)
        if number not in layouts:
            raise reading.damaged(view.stored, f"layout {number} is missing")
        tables.append(_table(reading, view, number, layouts[number], [rows[place] for place in places.tolist()]))
    if not tables:
        return ViewRows(view.name, index, _table(reading, view, 0, Layout(()), []))
    moved = np.empty(len(rows), dtype=np.int64)
    moved[np.concatenate(order)] = np.arange(len(rows))
    return ViewRows(view.name, np.where(index < 0, -1, moved[index]), pa.concat_tables(tables).combine_chunks())


def _table(reading: Reading, view: PackedView, number: int, layout: Layout, rows: Sequence[bytes]) -> pa.Table:
    """The view's columns, null if a row's layout lacks a feature or has it with another type."""
    try:
        cells = unpack(layout, rows, [feature for feature, _, _ in view.columns], number)
    except OnlineStoreError as error:
        raise reading.damaged(view.stored, str(error)) from error
    arrays = []
    for (feature, _, kind), declared in zip(view.columns, view.types, strict=True):
        if feature in cells and cells[feature].kind == kind:
            array = to_arrow(cells[feature])
            if array.type != declared:
                array = _declared(array, declared)
        elif feature in cells and cells[feature].kind == PROTO:
            array = _from_values(cells[feature], kind, declared)
        else:
            array = pa.nulls(len(rows), declared)
        arrays.append(array)
    return pa.Table.from_arrays(arrays, names=[column for _, column, _ in view.columns])


def _declared(array: pa.Array, declared: pa.DataType) -> pa.Array:
    """Cast to the declared type: timestamps are stored as seconds."""
    if pa.types.is_timestamp(declared):
        return array.cast(pa.timestamp("s")).cast(pa.timestamp(declared.unit)).cast(declared)
    if pa.types.is_list(declared) and pa.types.is_timestamp(declared.value_type):
        elements = _declared(array.values, declared.value_type)
        return pa.ListArray.from_arrays(array.offsets, elements, mask=array.is_null() if array.null_count else None)
    return array.cast(declared)


def _from_values(cells: Any, kind: str, declared: pa.DataType) -> pa.Array:
    """Values written with another type than declared: those of the declared type, else null."""
    from sidkit.stores.online.protobuf import cells_of_values, values_of_cells

    arrays = []
    for value in values_of_cells(cells):
        one = cells_of_values([value], kind)
        array = to_arrow(one) if one.kind == kind else pa.nulls(1, arrow_type(kind))
        arrays.append(array if array.type == declared else _declared(array, declared))
    return pa.concat_arrays(arrays)
