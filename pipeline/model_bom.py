"""Write the bill of materials of an archive (CycloneDX 1.6, a machine-learning BOM).

    .venv/bin/uv pip install --require-hashes -r requirements-audit.txt     once
    .venv/bin/python -m pipeline.model_bom fingers 1.0                      model_store/fingers-1.0.cdx

The bill names the model with its hash and model card, its files, its data set, the pretrained weights and the packages.
Everything is read from the archive and its sidecar, so the same archive gives the same bill. The packages of a server
have another one: `.venv/bin/cyclonedx-py environment .venv`, and in the image /opt/sightline/sbom.cdx.json.
"""

import argparse
import datetime as dt
import json
import sys
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from handlers import atomic
from serving.errors import ServingError
from serving.store import model_store, provenance
from serving.store.model_store import Archive, ArchiveError

INSTALL = "cyclonedx-bom is missing: .venv/bin/uv pip install --require-hashes -r requirements-audit.txt"
CARD_METRICS = ("top_1", "top_5", "macro_f1", "calibration_error")  # of the test images, with their intervals


def document(sidecar: Mapping[str, Any], weights: Mapping[str, str] | None) -> dict[str, Any]:
    """Return the bill of materials of the archive with this sidecar and these pretrained weights.

    Raises:
        ArchiveError: the package is missing, or the result is not valid CycloneDX.
    """
    try:
        from cyclonedx.output.json import JsonV1Dot6
        from cyclonedx.schema import SchemaVersion
        from cyclonedx.validation.json import JsonStrictValidator
    except ImportError:
        raise ArchiveError(INSTALL) from None
    bill: dict[str, Any] = json.loads(JsonV1Dot6(_bill(sidecar, weights)).output_as_string())
    bill["metadata"]["component"]["modelCard"] = _card(sidecar)  # the library has no class for it
    if fault := JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)):
        raise ArchiveError(f"the bill of materials is not valid CycloneDX: {fault}")
    return bill


def _bill(sidecar: Mapping[str, Any], weights: Mapping[str, str] | None) -> Any:
    """Return the bill without its model card, as the library's `Bom`."""
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType, Pedigree
    from cyclonedx.model.license import DisjunctiveLicense
    from packageurl import PackageURL

    def digest(value: str) -> HashType:
        return HashType(alg=HashAlgorithm.SHA_256, content=value)

    def properties(**values: object) -> list[Property]:
        return [Property(name=f"sightline:{name}", value=str(value)) for name, value in values.items() if value]

    trained = sidecar["trained"]
    model = Component(
        name=sidecar["name"],
        version=sidecar["version"],
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="model",
        hashes=[digest(sidecar["sha256"])],
        properties=properties(commit=sidecar["commit"], trained_commit=trained["commit"], file=sidecar["file"]),
    )
    model.components.update(
        Component(name=name, type=ComponentType.FILE, bom_ref=f"file:{name}", hashes=[digest(value)])
        for name, value in sidecar["members"].items()
    )
    if weights:
        ancestor = Component(
            name=weights["name"],
            type=ComponentType.MACHINE_LEARNING_MODEL,
            bom_ref="pretrained weights",
            hashes=[digest(weights["sha256"])],
            licenses=[DisjunctiveLicense(name=weights["licence"])],
            properties=properties(source=weights["source"]),
        )
        model.pedigree = Pedigree(ancestors=[ancestor])
    images = Component(
        name=f"{sidecar['name']} images",
        type=ComponentType.DATA,
        bom_ref="images",
        properties=properties(fingerprint=sidecar["dataset_fingerprint"], classes=len(sidecar["classes"])),
    )
    packages = [
        Component(
            name=name,
            version=version,
            type=ComponentType.PLATFORM if name == "python" else ComponentType.LIBRARY,
            bom_ref=f"{name}@{version}",
            purl=None if name == "python" else PackageURL("pypi", name=name, version=version),
        )
        for name, version in _versions(sidecar)
    ]
    bill = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_OID, sidecar["sha256"]), components=[images, *packages])
    bill.metadata.timestamp = dt.datetime.fromisoformat(sidecar["date"])
    bill.metadata.component = model
    bill.register_dependency(model, [images, *packages])
    return bill


def _versions(sidecar: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the packages that trained the network and those that built its archive."""
    return sorted({*(sidecar["trained"]["versions"] or {}).items(), *sidecar["versions"].items()})


def _card(sidecar: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model card: task, network, figures on the test images, limitations."""
    metrics = sidecar["metrics"] or {}
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "image classification",
            "architectureFamily": "neural network",
            "modelArchitecture": sidecar["network"],
            "datasets": [{"ref": "images"}],
            "inputs": [{"format": "an encoded image"}],
            "outputs": [{"format": "labels and their probabilities"}],
        },
        "quantitativeAnalysis": {"performanceMetrics": list(_figures(metrics))},
        "considerations": {
            "technicalLimitations": [
                f"It answers every image with one of {len(sidecar['classes'])} classes; an image of none gets one too.",
                "Its figures are those of the test images of its data set"
                + (f" ({metrics['images']:,} images)." if "images" in metrics else ", and it has none."),
            ]
        },
    }


def _figures(metrics: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    for name in CARD_METRICS:
        if value := metrics.get(name):
            interval = {"lowerBound": str(value["low"]), "upperBound": str(value["high"])}
            yield {"type": name, "value": str(value["value"]), "confidenceInterval": interval}


def write(archive: Archive) -> Path:
    """Write the bill of materials beside an archive, and return its path.

    Raises:
        ArchiveError: the archive is damaged, or as `document`.
    """
    archive.check()
    weights = archive.spec()["provenance"].get("weights")
    path = archive.bill_of_materials
    atomic.write_text(path, provenance.text(document(archive.provenance(), weights)))
    return path


def main() -> int:
    """Write the bill of one archive; return 1 on an error."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.model_bom", description=__doc__.splitlines()[0])
    parser.add_argument("name", help="the model")
    parser.add_argument("version", nargs="?", help="default: the newest in the store")
    arguments = parser.parse_args()
    root = Path.cwd()
    try:
        print(write(model_store.find(arguments.name, arguments.version, root / model_store.FOLDER)).relative_to(root))
    except (ServingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
