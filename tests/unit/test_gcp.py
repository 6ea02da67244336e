"""deploy/gcp and docs/gcp.md: Google's schemas allow the files, and the commands name what the project has."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cloud_training import Job
from serving.cloud.front import DRAIN_S, QUIET_S
from serving.cloud.platform import PING, Platform
from serving.store.model_config import DEFAULTS
from tests.unit import discovery
from training.configuration import compose

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "gcp"
PAGE = (ROOT / "docs" / "gcp.md").read_text()
KINDS = {
    "cloudrun.yaml": ("run.v1", "Service"),
    "training.yaml": ("aiplatform.v1", "GoogleCloudAiplatformV1CustomJobSpec"),
}


def document(name: str) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return read


def faults(name: str, content: dict[str, Any]) -> list[str]:
    pytest.importorskip("googleapiclient", reason="install requirements-schemas.txt")
    return discovery.faults(*KINDS[name], content)


def test_every_file_has_a_schema_that_allows_it() -> None:
    assert {path.name for path in FOLDER.glob("*.yaml")} == set(KINDS)
    for name in KINDS:
        assert faults(name, document(name)) == []


@pytest.mark.parametrize(
    ("name", "path", "value", "fault"),
    [
        ("cloudrun.yaml", "spec.template.spec.containerConcurency", 32, "containerConcurency: there is no such field"),
        ("cloudrun.yaml", "spec.template.spec.containerConcurrency", "many", "'many' is not of type integer"),
        ("cloudrun.yaml", "spec.template.spec.containers.0.startupProbe.httpGet.path", 7, "7 is not of type string"),
        ("cloudrun.yaml", "spec.template.spec.containers.0.env.0", "A=1", "env[0]: 'A=1' is not of type object"),
        ("cloudrun.yaml", "spec.template.metadata.annotations.minScale", True, "True is not of type string"),
        ("training.yaml", "workerPoolSpecs.0.machineSpec.acceleratorType", "L4", "TPU_V5_LITEPOD"),
        ("training.yaml", "workerPoolSpecs.0.replicaCount", 1.5, "1.5 is not of type string"),
        ("training.yaml", "workerPoolSpecs.0.containerSpec.image", "x", "image: there is no such field"),
        ("training.yaml", "scheduling.timeout", "a day", "'a day' is no duration, such as 60s"),
    ],
)
def test_a_broken_file_is_refused(name: str, path: str, value: Any, fault: str) -> None:
    content = copy.deepcopy(document(name))
    *steps, last = path.split(".")
    place: Any = content
    for step in steps:
        place = place[int(step) if step.isdecimal() else step]
    place[int(last) if last.isdecimal() else last] = value
    (line,) = faults(name, content)
    assert line.endswith(fault)


def test_cloud_run_sends_no_more_than_the_workers_take() -> None:
    revision = document("cloudrun.yaml")["spec"]["template"]["spec"]
    (container,) = revision["containers"]
    workers = int(container["resources"]["limits"]["cpu"])
    assert revision["containerConcurrency"] == 2 * workers * DEFAULTS["batchSize"] < DEFAULTS["jobQueueSize"]
    assert revision["timeoutSeconds"] == DEFAULTS["responseTimeout"]
    port = container["ports"][0]["containerPort"]
    variables = {each["name"]: each["value"] for each in container["env"]}
    platform = Platform.of_environment({"PORT": str(port), **variables})
    assert platform is not None and platform.storage == "gs://BUCKET/birds/model"
    for name in ("startupProbe", "livenessProbe"):
        assert container[name]["httpGet"] == {"path": PING, "port": port}
    assert container["startupProbe"]["periodSeconds"] * container["startupProbe"]["failureThreshold"] <= 240
    assert DRAIN_S + QUIET_S < 10, "Cloud Run kills it then"


def test_the_job_ends_with_the_archive_that_cloud_run_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    job = document("training.yaml")
    base = job["baseOutputDirectory"]["outputUriPrefix"]
    variables = {"AIP_MODEL_DIR": f"{base}/model/", "AIP_CHECKPOINT_DIR": f"{base}/checkpoints/"}
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")  # it looks for no credentials then
    pytest.importorskip("gcsfs", reason="install requirements-gcp.txt")
    (pool,) = job["workerPoolSpecs"]
    dataset, name, raw, version, *settings = pool["containerSpec"]["args"]
    planned = Job(dataset, name, raw, version, variables)
    compose([f"dataset={dataset}", f"name={name}", f"raw={raw}", *settings])
    (container,) = document("cloudrun.yaml")["spec"]["template"]["spec"]["containers"]
    assert {"name": "AIP_STORAGE_URI", "value": planned.models} in container["env"]
    assert int(pool["replicaCount"]) == 1, "several machines are refused"


def test_the_training_image_gets_what_its_steps_copy() -> None:
    text = (FOLDER / "training.Dockerfile").read_text()
    allowed = {
        line[1:] for line in (FOLDER / "training.Dockerfile.dockerignore").read_text().splitlines() if "!" in line
    }
    copied = re.findall(r"^COPY --chown=10001 (\S+) \1$", text, re.MULTILINE)
    assert copied == ["training", "pipeline"] and all((ROOT / name).is_dir() for name in copied)
    locks = re.findall(r"requirements[\w-]*\.txt", text)
    assert len(locks) >= 4 and all((ROOT / name).is_file() for name in locks)
    assert allowed == {*copied, "requirements*.txt"}
    module = re.search(r'ENTRYPOINT \["python", "-m", "([\w.]+)"\]', text)
    assert module is not None and (ROOT / module[1].replace(".", "/")).with_suffix(".py").is_file()


def test_the_page_names_paths_images_and_variables_that_exist() -> None:
    for path in re.findall(r"(?:deploy|tests|serving|pipeline|model_store)/[\w./-]+\.(?:py|yaml|Dockerfile)", PAGE):
        assert (ROOT / path).is_file(), path
    images = set(re.findall(r"REGION-docker\.pkg\.dev/PROJECT/sightline/\w+:[\w.]+", PAGE))
    used = {image for path in FOLDER.iterdir() for image in re.findall(r"REGION-docker\S+", path.read_text())}
    assert used <= images
    source = "".join(
        path.read_text() for folder in ("serving/cloud", "pipeline") for path in (ROOT / folder).glob("*.py")
    )
    for variable in set(re.findall(r"\b(?:(?:AIP|SIGHTLINE)_[A-Z_]+)\b", PAGE)):
        assert variable in source, variable
    for route in re.findall(r"--container-(?:health|predict)-route=(\S+)", PAGE):
        assert route in (PING, "/predictions/birds")
    for extra in re.findall(r'--extras "?([a-z ]+?)"? ', PAGE):
        assert all((ROOT / f"requirements-{name}.txt").is_file() for name in extra.split())
