"""Check artefacts: hashes, fit windows of an artefact and its parents, feature settings, and catalogue records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ranking.data.codebook_window import refuse_learned_rows
from semantic_ids.catalog import Catalog, table_path
from semantic_ids.code_stats import counts_of
from semantic_ids.codebook import load_committed
from semantic_ids.neighbour_lists import neighbours_of, neighbours_path
from semantic_ids.records import CodebookRecord, RankerRecord
from sidkit.core.artifact import read_manifest
from sidkit.core.clock import iso
from sidkit.core.code_stats import stats_views
from sidkit.core.config import content_hash
from sidkit.core.errors import ArtifactCorruptError, ArtifactError, CatalogLostError, LeakageError
from sidkit.core.integrity import MANIFEST, read_verified
from sidkit.core.repo import Repo
from sidkit.stores.registered import of_codebook
from sidkit.tables import read_build
from sidkit.tables.builder import changed_settings
from sidkit.tables.code_stats import CodeCounts


@dataclass(frozen=True)
class Problem:
    """A problem of one artefact."""

    artifact: str
    problem: str


@dataclass(frozen=True)
class _Window:
    """Fit window, parents and feature settings from the manifest of an artefact."""

    fit_start_us: int
    fit_end_us: int
    parents: tuple[tuple[str, int | None], ...]
    """Name and, if the manifest has it, the parent's ``fit_end_us``."""
    feature_settings: Mapping[str, Any] | None

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> _Window:
        """Read a manifest; parents are names, or ``{"name": ..., "fit_end_us": ...}``."""
        parents = [parent if isinstance(parent, dict) else {"name": parent} for parent in manifest.get("parents", [])]
        return cls(
            manifest["fit_start_us"],
            manifest["fit_end_us"],
            tuple((parent["name"], parent.get("fit_end_us")) for parent in parents),
            manifest.get("feature_settings"),
        )


@dataclass(frozen=True)
class ArtifactsAudit:
    """Number of artefacts checked, and their problems."""

    checked: int
    problems: tuple[Problem, ...]


def audit_artifacts(repo: Repo) -> ArtifactsAudit:
    """Check every codebook, ranker and table of a repository.

    A ranker is evaluated from its ``fit_end`` on, so no parent may have been fitted on later data. The same holds for all
    other artefacts that a manifest lists under ``parents``, by name or as ``{"name": ..., "fit_end_us": ...}``.
    """
    try:
        catalog = Catalog.open(repo)
    except CatalogLostError as error:
        return ArtifactsAudit(0, (Problem("the catalogue", str(error)),))
    problems = _tables(repo)
    windows: dict[str, _Window] = {}
    books, rankers = catalog.codebooks(), catalog.rankers()
    for record in books:
        problems += _codebook(repo, record, windows)
    for ranker in rankers:
        problems += _ranker(repo, ranker, {book.name: book for book in books}, windows)
    for name, window in windows.items():
        problems += _order(name, window, windows, {book.name: book.fit_end_us for book in books})
        problems += _settings(repo, name, window)
    return ArtifactsAudit(len(books) + len(rankers), tuple(problems))


def _tables(repo: Repo) -> list[Problem]:
    made_with, current = read_build(repo)["settings"], repo.settings.feature_settings()
    try:
        read_verified(repo.tables / MANIFEST)
    except ArtifactCorruptError as error:
        return [Problem("data/tables", str(error))]
    features = repo.settings.features.table_settings
    if read_build(repo).get("features", features) != features:
        return [Problem("data/tables", "built with another [features]; run `sidkit tables build`")]
    if content_hash(made_with) == content_hash(current):
        return []
    return [Problem("data/tables", f"built with different settings: {_changes(made_with, current)}")]


def _codebook(repo: Repo, record: CodebookRecord, windows: dict[str, _Window]) -> list[Problem]:
    folder, table = repo.codebooks / record.name, table_path(repo, record.name)
    counted = [repo.tables / f"{view}.parquet" for view in stats_views(record.name)]
    listed = neighbours_path(repo, record.name)
    if record.state == "purged":
        left = [str(path.relative_to(repo.path)) for path in (folder, table, listed, *counted) if path.exists()]
        return [Problem(record.name, f"is purged, but still has files: {', '.join(left)}")] if left else []
    if record.state == "fitting":
        return []
    problems = _manifest(folder, record, windows)
    if record.has_codes:
        metadata_path = table.with_suffix(".json")
        if not table.is_file() or not metadata_path.is_file():
            problems.append(Problem(record.name, f"is {record.state}, but {table.relative_to(repo.path)} is missing"))
        else:
            problems += _codes(repo, record, table, metadata_path)
        problems += _code_stats(repo, record, counted)
        problems += _neighbours(repo, record, listed)
        further = (listed.stem,) if listed.is_file() else ()
        views = (record.view_name, record.service_name)
        stored = of_codebook(repo, *views, record.content_hash, stats_views(record.name), further)
        problems += [Problem(record.name, str(difference)) for difference in stored]
    return problems


def _codes(
    repo: Repo, record: CodebookRecord, table: Path, metadata_path: Path, content: str = "codes"
) -> list[Problem]:
    try:
        metadata = read_verified(metadata_path)
    except ArtifactCorruptError as error:
        return [Problem(record.name, str(error))]
    if metadata.get("codebook_hash") == record.content_hash:
        return []
    return [Problem(record.name, f"{table.relative_to(repo.path)} contains {content} of another codebook")]


