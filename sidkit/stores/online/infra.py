"""The table of one feature view, as Feast's plans speak of infrastructure."""

from __future__ import annotations

from pathlib import Path

from feast.infra.infra_object import InfraObject
from feast.protos.feast.core.InfraObject_pb2 import InfraObject as InfraObjectProto
from feast.protos.feast.core.SqliteTable_pb2 import SqliteTable as SqliteTableProto

from sidkit.stores.online.layout import Layout
from sidkit.stores.online.sqlite_file import PackedFile


class PackedTable(InfraObject):  # type: ignore[misc]
    """The table of one feature view, as ``feast plan`` lists it."""

    def __init__(self, path: str, name: str, layout: Layout) -> None:
        super().__init__(name)
        self.path = path
        self._layout = layout

    def to_infra_object_proto(self) -> InfraObjectProto:
        """The table's protobuf with its class path."""
        path = f"{type(self).__module__}.{type(self).__qualname__}"
        return InfraObjectProto(infra_object_class_type=path, sqlite_table=self.to_proto())

    def to_proto(self) -> SqliteTableProto:
        """Path and name."""
        return SqliteTableProto(path=self.path, name=self.name)

    @staticmethod
    def from_infra_object_proto(infra_object_proto: InfraObjectProto) -> PackedTable:
        """The table that :meth:`to_infra_object_proto` told of."""
        return PackedTable.from_proto(infra_object_proto.sqlite_table)

    @staticmethod
    def from_proto(sqlite_table_proto: SqliteTableProto) -> PackedTable:
        """The table that :meth:`to_proto` told of; its layout is the one in the file."""
        return PackedTable(sqlite_table_proto.path, sqlite_table_proto.name, Layout(()))

    def update(self) -> None:
        """Make the table."""
        with PackedFile(Path(self.path), 60.0).writing() as writing:
            writing.make(self.name, self._layout)

    def teardown(self) -> None:
        """Drop the table."""
        with PackedFile(Path(self.path), 60.0).writing() as writing:
            writing.drop(self.name)
