"""Infrastructure objects of the packed online store, for ``feast plan`` and ``feast teardown``."""

from __future__ import annotations

from pathlib import Path

from feast.infra.infra_object import InfraObject
from feast.protos.feast.core.InfraObject_pb2 import InfraObject as InfraObjectProto
from feast.protos.feast.core.SqliteTable_pb2 import SqliteTable as SqliteTableProto

from sidkit.stores.online.layout import Layout
from sidkit.stores.online.sqlite_file import PackedFile


class PackedTable(InfraObject):  # type: ignore[misc]
    """The online table of one feature view."""

    def __init__(self, path: str, name: str, layout: Layout) -> None:
        super().__init__(name)
        self.path = path
        self._layout = layout

    def to_infra_object_proto(self) -> InfraObjectProto:
        """Convert to a protobuf with the class path."""
        path = f"{type(self).__module__}.{type(self).__qualname__}"
        return InfraObjectProto(infra_object_class_type=path, sqlite_table=self.to_proto())

    def to_proto(self) -> SqliteTableProto:
        """Convert to a protobuf with path and name."""
        return SqliteTableProto(path=self.path, name=self.name)

    @staticmethod
    def from_infra_object_proto(infra_object_proto: InfraObjectProto) -> PackedTable:
        """Create a table from the result of :meth:`to_infra_object_proto`."""
        return PackedTable.from_proto(infra_object_proto.sqlite_table)

    @staticmethod
    def from_proto(sqlite_table_proto: SqliteTableProto) -> PackedTable:
        """Create a table from the result of :meth:`to_proto`; its layout is the one in the file."""
        return PackedTable(sqlite_table_proto.path, sqlite_table_proto.name, Layout(()))

    def update(self) -> None:
        """Create the table."""
        with PackedFile(Path(self.path), 60.0).writing() as writing:
            writing.make(self.name, self._layout)

    def teardown(self) -> None:
        """Drop the table."""
        with PackedFile(Path(self.path), 60.0).writing() as writing:
            writing.drop(self.name)
