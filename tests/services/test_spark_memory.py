"""Results of Spark that are larger than the heap of its Java process, and what is said when that heap is too small."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from helpers.places import ROOT
from helpers.spark_builders import CONF, needs_spark
from sidkit.core.errors import EngineError

pytestmark = needs_spark

SCRIPT = """
import sys
from pathlib import Path

from helpers.spark_builders import CONF
from sidkit.core.errors import EngineError
from sidkit.stores.spark_results import collected
from sidkit.tables.engines.spark import session_of
from sidkit.tables.engines.spark_errors import spark_errors

session = session_of({**CONF, "spark.driver.memory": "512m", "spark.driver.maxResultSize": "0"}, "the test")
rows, width = 20_000, 32_000
frame = session.range(rows).selectExpr("id", f"concat(id, repeat('x', {width})) AS text")  # 640 MB
table = collected(frame, Path(sys.argv[1]) / "result")
assert table.num_rows == rows and table.nbytes > rows * width
assert sorted(table.column("id").to_pylist()) == list(range(rows))
try:
    with spark_errors("retrieving features"):
        frame.toArrow()
except EngineError as error:
    print(error)
"""


def test_a_result_larger_than_the_heap_is_read_and_a_heap_that_is_too_small_is_named(tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(ROOT / "tests"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert "Spark stopped retrieving features: its Java process" in run.stdout
    assert (
        "Set spark.driver.memory in offline_store.spark_conf of feature_store.yaml to more than 512m, for example 1024m"
        in run.stdout
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "Job aborted.\n\tat x\nCaused by: java.lang.OutOfMemoryError: Java heap space",
            r"its Java process ran out of memory\. Set spark\.driver\.memory .* more than 2g, for example 4g, and start",
        ),
        (
            "Total size of serialized results of 9 tasks (1.0 GiB) is bigger than spark.driver.maxResultSize (1024.0 MiB)",
            r"its result is larger than spark\.driver\.maxResultSize allows\. Set spark\.driver\.maxResultSize .* than 1g",
        ),
        (
            "Answer from Java side is empty",
            r"its Java process does not answer, .* Set spark\.driver\.memory .* example 4g",
        ),
        (
            "py4j.reflection does not exist in the JVM",
            r"its Java process does not answer, .* Set spark\.driver\.memory .* example 4g",
        ),
        ("my.Plugin does not exist in the JVM", r"building the table x: my\.Plugin does not exist in the JVM$"),
        ("TABLE_OR_VIEW_NOT_FOUND: nowhere\n\tat x", r"building the table x: TABLE_OR_VIEW_NOT_FOUND: nowhere$"),
    ],
)
def test_errors_of_memory_name_the_setting_and_a_value(text: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyspark.errors import PySparkException

    from sidkit.core.engine import working_on
    from sidkit.tables.engines import spark_errors as errors

    monkeypatch.setattr(errors, "_started", dict(CONF))
    with pytest.raises(EngineError, match=said) as caught, errors.spark_errors(), working_on("building the table x"):
        raise PySparkException(text)
    assert "\n" not in str(caught.value)


def test_the_memory_of_executors_is_named_where_a_task_on_a_cluster_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyspark.errors import PySparkException

    from sidkit.tables.engines import spark_errors as errors

    monkeypatch.setattr(errors, "_started", {"spark.master": "yarn", "spark.executor.memory": "8g"})
    with (
        pytest.raises(EngineError, match=r"Set spark\.executor\.memory .* more than 8g, for example 16g"),
        errors.spark_errors(),
    ):
        raise PySparkException("Task 3 in stage 1.0 failed: java.lang.OutOfMemoryError: Java heap space")