def _neighbours(repo: Repo, record: CodebookRecord, table: Path) -> list[Problem]:
    """Check that a codebook with neighbour lists has the table of its own."""
    try:
        listed = neighbours_of(repo, record.name)
    except ArtifactError:
        return []  # its manifest is a problem already
    if not listed:
        return []
    if not table.is_file() or not table.with_suffix(".json").is_file():
        missing = f"is {record.state}, but {table.relative_to(repo.path)} is missing; run `sidkit codebooks refresh`"
        return [Problem(record.name, missing)]
    return _codes(repo, record, table, table.with_suffix(".json"), "neighbours")


def _code_stats(repo: Repo, record: CodebookRecord, tables: Sequence[Path]) -> list[Problem]:
    """Check that the statistics of a codebook were counted from its codes, with its settings, up to the last build."""
    try:
        counts = counts_of(repo, record.name, record.content_hash)
    except ArtifactError:
        return []  # its manifest is a problem already
    problems = []
    for table in tables if counts is not None else ():
        name = table.relative_to(repo.path)
        if not table.is_file() or not table.with_suffix(".json").is_file():
            problem = f"is {record.state}, but {name} is missing; run `sidkit codebooks refresh`"
        else:
            problem = _counted_otherwise(repo, table, counts)
        problems += [Problem(record.name, problem)] if problem else []
    return problems


def _counted_otherwise(repo: Repo, table: Path, counts: CodeCounts | None) -> str:
    try:
        made = read_verified(table.with_suffix(".json"))
    except ArtifactCorruptError as error:
        return str(error)
    name = table.relative_to(repo.path)
    if counts is None or made.get("counts") != counts.stated():
        return f"{name} has counts of another codebook, or of other depths or cadences; run `sidkit codebooks refresh`"
    if made.get("as_of_us") != read_build(repo)["as_of_us"]:
        return f"{name} was counted up to another time than the feature tables; run `sidkit codebooks refresh`"
    return ""


def _ranker(
    repo: Repo, record: RankerRecord, books: dict[str, CodebookRecord], windows: dict[str, _Window]
) -> list[Problem]:
    problems = _manifest(repo.rankers / record.name, record, windows)
    book = books.get(record.codebook)
    if book is None or book.state == "purged":
        problems.append(
            Problem(
                record.name, f"its codebook {record.codebook} is {book.state if book else 'missing from the catalogue'}"
            )
        )
    elif record.name in windows:
        problems += _learned_rows(repo, record.name, windows[record.name].fit_start_us, book)
    return problems


def _learned_rows(repo: Repo, ranker: str, first_us: int, book: CodebookRecord) -> list[Problem]:
    """Check that the codebook of a ranker did not learn from clicks on the rows that the ranker was trained on."""
    try:
        refuse_learned_rows(first_us, book, load_committed(repo.codebooks / book.name, book)[0])
    except LeakageError as error:
        return [Problem(ranker, str(error))]
    except ArtifactError:
        pass  # a problem of the codebook
    return []


def _manifest(folder: Path, record: CodebookRecord | RankerRecord, windows: dict[str, _Window]) -> list[Problem]:
    """Read and verify a manifest, and compare it with the catalogue's record."""
    try:
        manifest = read_manifest(folder)
    except ArtifactError as error:
        return [Problem(record.name, str(error))]
    windows[record.name] = _Window.of(manifest)
    recorded = {"name": record.name, "content_hash": record.content_hash, "fit_end_us": record.fit_end_us}
    return [
        Problem(record.name, f"{key} is {manifest.get(key)!r} in the manifest, but {value!r} in the catalogue")
        for key, value in recorded.items()
        if manifest.get(key) != value
    ]


def _order(name: str, window: _Window, windows: dict[str, _Window], fit_ends_us: dict[str, int]) -> list[Problem]:
    start, end = window.fit_start_us, window.fit_end_us
    problems = []
    if start > end:
        problems.append(Problem(name, f"expected fit_start no later than fit_end, got {iso(start)} and {iso(end)}"))
    for parent, stated_end in window.parents:
        known = windows[parent].fit_end_us if parent in windows else fit_ends_us.get(parent)
        parent_end = stated_end if stated_end is not None else known
        if parent_end is None:
            problems.append(Problem(name, f"its parent {parent} is missing, so the parent's fit_end is unknown"))
        elif parent_end > end:
            problems.append(
                Problem(
                    name,
                    f"its parent {parent} was fitted up to {iso(parent_end)}, after {name}'s fit_end {iso(end)}: "
                    "it has seen rows on which it is evaluated",
                )
            )
    return problems


def _settings(repo: Repo, name: str, window: _Window) -> list[Problem]:
    made_with, current = window.feature_settings, repo.settings.feature_settings()
    if made_with is None or content_hash(made_with) == content_hash(current):
        return []
    return [Problem(name, f"made with different feature settings: {_changes(made_with, current)}")]


def _changes(made_with: Mapping[str, Any], current: Mapping[str, Any]) -> str:
    changed = changed_settings(dict(made_with), dict(current))
    return "; ".join(f"{key}: made with {was!r}, now {now!r}" for key, (was, now) in changed.items())
