"""Every object of deploy/kubernetes is valid for the API that it is of, and a broken one of each kind is refused."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.unit import manifests
from tests.unit.manifests import APPLIED, FOLDER, Object

KINDS = {
    *("ConfigMap", "Deployment", "Namespace", "NetworkPolicy", "PersistentVolumeClaim", "PodDisruptionBudget"),
    *("Service", "ServiceAccount", "Gateway", "HTTPRoute", "ScaledObject", "PodMonitor"),
    *("ServingRuntime", "InferenceService", "RayCluster", "RayJob"),
}


def spec(*path: str | int, value: Any) -> Callable[[Object], None]:
    """Return a change of one field of an object."""

    def change(item: Object) -> None:
        part: Any = item
        for step in path[:-1]:
            part = part[step]
        part[path[-1]] = value

    return change


POD = ("spec", "template", "spec")
# For each kind a wrong type, a misspelled field, or a missing one.
BREAKS = [
    ("ConfigMap", "overlays/volume", spec("data", "SIGHTLINE_MODELS", value=1)),
    ("Deployment", "overlays/volume", spec("spec", "replicas", value="two")),
    ("Deployment", "overlays/volume", spec(*POD, "containers", 0, "readynessProbe", value={})),
    ("Deployment", "overlays/bucket", spec(*POD, "initContainers", 0, "command", value="python")),
    ("Namespace", "overlays/volume", spec("metadata", "label", value={})),
    ("NetworkPolicy", "kuberay", spec("spec", "policyTypes", value="Ingress")),
    ("PersistentVolumeClaim", "overlays/volume", spec("spec", "accessMode", value=["ReadWriteMany"])),
    ("PodDisruptionBudget", "overlays/volume", spec("spec", "maxUnavailabel", value=1)),
    ("Service", "overlays/volume", spec("spec", "ports", 0, "port", value="http")),
    ("ServiceAccount", "overlays/volume", spec("automountServiceAccountToken", value="no")),
    ("Gateway", "overlays/volume", spec("spec", "listeners", 0, "port", value="443")),
    ("Gateway", "overlays/volume", spec("spec", "listeners", 0, "tls", "certificateRef", value=[])),
    ("HTTPRoute", "overlays/volume", spec("spec", "rules", 0, "matches", 0, "path", "type", value="Prefix")),
    ("HTTPRoute", "overlays/volume", spec("spec", "rules", 0, "timeout", value={"request": "35s"})),
    ("ScaledObject", "overlays/bucket", spec("spec", "scaleTargetRef", value={})),
    ("ScaledObject", "overlays/bucket", spec("spec", "maxReplicas", value=10)),
    ("PodMonitor", "overlays/bucket", spec("spec", "selector", value="sightline")),
    ("PodMonitor", "overlays/bucket", spec("spec", "podMetricsEndpoints", 0, "ports", value="metrics")),
    ("ServingRuntime", "kserve/runtime", spec("spec", "multiModel", value="no")),
    ("ServingRuntime", "kserve/runtime", spec("spec", "containers", 0, "volumeMount", value=[])),
    ("ServingRuntime", "kserve/runtime", spec("spec", "containers", 0, "readinessProbe", "httpGet", value={})),
    ("InferenceService", "kserve/canary", spec("spec", "predictor", "canaryTrafficPercent", value="10")),
    ("InferenceService", "kserve/fingers", spec("spec", "predictor", "model", "storageURI", value="gs://bucket")),
    ("RayCluster", "kuberay", spec("spec", "headGroupSpec", "template", "spec", "container", value=[])),
    ("RayCluster", "kuberay", spec("spec", "workerGroupSpecs", 0, "replicas", value=-1)),
    ("RayJob", "kuberay", spec("spec", "rayClusterSpec", "headGroup", value={})),
    ("RayJob", "kuberay", spec("spec", "submissionMode", value="HTTP")),
]


@pytest.mark.parametrize("folder", APPLIED)
def test_every_object_is_valid(folder: str) -> None:
    items = manifests.objects(folder)
    assert {item["kind"]: fault for item, fault in zip(items, manifests.faults(items), strict=True) if fault} == {}


def test_a_broken_object_of_each_kind_is_refused() -> None:
    broken = []
    for kind, folder, change in BREAKS:
        item = next(item for item in manifests.objects(folder) if item["kind"] == kind)
        change(item)
        broken.append(item)
    refused = [fault is not None for fault in manifests.faults(broken)]
    assert all(refused), [BREAKS[place][:2] for place, is_refused in enumerate(refused) if not is_refused]
    assert {kind for kind, _, _ in BREAKS} == KINDS
    assert {item["kind"] for folder in APPLIED for item in manifests.objects(folder)} == KINDS


def test_a_kind_without_a_schema_is_refused() -> None:
    unknown = {"apiVersion": "apps/v1", "kind": "Deploiment", "metadata": {"name": "sightline"}}
    assert manifests.faults([unknown]) == ["Deploiment: " + _missing("Deploiment", "apps/v1")]
    (fault,) = manifests.faults([{**unknown, "apiVersion": "keda.sh/v1alpha1", "spec": {}}])
    assert fault is not None


def _missing(kind: str, version: str) -> str:
    import kubernetes_validate

    latest = kubernetes_validate.latest_version().rpartition(".")[0]
    return f"Couldn't find schema for kind {kind} with api version {version} for kubernetes version {latest}"


def test_every_file_is_part_of_what_is_applied() -> None:
    text = "\n".join(path.read_text() for path in FOLDER.rglob("kustomization.yaml"))
    for path in FOLDER.rglob("*.yaml"):
        assert path.name in (*text.replace(",", " ").replace("[", " ").replace("]", " ").split(), "kustomization.yaml")
    for folder in {path.parent for path in FOLDER.rglob("kustomization.yaml")}:
        assert str(folder.relative_to(FOLDER)) in APPLIED or folder.name in text
