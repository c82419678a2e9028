"""Log rankers to MLflow through Feast's integration (``mlflow:`` in ``feature_store.yaml``, extra ``mlflow``).

Feast's client starts the run and tags it with the project. The run also has what Feast's own tools read of a model, the tag
``feast.feature_service`` and the features in ``feast_features.json``; and the artefact, its configuration and its validation
metrics.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from semantic_ids.catalog import Catalog
from sidkit.core.artifact import read_manifest
from sidkit.core.clock import iso
from sidkit.core.errors import ConfigError, SidkitError, SidkitWarning
from sidkit.core.extras import require
from sidkit.core.files import read_json
from sidkit.core.redact import scrubbed
from sidkit.core.repo import FEAST_FILE

if TYPE_CHECKING:
    from feast import FeatureStore

    from semantic_ids.records import RankerRecord
    from sidkit.core.repo import Repo

_HASH = "sidkit.ranker_hash"
_LONGEST_TAG = 5_000


def log_ranker(repo: Repo, name: str) -> str:
    """Log a ranker as one MLflow run; a ranker that was logged before is not logged again.

    Parameters
    ----------
    repo : Repo
        A repository whose ``feature_store.yaml`` has ``mlflow: {enabled: true, tracking_uri: ...}``.
    name : str
        The ranker.

    Returns
    -------
    str
        The id of the run.

    Raises
    ------
    ConfigError
        When ``mlflow`` is not enabled, or the tracking server cannot be used.
    MissingExtraError
        When MLflow is not installed.
    UnknownVersionError
        When there is no such ranker.
    """
    from sidkit.stores.feast_repo import open_store

    record = Catalog.open(repo).ranker(name)
    store = open_store(repo)
    if not _is_enabled(store):
        raise ConfigError(
            f"expected mlflow in {repo.path / FEAST_FILE}, got none that is enabled; add `mlflow: {{enabled: true, "
            "tracking_uri: http://127.0.0.1:5000}`"
        )
    require("mlflow", purpose="logging rankers to MLflow", extra="mlflow")
    client = _client(store)
    try:
        return _logged(repo, store, client, record)
    except SidkitError:
        raise
    except Exception as error:
        raise ConfigError(
            f"expected an MLflow tracking server, got {type(error).__name__}: {scrubbed(error)}; correct mlflow.tracking_uri "
            f"in {repo.path / FEAST_FILE}, or start the server"
        ) from error


def log_rankers_if_enabled(repo: Repo, names: Iterable[str | None]) -> None:
    """Log rankers if ``feature_store.yaml`` enables MLflow; a failure is a warning, because the rankers are saved."""
    if "mlflow" not in (repo.path / FEAST_FILE).read_text(encoding="utf-8"):
        return
    from sidkit.stores.feast_repo import open_store

    if not _is_enabled(open_store(repo)):
        return
    for name in dict.fromkeys(filter(None, names)):
        try:
            log_ranker(repo, name)
        except SidkitError as error:
            warnings.warn(
                f"ranker {name} was not logged to MLflow: {error} (`sidkit ranker log {name}` tries again)",
                SidkitWarning,
                stacklevel=2,
            )
            return


def _is_enabled(store: FeatureStore) -> bool:
    settings = getattr(store.config, "mlflow", None)
    return settings is not None and bool(settings.enabled)


def _client(store: FeatureStore) -> Any:
    """Feast's client; it reports problems as warnings and returns None."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        client = store.mlflow
    if client is None:
        reason = "; ".join(str(each.message) for each in caught) or "Feast could not import mlflow"
        raise ConfigError(
            f"expected an MLflow tracking server, got: {scrubbed(reason)} Correct mlflow.tracking_uri in {FEAST_FILE}"
        )
    return client


def _logged(repo: Repo, store: FeatureStore, client: Any, record: RankerRecord) -> str:
    tracking = client.client
    experiment = tracking.get_experiment_by_name(store.config.project)
    if experiment is not None:
        same = f"tags.`{_HASH}` = '{record.content_hash}'"
        if found := tracking.search_runs([experiment.experiment_id], filter_string=same, max_results=1):
            return str(found[0].info.run_id)
    refs = _features(store, record.service)
    folder = repo.rankers / record.name
    manifest, metrics = read_manifest(folder), _metrics(folder / "metrics.json")
    tags = {
        "feast.feature_service": record.service,
        "feast.feature_views": _tag(sorted({ref.partition(":")[0] for ref in refs})),
        "feast.feature_refs": _tag(refs),
        "feast.feature_count": str(len(refs)),
        "sidkit.ranker": record.name,
        "sidkit.arm": record.arm,
        "sidkit.codebook": record.codebook,
        "sidkit.codebook_hash": Catalog.open(repo).codebook(record.codebook).content_hash,
    }
    with client.start_run(run_name=record.name, tags=tags) as run:
        run_id = str(run.info.run_id)
        params: dict[str, Any] = {
            "arm": record.arm,
            "codebook": record.codebook,
            "fit_start": iso(manifest["fit_start_us"]),
            "fit_end": iso(record.fit_end_us),
            **{key: manifest[key] for key in ("rows", "seed") if key in manifest},
        }
        client.mlflow.log_params(params)
        for step, values in enumerate(metrics.pop("validation_auc", [])):
            tracking.log_metric(run_id, "validation_auc", float(values), step=step)
        for key, value in metrics.items():
            tracking.log_metric(run_id, key, float(value))
        client.mlflow.log_dict(refs, "feast_features.json")
        client.mlflow.log_artifacts(str(folder), "ranker")
        # Last, so that a run that was interrupted is logged again.
        tracking.set_tag(run_id, _HASH, record.content_hash)
    return run_id


def _metrics(path: Any) -> dict[str, Any]:
    """The numbers of ``metrics.json``, and ``validation_auc`` by epoch."""
    stated = read_json(path) if path.is_file() else {}
    kept = {
        key: value for key, value in stated.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }
    series = stated.get("validation_auc")
    return {**kept, "validation_auc": series} if isinstance(series, list) else kept


def _features(store: FeatureStore, service: str) -> list[str]:
    from sidkit.stores.feast_repo import feature_service

    projections = feature_service(store, service).feature_view_projections
    return [f"{each.name_to_use()}:{feature.name}" for each in projections for feature in each.features]


def _tag(values: list[str]) -> str:
    text = ",".join(values)
    return text if len(text) <= _LONGEST_TAG else f"{text[: _LONGEST_TAG - 3]}..."
