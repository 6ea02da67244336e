"""The manifests name ports, paths, users, metrics, variables and commands that the code has."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring import server_metrics
from serving import bucket, container
from serving.gateway import envoy, process, routes
from serving.gateway.clients import FILE
from serving.host import ports
from serving.host.ports import Ports
from serving.store.model_config import DEFAULTS
from tests.unit import manifests
from tests.unit.manifests import FOLDER, ROOT, Object

OVERLAYS = [folder for folder in manifests.APPLIED if folder.startswith("overlays/")]
CONFIG = Ports.of_config((ROOT / "config.properties").read_text())
LABELS = {"app.kubernetes.io/name": "sightline"}


def pod(folder: str) -> Object:
    spec: Object = manifests.one("Deployment", folder)["spec"]["template"]["spec"]
    return spec


def server(folder: str) -> Object:
    (only,) = pod(folder)["containers"] if folder.startswith("overlays/") else runtime()["containers"]
    item: Object = only
    return item


def runtime() -> Object:
    spec: Object = manifests.one("ServingRuntime", "kserve/runtime")["spec"]
    return spec


def seconds(probe: Object) -> int:
    """Return how long a probe may fail."""
    return int(probe["periodSeconds"]) * int(probe["failureThreshold"])


@pytest.mark.parametrize("folder", [*OVERLAYS, "kserve/runtime"])
def test_ports_are_those_of_the_gateway_and_the_exporter(folder: str) -> None:
    item = server(folder)
    opened = {port.get("name", "http"): port["containerPort"] for port in item["ports"]}
    words = item["args"]
    assert str(opened["http"]) == words[words.index("--port") + 1]
    assert opened.get("metrics", 8083) == ports.exporter_port(CONFIG.metrics.url)
    assert opened["http"] not in {address.port for address in CONFIG.all()}
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert item[name]["httpGet"]["port"] in ("http", opened["http"])
        assert item[name]["httpGet"]["path"] in paths()


def paths() -> set[str]:
    """Return the exact paths that the gateway answers without a key."""
    (host,) = routes.template()["virtual_hosts"]
    return {route["match"]["path"] for route in host["routes"] if "path" in route["match"]}


def test_the_runtime_of_kserve_has_the_probes_of_the_deployment() -> None:
    text = yaml.safe_dump(
        {name: server("overlays/volume")[f"{name}Probe"] for name in ("startup", "readiness", "liveness")}
    )
    same = {name: server("kserve/runtime")[f"{name}Probe"] for name in ("startup", "readiness", "liveness")}
    assert yaml.safe_load(text.replace("port: http", "port: 8000")) == same


@pytest.mark.parametrize("folder", OVERLAYS)
def test_ports_of_other_objects_are_those_of_the_pod(folder: str) -> None:
    names = {port["name"] for port in server(folder)["ports"]}
    (service,) = manifests.one("Service", folder)["spec"]["ports"]
    assert service["targetPort"] in names
    for rule in manifests.one("HTTPRoute", folder)["spec"]["rules"]:
        assert rule["backendRefs"] == [{"name": "sightline", "port": service["port"]}]
    policy = manifests.one("NetworkPolicy", folder, "sightline")["spec"]
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == names
    for item in manifests.objects(folder):
        if item["kind"] == "PodMonitor":
            assert {endpoint["port"] for endpoint in item["spec"]["podMetricsEndpoints"]} == {"metrics"}


@pytest.mark.parametrize("folder", OVERLAYS)
def test_selectors_are_labels_of_the_pod(folder: str) -> None:
    deployment = manifests.one("Deployment", folder)["spec"]
    assert deployment["template"]["metadata"]["labels"] == LABELS
    (spread,) = pod(folder)["topologySpreadConstraints"]
    selectors = [deployment["selector"]["matchLabels"], spread["labelSelector"]["matchLabels"]]
    selectors.append(manifests.one("Service", folder)["spec"]["selector"])
    selectors.append(manifests.one("PodDisruptionBudget", folder)["spec"]["selector"]["matchLabels"])
    for item in manifests.objects(folder):
        if item["kind"] == "NetworkPolicy":
            selectors.append(item["spec"]["podSelector"]["matchLabels"])
        if item["kind"] == "PodMonitor":
            selectors.append(item["spec"]["selector"]["matchLabels"])
    assert all(selector == LABELS for selector in selectors)


def test_the_route_leads_to_what_the_gateway_answers() -> None:
    (host,) = routes.template()["virtual_hosts"]
    patterns = [route["match"]["safe_regex"]["regex"] for route in host["routes"] if "safe_regex" in route["match"]]
    (rule,) = manifests.one("HTTPRoute", "overlays/volume")["spec"]["rules"]
    prefixes = [match["path"]["value"] for match in rule["matches"]]
    for prefix, example in {
        "/predictions": "/predictions/birds/1.0",
        "/explanations": "/explanations/birds",
        "/v1/models": "/v1/models/birds:predict",
        "/v2": "/v2/models/birds/ready",
    }.items():
        assert prefix in prefixes and any(re.fullmatch(pattern, example) for pattern in patterns)
    longest = max(int(route["route"]["timeout"].rstrip("s")) for route in host["routes"] if "route" in route)
    assert int(rule["timeouts"]["request"].rstrip("s")) > longest


def test_keda_asks_for_a_metric_of_the_exporter() -> None:
    scaled = manifests.one("ScaledObject", "overlays/bucket")
    queue, processor = scaled["spec"]["triggers"]
    query = queue["metadata"]["query"]
    (name,) = re.findall(r"sightline_\w+", query)
    assert name in server_metrics.GAUGES
    assert f'namespace="{scaled["metadata"]["namespace"]}"' in query
    assert int(queue["metadata"]["threshold"]) == DEFAULTS["batchSize"]
    assert int(queue["metadata"]["threshold"]) < DEFAULTS["jobQueueSize"]
    assert processor["type"] == "cpu" and "cpu" in server("overlays/bucket")["resources"]["requests"]
    assert (
        scaled["spec"]["scaleTargetRef"]["name"] == manifests.one("Deployment", "overlays/bucket")["metadata"]["name"]
    )
    assert "replicas" not in manifests.one("Deployment", "overlays/bucket")["spec"]


@pytest.mark.parametrize("folder", OVERLAYS)
def test_times_are_those_of_the_server(folder: str) -> None:
    item = server(folder)
    assert seconds(item["startupProbe"]) >= 2 * DEFAULTS["startupTimeout"]
    grace = item["lifecycle"]["preStop"]["sleep"]["seconds"] + envoy.DRAIN_LIMIT
    assert pod(folder)["terminationGracePeriodSeconds"] >= grace + 20
    assert process.DRAIN_LIMIT >= envoy.DRAIN_LIMIT


def test_variables_and_files_are_those_of_the_code() -> None:
    known = {bucket.BUCKET, bucket.MODELS, container.STORE, container.METRICS_HOST, "HOME"}
    for folder in (*OVERLAYS, "kserve/runtime"):
        assert {entry["name"] for entry in server(folder)["env"]} <= known
    for folder in OVERLAYS:
        assert set(manifests.one("ConfigMap", folder)["data"]) <= known
    assert f"--from-file={FILE}" in (FOLDER / "base" / "deployment.yaml").read_text()
    for image in pod("overlays/bucket")["initContainers"]:
        assert image["command"] == ["python", "-m", bucket.__name__, "get"]


@pytest.mark.parametrize("folder", [*OVERLAYS, "kserve/runtime"])
def test_containers_have_no_more_rights_than_they_need(folder: str) -> None:
    shared = pod(folder) if folder in OVERLAYS else runtime()
    if folder in OVERLAYS:
        assert shared["automountServiceAccountToken"] is False
    user = re.search(r"^USER (\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert user is not None
    for item in (*shared.get("initContainers", []), *shared["containers"]):
        rights = {**shared.get("securityContext", {}), **item["securityContext"]}
        assert rights["runAsUser"] == int(user[1]) and rights["runAsNonRoot"] and rights["readOnlyRootFilesystem"]
        assert not rights["allowPrivilegeEscalation"] and rights["capabilities"] == {"drop": ["ALL"]}
        assert rights["seccompProfile"] == {"type": "RuntimeDefault"}
        writable = {mount["mountPath"] for mount in item["volumeMounts"] if not mount.get("readOnly")}
        assert writable == {item["workingDir"], "/tmp"}
    volumes = {volume["name"] for volume in shared["volumes"]}
    assert {mount["name"] for item in shared["containers"] for mount in item["volumeMounts"]} <= volumes


def test_the_image_has_what_the_manifests_need() -> None:
    text, ignored = (ROOT / "Dockerfile").read_text(), (ROOT / ".dockerignore").read_text()
    assert "sightline.pth" in text, "modules are imported from another working directory"
    for extra in ("gateway", "gcp"):
        assert f"!requirements-{extra}.txt" in ignored
    assert "!deploy/gateway\n" in ignored
    assert '--extras "gateway gcp"' in (ROOT / "docs" / "kubernetes.md").read_text()


def test_a_model_of_kserve_has_its_name_in_its_address() -> None:
    for folder in ("kserve/fingers", "kserve/canary"):
        service = manifests.one("InferenceService", folder)
        model: dict[str, Any] = service["spec"]["predictor"]["model"]
        assert f"/{service['metadata']['name']}/" in model["storageUri"] and model["storageUri"].endswith("/archives")
        assert model["runtime"] == manifests.one("ServingRuntime", "kserve/runtime")["metadata"]["name"]
        assert model["modelFormat"]["name"] in [entry["name"] for entry in runtime()["supportedModelFormats"]]
        assert service["spec"]["predictor"]["scaleTarget"] == DEFAULTS["batchSize"]
    store = {entry["name"]: entry["value"] for entry in runtime()["containers"][0]["env"]}[container.STORE]
    assert store == "/mnt/models", "KServe puts it there"


def test_ray_is_that_of_the_lock() -> None:
    lock = re.search(r"^ray\[?\S*?==(\S+)", (ROOT / "requirements-cluster.txt").read_text(), re.MULTILINE)
    assert lock is not None
    cluster, job = (manifests.one(kind, "kuberay")["spec"] for kind in ("RayCluster", "RayJob"))
    assert cluster == job["rayClusterSpec"] and cluster["rayVersion"] == lock[1]
    _, option, module, address, *_ = job["entrypoint"].split()
    assert option == "-m" and (ROOT / f"{module.replace('.', '/')}.py").is_file()
    assert address == "localhost:6379", "Ray's own port, in its head pod"


def test_who_needs_no_key_is_behind_a_policy() -> None:
    for folder in OVERLAYS:
        assert "--no-keys" not in server(folder)["args"]
    assert "--no-keys" in server("kserve/runtime")["args"]
    policy = manifests.one("NetworkPolicy", "kserve/runtime")["spec"]
    (selected,) = policy["podSelector"]["matchExpressions"]
    assert selected == {"key": "serving.kserve.io/inferenceservice", "operator": "Exists"}, "all pods of KServe"
    assert policy["policyTypes"] == ["Ingress"] and all(rule["from"] for rule in policy["ingress"])


def test_another_image_of_the_bucket_s_pods_is_not_that_of_the_pods_with_gpus(tmp_path: Path) -> None:
    folder = tmp_path / "kubernetes"
    shutil.copytree(FOLDER, folder)
    path = folder / "overlays" / "bucket" / "kustomization.yaml"
    path.write_text(path.read_text().replace("newName: sightline", "newName: images.example.com/sightline"))
    images = {
        item["spec"]["template"]["spec"]["containers"][0]["image"]
        for overlay in ("overlays/bucket", "overlays/gpu")
        for item in manifests.objects(overlay, folder)
        if item["kind"] == "Deployment"
    }
    assert images == {"images.example.com/sightline:cpu", "sightline:gpu"}
