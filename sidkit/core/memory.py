"""Peak memory of the process."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path


def peak_rss_mb() -> float:
    """Peak resident memory of this process or any of its children, in MiB; on Windows, of this process only."""
    if sys.platform == "win32":
        return own_peak_rss_mb()
    import resource

    return max(own_peak_rss_mb(), _counted_mb(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))


def own_peak_rss_mb() -> float:
    """Peak resident memory of this process without its children, in MiB.

    On Linux, ``getrusage`` of a process that another one started begins at the peak of the latter: both share their memory
    until the new program is loaded. So the peak is that of the memory itself, ``VmHWM``.
    """
    if sys.platform == "win32":
        import psutil

        return round(psutil.Process().memory_info().peak_wset / 2**20, 1)
    with suppress(OSError):
        for line in Path("/proc/self/status").read_bytes().splitlines():  # the name of a process may be no text
            if line.startswith(b"VmHWM:"):
                return round(int(line.split()[1]) / 2**10, 1)
    import resource

    return _counted_mb(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _counted_mb(rss: int) -> float:
    return round(rss / (2**20 if sys.platform == "darwin" else 2**10), 1)  # macOS counts bytes, Linux KiB
