"""Optional dependencies: which extra brings which module, and a check before work starts."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from itertools import combinations

from sidkit.core.errors import MissingExtraError

EXTRAS_OF: dict[str, tuple[str, tuple[str, ...]]] = {
    "torch": ("torch", ("rank", "codes", "text", "image")),
    "safetensors": ("safetensors", ("rank", "codes", "text", "image")),
    "faiss": ("faiss-cpu", ("codes", "rank")),
    "sklearn": ("scikit-learn", ("rank",)),
    "scipy": ("scipy", ("codes", "rank")),
    "sentencepiece": ("sentencepiece", ("rank",)),
    "sentence_transformers": ("sentence-transformers", ("text",)),
    "transformers": ("transformers", ("image",)),
    "PIL": ("pillow", ("image",)),
    "mlflow": ("mlflow-skinny", ("mlflow",)),
    "onnx": ("onnx", ("onnx",)),
    "onnxruntime": ("onnxruntime", ("onnx",)),
    "onnxscript": ("onnxscript", ("onnx",)),
    "psycopg": ("psycopg", ("postgres",)),
    "redis": ("redis", ("redis",)),
    "msgspec": ("msgspec", ("serve",)),
    "prometheus_client": ("prometheus-client", ("serve",)),
    "starlette": ("starlette", ("serve",)),
    "uvicorn": ("uvicorn", ("serve",)),
    "pyspark": ("pyspark", ("spark",)),
    "s3fs": ("s3fs", ("s3",)),
    "dagster": ("dagster", ("dagster",)),
}
"""Module -> its package, and the extras of ``pyproject.toml`` that name the package."""


def require(*modules: str, purpose: str, extra: str | None = None) -> None:
    """Check that optional modules are installed, without importing them.

    Parameters
    ----------
    *modules : str
        Keys of :data:`EXTRAS_OF`.
    purpose : str
        The subject of the message, such as ``this preset``.
    extra : str, optional
        The extra to name if several bring what is missing.

    Raises
    ------
    MissingExtraError
        When a module is missing; the message has the command that installs all of them.
    """
    missing = [module for module in dict.fromkeys(modules) if not _installed(module)]
    if missing:
        raise missing_extra(missing, purpose, extra)


def missing_extra(modules: Iterable[str], purpose: str, extra: str | None = None) -> MissingExtraError:
    """Return the error for modules that are not installed."""
    modules = list(modules)
    packages = tuple(EXTRAS_OF[module][0] for module in modules)
    return MissingExtraError(purpose, packages, _fewest_extras(modules, extra))


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _fewest_extras(modules: Iterable[str], preferred: str | None) -> tuple[str, ...]:
    """Return the fewest extras that bring all modules; those with the preferred one first."""
    offered = [EXTRAS_OF[module][1] for module in modules]
    names = sorted({name for extras in offered for name in extras}, key=lambda name: (name != preferred, name))
    covers = (
        chosen
        for count in range(1, len(names) + 1)
        for chosen in combinations(names, count)
        if all(set(extras) & set(chosen) for extras in offered)
    )
    return next(covers)
