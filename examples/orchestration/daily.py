"""Bring a repository up to date, once a day from cron; with --from and --to for past days.

    15 2 * * *  cd /srv && .venv/bin/python daily.py --repo shop --log shop.log

Exit codes: 0 done, 1 a step failed (the log says which), 2 a wrong argument, 75 another run is at work.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import steps
from filelock import FileLock, Timeout

from sidkit.core.errors import ConfigError, SidkitError

DONE, FAILED, WRONG, BUSY = 0, 1, 2, 75


class Run:
    """Runs steps with retries, and writes a line of JSON per attempt."""

    def __init__(self, log: Path | None, retries: int, wait: float) -> None:
        self.log, self.retries, self.wait = log, retries, wait

    def step(self, name: str, work: Callable[[], dict[str, Any]]) -> None:
        """Do a step; a transient error is tried again after a wait that doubles."""
        for attempt in range(self.retries + 1):
            began = time.monotonic()
            try:
                facts = work()
            except Exception as error:
                again = isinstance(error, steps.TRANSIENT) and attempt < self.retries
                self.write(name, "retry" if again else "failed", began, {"error": f"{type(error).__name__}: {error}"})
                if not again:
                    raise
                time.sleep(self.wait * 2**attempt)
            else:
                self.write(name, "done", began, facts)
                return

    def write(self, name: str, state: str, began: float, facts: dict[str, Any]) -> None:
        """Append a line to the log, or print it."""
        seconds = round(time.monotonic() - began, 3)
        line = json.dumps(
            {"at": datetime.now(UTC).isoformat(), "step": name, "state": state, "seconds": seconds, **facts}
        )
        if self.log is None:
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
        else:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the steps of the days; returns the exit code."""
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repo", required=True)
    parser.add_argument("--from", dest="first", type=date.fromisoformat, help="first day, UTC; default: that of --to")
    parser.add_argument(
        "--to", dest="last", type=date.fromisoformat, default=yesterday, help="last day; default: yesterday"
    )
    parser.add_argument("--log", type=Path, help="file of the log; default: print it")
    parser.add_argument("--retries", type=int, default=3, help="attempts after a transient error")
    parser.add_argument("--wait", type=float, default=30.0, help="seconds before the first of them; they double")
    given = parser.parse_args(arguments)
    run = Run(given.log, given.retries, given.wait)
    try:
        days = steps.days(given.first or given.last, given.last)
        with FileLock(Path(given.repo) / ".daily.lock", timeout=0):
            run.step("ingest", lambda: steps.ingest(given.repo))
            for day in days:
                run.step(f"build {day}", lambda day=day: steps.build(given.repo, day))
            run.step("refresh", lambda: steps.refresh(given.repo))
            run.step("materialize", lambda: steps.materialize(given.repo))
    except Timeout:
        sys.stderr.write(f"another run holds {given.repo}/.daily.lock; this one ends\n")
        return BUSY
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return WRONG
    except (SidkitError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return FAILED
    return DONE


if __name__ == "__main__":
    sys.exit(main())
