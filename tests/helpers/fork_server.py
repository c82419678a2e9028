"""What the server of forks imports at its start (:func:`helpers.builders.run_apart`): all that a run imports while it works.

Feast comes first and without its type checks, which take longer than all other imports.
"""

from __future__ import annotations

import importlib

from helpers.life_state import IMPORTED_ONCE
from helpers.no_sync import wait_for_no_disk
from sidkit.stores.quiet_import import quiet_feast

wait_for_no_disk()
quiet_feast()
for name in (
    *IMPORTED_ONCE,
    "sklearn.ensemble",
    "scipy.sparse",
    "sidkit.cli.run_report",
    "ranking.training.ranker",
    "helpers.builders",
):
    importlib.import_module(name)
