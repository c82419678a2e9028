"""The model that serves: another one is loaded beside it, verified, and put in its place between two requests.

A request takes the model once and uses it to its end, so that an answer never mixes versions. A model that cannot be loaded
does not replace the one that serves.
"""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable
from pathlib import Path

from sidkit.core.clock import present_us
from sidkit.core.errors import SidkitError
from sidkit.core.redact import scrubbed
from sidkit.core.repo import Repo
from sidkit.serve.bodies import Check, Ready
from sidkit.serve.metrics import Metrics
from sidkit.serve.model import ModelLoader, ServingModel, WarmUp
from sidkit.serve.options import ServeOptions
from sidkit.serve.problems import RequestError
from sidkit.tables.online_state import ticked_us

_LOG = logging.getLogger("sidkit.serve")


class ModelHolder:
    """Holds the model, and follows catalogue and materialization.

    Parameters
    ----------
    options : ServeOptions
    metrics : Metrics
    """

    def __init__(self, options: ServeOptions, metrics: Metrics) -> None:
        self._options = options
        self._metrics = metrics
        self._loader = ModelLoader(options.repo, options.ranker, options.static_bytes, options.engine)
        self._loading = threading.Lock()
        self._model: ServingModel | None = None
        self._problem = "the model is being loaded"
        self._warm_up: WarmUp | None = None

    @property
    def model(self) -> ServingModel:
        """The model that serves; take it once per request.

        Raises
        ------
        RequestError
            With status 503 while none is loaded, or the features are older than the bound.
        """
        model = self._model
        if model is None:
            raise RequestError(503, "a loaded ranker", "none yet", "try again later; /v2/health/ready says why")
        bound = self._options.max_feature_age_seconds
        if bound is not None and (age := self._age(model)) > bound:
            raise RequestError(
                503,
                f"features younger than {bound:g} seconds",
                f"features of {age:.0f} seconds ago",
                "run `sidkit materialize`, or start the service with a larger --max-feature-age",
            )
        return model

    def remember(self, request: WarmUp) -> None:
        """Use a request that was answered to warm up the next model."""
        if self._warm_up is None:
            self._warm_up = request

    def refresh(self) -> bool:
        """Load what catalogue and materialization ask for, if it is not loaded yet; errors are logged, not raised.

        Returns
        -------
        bool
            Whether another model serves now.
        """
        with self._loading:
            before = self._model
            try:
                key = self._loader.wanted()
                if before is not None and before.key == key:
                    self._problem = ""
                    self._show_ages()
                    return False
                model = self._loader.load(key, before, self._warm_up)
            except Exception as error:  # noqa: BLE001  the model that serves goes on
                self._failed(error)
                return False
            self._model, self._problem = model, ""
            self._metrics.swaps.labels("loaded").inc()
            self._metrics.show_model(key.ranker, key.codebook, _names(before))
            self._show_ages()
            _LOG.info(
                "serving ranker %s on codebook %s, loaded in %.2f s, %d items in %.0f MB, largest difference from the offline "
                "model %.1g",
                key.ranker,
                key.codebook,
                model.loaded_seconds,
                len(model.index),
                model.index.megabytes,
                model.difference,
            )
            if before is None:
                # Libraries stay for good: collections pass over them. Later models are not frozen, so that they can be freed.
                gc.collect()
                gc.freeze()
            return True

    def _failed(self, error: Exception) -> None:
        message = scrubbed(error) if isinstance(error, SidkitError) else f"{type(error).__name__}: {scrubbed(error)}"
        if message != self._problem:
            _LOG.error("cannot load the model that the catalogue asks for: %s", message)
            if not isinstance(error, SidkitError):
                _LOG.error("traceback", exc_info=error)
        self._problem = message
        self._metrics.swaps.labels("failed").inc()

    def _age(self, model: ServingModel) -> float:
        """Seconds since the features in the online store were up to date: the last materialization or tick."""
        return max(present_us() - max(model.key.until_us, self._ticked_us()), 0) / 1e6

    def _ticked_us(self) -> int:
        return ticked_us(Repo(Path(self._options.repo))) if self._options.tick_seconds is not None else 0

    def _show_ages(self) -> None:
        ticked = self._ticked_us()
        self._metrics.show_ages({view: max(end, ticked) for view, end in self._loader.ends_us.items()}, present_us())

    def readiness(self, online: Callable[[ServingModel], str]) -> Ready:
        """All conditions of readiness; ``online`` reads the online store and returns what is wrong, or an empty text."""
        model = self._model
        if model is None:
            return Ready(False, [Check("model", False, "no model is loaded yet; the log of the service says why")])
        age, bound = self._age(model), self._options.max_feature_age_seconds
        problem = online(model)
        checks = [
            Check("artefacts", True, "hashes of ranker and codebook were verified"),
            Check("versions", True, "ranker, codebook, settings and registry agree"),
            Check("parity", True, f"largest difference from the offline model {model.difference:.1g}"),
            Check("online_store", not problem, problem or "answers"),
            Check(
                "feature_age",
                bound is None or age <= bound,
                f"{age:.0f} seconds, {'no bound' if bound is None else f'at most {bound:g}'}",
            ),
        ]
        if self._problem:
            checks.append(
                Check("catalogue", True, "the model that the catalogue asks for cannot be loaded; see the log")
            )
        return Ready(all(check.ok for check in checks), checks, model.key.ranker, model.key.codebook)


def _names(model: ServingModel | None) -> tuple[str, str] | None:
    return None if model is None else (model.key.ranker, model.key.codebook)
