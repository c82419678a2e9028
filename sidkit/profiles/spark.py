"""``spark``: tables, training frames, codes and the choice of the rows to materialize on Spark; the rest as in ``local``."""

from __future__ import annotations

from sidkit.profiles.base import Profile
from sidkit.profiles.local import LOCAL

_OFFLINE_STORE = """\
offline_store:
  type: sidkit.stores.spark_offline.ArrowSparkOfflineStore
  spark_conf:  # also of `sidkit tables build`; a cluster needs this folder on a file system that all executors share
    spark.master: "local[2]"
    spark.driver.memory: 2g
    spark.driver.host: localhost
    spark.sql.session.timeZone: UTC
    spark.sql.shuffle.partitions: "8"
    spark.sql.sources.parallelPartitionDiscovery.threshold: "10000"  # else listing the days of a source is a job of a task each
    spark.sql.files.openCostInBytes: "65536"  # else 32 small days are a task
    spark.sql.execution.arrow.pyspark.enabled: "true"
    spark.ui.enabled: "false"
    spark.ui.showConsoleProgress: "false"
"""

SPARK = Profile(
    name="spark",
    summary="tables, training frames, codes and the newest rows to materialize on Spark, sources by day; the rest as in local",
    sections={**LOCAL.sections, "offline_store": _OFFLINE_STORE},
    settings={"engine": {"tables": "spark", "partitions": "day"}},
    modules=("pyspark",),
)
