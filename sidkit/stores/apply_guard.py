"""Definitions that were read before a codebook was published or purged are not applied after it.

``feast apply`` reads the definitions first and drops what they lack last. Where a codebook is published in between, its
new view and its online table would go. So the definitions, when they are imported, name a function that says which
views there must be now; the apply that follows takes the repo's lock, asks it, and reads the definitions again where they
are out of date. Feast has no plug-in point between the two, so the one function that it applies with is wrapped.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidkit.core.errors import DefinitionsError
from sidkit.core.repo import Repo


@dataclass(frozen=True)
class ViewsNow:
    """Names of feature views that the definitions must hold now, and of those that they must not hold."""

    defined: frozenset[str]
    gone: frozenset[str]

    def problems(self, views: Iterable[str]) -> list[str]:
        """What is out of date in definitions with these views."""
        names = set(views)
        lost = [f"they lack {name}, which the catalogue defines" for name in sorted(self.defined - names)]
        return lost + [f"they hold {name}, which the catalogue purged" for name in sorted(self.gone & names)]


_asked: dict[Path, Callable[[], ViewsNow]] = {}


def check_before_apply(folder: Path, views_now: Callable[[], ViewsNow]) -> None:
    """Let what Feast applies in a repo, in this process, be compared with ``views_now()`` at that moment."""
    _asked[folder.resolve()] = views_now
    operations: Any = sys.modules.get("feast.repo_operations")
    if operations is None or hasattr(operations.apply_total_with_repo_instance, "__wrapped__"):
        return
    by_feast = operations.apply_total_with_repo_instance

    @functools.wraps(by_feast)
    def apply(store: Any, project_name: str, registry: Any, contents: Any, *rest: Any, **named: Any) -> Any:
        folder = Path(store.config.repo_path or ".").resolve()
        if folder not in _asked:
            return by_feast(store, project_name, registry, contents, *rest, **named)
        with Repo(folder).locked_or_held():
            current = _up_to_date(folder, contents)
            registry.refresh(project=project_name)
            return by_feast(store, project_name, registry, current, *rest, **named)

    operations.apply_total_with_repo_instance = apply


def refuse_drop(folder: Path | str | None, views: Iterable[str]) -> None:
    """Refuse to drop online tables of views that the catalogue defines.

    Raises
    ------
    DefinitionsError
        When one is to be dropped.
    """
    views_now = _asked.get(Path(folder).resolve()) if folder else None
    names = set(views)
    kept = sorted(views_now().defined & names) if views_now and names else []
    if kept:
        raise DefinitionsError(
            str(folder),
            [f"the online table of {name} was to be dropped, and the catalogue defines it. {_REMEDY}" for name in kept],
        )


_REMEDY = "Run `sidkit apply`, then `sidkit materialize`."


def _up_to_date(folder: Path, contents: Any) -> Any:
    """The definitions as they are now; read again where they are out of date."""
    if not _problems(folder, contents):
        return contents
    from feast.repo_operations import parse_repo

    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and Path(file).parent.resolve() == folder:
            del sys.modules[name]
    current = parse_repo(folder)
    current.projects[:] = contents.projects
    problems = _problems(folder, current)
    if problems:
        raise DefinitionsError(
            str(folder),
            [
                f"{problem}. Let semantic_id_views.py make one view per codebook that it is given; `sidkit codebooks "
                "purge` removes a codebook and its view"
                for problem in problems
            ],
        )
    return current


def _problems(folder: Path, contents: Any) -> list[str]:
    return _asked[folder]().problems(view.name for view in contents.feature_views)
