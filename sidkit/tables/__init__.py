"""Feature tables, computed in DuckDB: source -> validated log -> point-in-time tables."""

from sidkit.tables.builder import BuildReport, build_tables, read_build
from sidkit.tables.ingest import IngestReport, ingest, must_read_again
from sidkit.tables.log import read_log

__all__ = ["BuildReport", "IngestReport", "build_tables", "ingest", "must_read_again", "read_build", "read_log"]
