"""Guard against applying definitions that are out of date because a codebook was published or purged meanwhile.

``feast apply`` reads the definitions first and drops missing objects last. If a codebook is published in between, its
new view and its online table would be dropped. So the definitions register, on import, a function that returns the
views required now; the following apply takes the repository lock, calls it, and reads the definitions again if they
are out of date. Feast has no plug-in point between the two, so its apply function is wrapped.
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
from sidkit.stores.registry_cache import refreshed_once


@dataclass(frozen=True)
class ViewsNow:
    """Names of feature views that the definitions must contain now, and of those that they must not contain.

    ``stats`` are names of views of statistics of codes, which definitions of older releases lack; they come and go with
    views in ``defined``, so that these show whether definitions are out of date.
    """

    defined: frozenset[str]
    gone: frozenset[str]
    stats: frozenset[str] = frozenset()

    def problems(self, views: Iterable[str]) -> list[str]:
        """Describe how definitions with these views are out of date."""
        names = set(views)
        lost = [f"{name} is missing, but the catalogue defines it" for name in sorted(self.defined - names)]
        return lost + [f"{name} is defined, but the catalogue purged it" for name in sorted(self.gone & names)]


_views_now: dict[Path, Callable[[], ViewsNow]] = {}


def check_before_apply(folder: Path, views_now: Callable[[], ViewsNow]) -> None:
    """Compare the definitions with ``views_now()`` whenever Feast applies the repository in this process."""
    _views_now[folder.resolve()] = views_now
    operations: Any = sys.modules.get("feast.repo_operations")
    if operations is None or hasattr(operations.apply_total_with_repo_instance, "__wrapped__"):
        return
    by_feast = operations.apply_total_with_repo_instance

    @functools.wraps(by_feast)
    def apply(store: Any, project_name: str, registry: Any, contents: Any, *rest: Any, **named: Any) -> Any:
        folder = Path(store.config.repo_path or ".").resolve()
        if folder not in _views_now:
            return by_feast(store, project_name, registry, contents, *rest, **named)
        with Repo(folder).locked_or_held():
            current = _up_to_date(folder, contents)
            registry.refresh(project=project_name)
            with refreshed_once(registry):
                return by_feast(store, project_name, registry, current, *rest, **named)

    operations.apply_total_with_repo_instance = apply


def refuse_drop(folder: Path | str | None, views: Iterable[str]) -> None:
    """Raise if online tables of views that the catalogue defines would be dropped.

    Raises
    ------
    DefinitionsError
        When such a table would be dropped.
    """
    views_now = _views_now.get(Path(folder).resolve()) if folder else None
    names = set(views)
    now = views_now() if views_now and names else None
    protected = sorted((now.defined | now.stats) & names) if now else []
    if protected:
        raise DefinitionsError(
            str(folder),
            [
                f"the online table of {name} would be dropped, but the catalogue defines it. {_REMEDY}"
                for name in protected
            ],
        )


_REMEDY = "Run `sidkit apply`, then `sidkit materialize`."


def _up_to_date(folder: Path, contents: Any) -> Any:
    """Return the definitions, read again if they are out of date."""
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
                f"{problem}. Let semantic_id_views.py define one view per codebook in the catalogue; `sidkit codebooks "
                "purge` removes a codebook and its view"
                for problem in problems
            ],
        )
    return current


def _problems(folder: Path, contents: Any) -> list[str]:
    return _views_now[folder]().problems(view.name for view in contents.feature_views)
