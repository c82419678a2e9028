"""Feature tables: from a source to a validated log, from the log to point-in-time tables, all in DuckDB."""

from sidkit.tables.builder import BuildReport, build_tables, read_build
from sidkit.tables.ingest import IngestReport, ingest, must_read_again, read_log

__all__ = ["BuildReport", "IngestReport", "build_tables", "ingest", "must_read_again", "read_build", "read_log"]
