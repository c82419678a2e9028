"""The peak that a process reports is its own, whatever started it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from sidkit.core.memory import own_peak_rss_mb, peak_rss_mb

PRINTED = "from sidkit.core.memory import own_peak_rss_mb; print(own_peak_rss_mb())"


def test_a_process_does_not_report_the_peak_of_the_one_that_started_it() -> None:
    held = np.ones(50_000_000)  # 381 MiB
    before = own_peak_rss_mb()
    assert before > 381 == held.nbytes // 2**20
    printed = subprocess.run([sys.executable, "-c", PRINTED], capture_output=True, text=True, check=True).stdout
    assert 5 < float(printed) < 200


def test_the_peak_counts_what_is_freed_and_the_children_too() -> None:
    large = "import numpy as np; np.ones(120_000_000)"  # 915 MiB
    subprocess.run([sys.executable, "-c", large], check=True)
    assert peak_rss_mb() > 915
    freed = len(np.ones(40_000_000))
    assert own_peak_rss_mb() > freed * 8 / 2**20
