"""What only a model can tell: the mutation test, gates and attention of the kept rankers, on test rows."""

from __future__ import annotations

from typing import Any

from ranking.comparison.units import Plan
from sidkit.repo import Repo


def probe(repo: Repo, plan: Plan) -> dict[str, Any]:
    """Ask the kept ranker of each arm."""
    return {}
