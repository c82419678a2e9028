"""Workers of shards that kill themselves just before they would finish."""

from __future__ import annotations

import os
import re
from pathlib import Path

from helpers.commands import ask_well

_SITE = """
import os, pathlib, signal, sys
if "{shard}" in sys.orig_argv:
    whole = pathlib.Path.rename
    def rename(self, target):
        if pathlib.Path(target).name == "{name}":
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(self, target)
    pathlib.Path.rename = rename
"""


def killing(folder: Path, shard: str) -> str:
    """A ``PYTHONPATH`` with which the worker of a shard, such as ``2/3``, kills itself when its files are written."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_SITE.format(shard=shard, name=shard.replace("/", "-of-")))
    return os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


def run_advice(message: str) -> str:
    """Run the commands between backticks in a message; returns what they print."""
    lines = re.findall(r"`sidkit ([^`]*)`", message)
    assert lines
    return "".join(str(ask_well(*line.split())) for line in lines)
