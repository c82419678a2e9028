"""Spark for tests: when it is there, a small session, and repositories of the profile ``spark``."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

from sidkit.core.repo import FEAST_FILE, Repo
from sidkit.profiles.switch import switch_profile

SPARK_ABSENT = "spark absent"
"""Start of the reason for which tests are skipped (tests/conftest.py)."""
CONF = {
    "spark.master": "local[2]", "spark.driver.memory": "2g", "spark.driver.host": "localhost", "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false", "spark.sql.session.timeZone": "UTC", "spark.sql.shuffle.partitions": "2",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    # A few hundred rows: compiled code costs more than it saves.
    "spark.sql.codegen.wholeStage": "false", "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.sql.adaptive.enabled": "false",
    # The same for Java's optimizing compiler, whose work takes half of a short run's processor time.
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:ReservedCodeCacheSize=240m",
    "spark.sql.sources.parallelPartitionDiscovery.threshold": "100000", "spark.sql.files.openCostInBytes": "65536",
}  # fmt: skip


def missing() -> str:
    """What Spark lacks on this machine; empty if nothing."""
    if importlib.util.find_spec("pyspark") is None:
        return "pyspark is not installed (pip install 'sidkit[spark]')"
    return "" if shutil.which("java") or os.environ.get("JAVA_HOME") else "Java is not installed (17 or later)"


needs_spark = pytest.mark.skipif(bool(missing()), reason=f"{SPARK_ABSENT}: {missing()}")


def on_spark(repo: Repo) -> Repo:
    """Give a repository the profile ``spark``, with settings for few rows."""
    switch_profile(repo, "spark", replace_edited=True)
    path = repo.path / FEAST_FILE
    text = path.read_text()
    stated = text[text.index("    spark.master") : text.index("online_store:")]
    path.write_text(text.replace(stated, "".join(f'    {key}: "{value}"\n' for key, value in CONF.items())))
    return Repo.open(Path(repo.path))
