"""The files of ``examples/deploy``: what they start, probe, scrape and draw is what the service has."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

import sidkit
from helpers.builders import FinishedJob
from helpers.dockerfile import instructions, last
from helpers.documents import check_command
from helpers.http_service import Service, running
from helpers.places import EXAMPLES, ROOT
from sidkit.core.clock import iso
from sidkit.serve.metrics import STAGES

DEPLOY = EXAMPLES / "deploy"
TOKEN = "deploy-token-0123456789"
STEPS = instructions(DEPLOY / "Dockerfile")
COMMAND = last(STEPS, "CMD").array


def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))


def kind(name: str) -> dict[str, Any]:
    [found] = [each for each in manifests() if each["kind"] == name]
    return found


@pytest.fixture(scope="module")
def service(finished: FinishedJob) -> Iterator[Service]:
    """The command of the Dockerfile, with another repository and port."""
    options = dict(zip(COMMAND[2::2], COMMAND[3::2], strict=True))
    assert COMMAND[:2] == ["sidkit", "serve"] and options.pop("--repo") == "/repo" and options.pop("--port") == "8000"
    given = [word for pair in options.items() for word in pair]
    with running(finished.repo.path, *given, SIDKIT_SERVE_TOKEN=TOKEN) as started:
        started.url = started.url.replace("0.0.0.0", "127.0.0.1")
        yield started


def test_the_dockerfile_copies_what_exists_and_starts_a_command_that_exists() -> None:
    for step in STEPS:
        if step.name == "COPY" and not step.text.startswith("--from"):
            assert all((ROOT / source).exists() for source in step.text.split()[:-1]), step.text
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().split()
    copied = {source for step in STEPS if step.name == "COPY" for source in step.text.split()[:-1] if "/" not in source}
    assert "*" in ignored and {f"!{source}" for source in copied - {"--from=build"}} <= set(ignored)
    [install] = [step.text for step in STEPS if "pip install" in step.text]
    check_command("pip install 'sidkit[" + re.search(r"\.\[([\w,]+)\]", install)[1] + "]'")  # type: ignore[index]
    check_command(" ".join(COMMAND))
    names = [step.name for step in STEPS]
    assert names.index("USER") < names.index("CMD") and last(STEPS, "USER").text != "0"
    assert last(STEPS, "EXPOSE").text in COMMAND
    stages = [step.text.split(" AS ")[-1] for step in STEPS if step.name == "FROM"]
    assert all(
        stage.split("--from=")[1].split()[0] in stages for stage in (s.text for s in STEPS) if "--from=" in stage
    )


def test_the_health_check_succeeds(service: Service) -> None:
    words = [word.replace(":8000", f":{service.url.rpartition(':')[2]}") for word in last(STEPS, "HEALTHCHECK").array]
    done = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_probes_of_the_manifest_are_open_paths(service: Service) -> None:
    deployment = kind("Deployment")
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    for probe, paths in (("startupProbe", "live"), ("livenessProbe", "live"), ("readinessProbe", "ready")):
        path = container[probe]["httpGet"]["path"]
        assert path.endswith(paths) and service.call("GET", path).status == 200
        assert container[probe]["httpGet"]["port"] == container["ports"][0]["name"]
    assert container["command"] == COMMAND and str(container["ports"][0]["containerPort"]) in COMMAND
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == kind("Service")["spec"]["selector"] == labels
    assert container["env"][0]["name"] == "SIDKIT_SERVE_TOKEN"
    pod = kind("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    for step in (*pod["initContainers"], *pod["containers"]):
        check_command(" ".join(step["command"]))
    for spec in (deployment["spec"]["template"]["spec"], pod):
        volumes = {volume["name"] for volume in spec["volumes"]}
        mounted = [
            m["name"] for each in (*spec.get("initContainers", ()), *spec["containers"]) for m in each["volumeMounts"]
        ]
        assert set(mounted) == volumes and spec["securityContext"]["runAsNonRoot"]
        claims = {v["persistentVolumeClaim"]["claimName"] for v in spec["volumes"] if "persistentVolumeClaim" in v}
        assert claims == {kind("PersistentVolumeClaim")["metadata"]["name"]}


def test_the_compose_file_refers_to_what_exists(service: Service) -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = compose["services"]
    build = services["sidkit"]["build"]
    context = (DEPLOY / build["context"]).resolve()
    assert context == ROOT and (context / build["dockerfile"]) == DEPLOY / "Dockerfile"
    for each in services.values():
        assert all(name in services for name in each.get("depends_on", ()))
        for volume in each.get("volumes", ()):
            source = volume.split(":")[0]
            known = source in compose["volumes"] or source.startswith("${") or (DEPLOY / source).exists()
            assert known, volume
        assert all(port.startswith("127.0.0.1:") for port in each.get("ports", ()))
    scrape = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"][0]
    [target] = scrape["static_configs"][0]["targets"]
    assert target.split(":")[0] in services and target.split(":")[1] in COMMAND
    [secret] = services["prometheus"]["secrets"]
    assert scrape["authorization"]["credentials_file"] == f"/run/secrets/{secret}" and secret in compose["secrets"]
    assert service.call("GET", scrape["metrics_path"]).status == 401
    kind_of = scrape["authorization"]["type"]
    assert service.call("GET", scrape["metrics_path"], authorization=f"{kind_of} {TOKEN}").status == 200
    provisioned = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/sidkit.yaml").read_text())["providers"][0]
    assert any(volume.split(":")[1] == provisioned["options"]["path"] for volume in services["grafana"]["volumes"])


def test_every_metric_and_label_of_the_dashboard_is_served(service: Service, finished: FinishedJob) -> None:
    given = {"authorization": f"Bearer {TOKEN}"}
    body = {"user_id": "nobody", "item_ids": ["i1", "nothing"], "at": iso(finished.result.as_of_us)}
    assert service.call("POST", "/v1/rank", body, **given).status == 200
    text = service.call("GET", "/metrics", **given).text
    families = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, flags=re.MULTILINE))
    endings = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}
    names = {name + end for name, each in families.items() for end in endings.get(each, ("",))}
    labels: dict[str, set[str]] = {}
    for name, inner in re.findall(r"^(\w+)\{(.*?)\} ", text, flags=re.MULTILINE):
        labels.setdefault(name, set()).update(re.findall(r'(\w+)="', inner))

    dashboard = json.loads((DEPLOY / "grafana/dashboards/sidkit.json").read_text())
    source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"][0]
    drawn = set()
    for panel in dashboard["panels"]:
        assert panel["datasource"]["uid"] == source["uid"] and panel["targets"]
        for target in panel["targets"]:
            expression = target["expr"]
            used = set(re.findall(r"\bsidkit_\w+", expression))
            assert used and used <= names, (panel["title"], used - names)
            drawn |= used
            assert expression.count("(") == expression.count(")")
            grouped = {label.strip() for by in re.findall(r"by \((.*?)\)", expression) for label in by.split(",")}
            chosen = set(re.findall(r'(\w+)[!=]~?=?"', expression))
            legend = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            for name in used & labels.keys():
                assert grouped | chosen <= labels[name], (panel["title"], name)
            stages = set(re.findall(r'stage!?="(\w+)"', expression))
            assert stages <= set(STAGES), "a stage that is not observed draws nothing"
            assert legend <= grouped
    boxes = [tuple(panel["gridPos"][side] for side in "xywh") for panel in dashboard["panels"]]
    assert len(set(boxes)) == len(boxes) and all(x + w <= 24 for x, _, w, _ in boxes)
    # A counter is named with _total in its samples; every metric of the service has a panel.
    own = {name for name in families if name.startswith("sidkit_") and not name.endswith("_created")}
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in drawn} == own


def loaded(name: str, repo: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A file of the folder as a module, with the repository in its environment."""
    monkeypatch.setenv("SIDKIT_REPO", str(repo))
    spec = spec_from_file_location(name, DEPLOY / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def expected(finished: FinishedJob, items: list[str]) -> list[float]:
    scores = sidkit.open(finished.repo.path).scorer().score("u1", items, iso(finished.result.as_of_us))
    return [float(score) for score in scores["score"]]


def test_the_example_of_bentoml_ranks(finished: FinishedJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """BentoML's decorators only declare; ``make deploy`` runs the example inside BentoML itself."""
    monkeypatch.setitem(
        sys.modules, "bentoml", SimpleNamespace(service=lambda **_: lambda each: each, api=lambda each: each)
    )
    service = loaded("bento_service", finished.repo.path, monkeypatch).Ranking()
    items = [f"i{number}" for number in range(9)]
    answer = service.rank("u1", items, iso(finished.result.as_of_us))
    got = {each["item_id"]: each["score"] for each in answer["items"]}
    np.testing.assert_allclose([got[item] for item in items], expected(finished, items))
    assert [each["score"] for each in answer["items"]] == sorted(got.values(), reverse=True)
    json.dumps(answer)


def test_the_example_of_kserve_scores(finished: FinishedJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins for KServe's containers of values; ``make deploy`` runs it inside KServe itself."""

    class Model:
        def __init__(self, name: str) -> None:
            self.name, self.ready = name, False

    def kept(*names: str) -> Any:
        return lambda *values: SimpleNamespace(**dict(zip(names, values, strict=True)))

    monkeypatch.setitem(
        sys.modules,
        "kserve",
        SimpleNamespace(
            Model=Model, ModelServer=object, InferRequest=object,
            InferOutput=kept("name", "shape", "datatype", "data"), InferResponse=kept("id", "model_name", "outputs"),
        ),
    )  # fmt: skip
    model = loaded("kserve_model", finished.repo.path, monkeypatch).RankingModel("ranker")
    assert model.load() and model.ready
    items = [f"i{number}" for number in range(9)]

    def tensor(name: str, values: list[Any]) -> Any:
        return SimpleNamespace(name=name, as_numpy=lambda: np.array(values))

    inputs = [tensor("user_id", [b"u1"]), tensor("item_id", [each.encode() for each in items])]
    inputs.append(tensor("at_us", [finished.result.as_of_us]))
    [output] = model.predict(SimpleNamespace(id="7", inputs=inputs)).outputs
    assert output.name == "score" and output.shape == [9]
    np.testing.assert_allclose(output.data, expected(finished, items))


def test_no_secret_is_written_in_the_files() -> None:
    for path in DEPLOY.rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert not re.search(r"[0-9a-f]{32}", text), path
