"""Export the best checkpoint of a run, and check that the artifact answers as the network does.

    python -m training.export name=fingers               model.pt and export.json, again from checkpoints/best.ckpt
    python -m training.export name=fingers format=pt2    beside them model.pt2, compiled for this processor

Training does the first by itself.
"""

import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from handlers import golden, tolerances
from handlers.atomic import replacing, write_json
from handlers.classifier import Classifier
from handlers.errors import ArtifactError
from handlers.network import aot, torchscript
from handlers.preprocessing import Preprocess
from handlers.run_folder import RunFolder
from handlers.spec import ARTIFACTS, PreprocessSpec, Spec
from training import scores
from training.configuration import ConfigurationError, TrainingError, compose, load, plain, run_folder, store_folder
from training.console import message_of
from training.data import splits
from training.data.loaders import calibration_batches, calibration_rows, validation_batches
from training.data.records import DatasetError
from training.data.splits import Split, SplitSpec
from training.data.store import PreparedDataset
from training.golden import choose
from training.networks import build
from training.quantization import QuantizationError, quantize
from training.run import commit, input_statistics, network_name, run_key, versions, with_planned_epochs
from training.temperature import fit_temperature
from training.transfer import familiarity, reference
from training.transfer.stages import feature_key, stages
from training.transfer.weights import load_checkpoint

# Calibration takes longer than all else of a linear head, which is to be served soon.
WITHOUT_INT8 = {
    "offered": False,
    "why": "it is not made of a linear head: python -m training.export name=<run> makes it",
}
TOLERANCE = tolerances.FP32
BATCH = 8  # validation images; of 64, a CPU answers at a quarter of the rate: the activations do not fit in its caches


def export(
    network: nn.Module,
    settings: Mapping[str, Any],
    data: PreparedDataset,
    split: Split,
    preprocess: PreprocessSpec,
    run: Path,
    kind: str = "torchscript",
    *,
    int8: bool = True,
) -> dict[str, Any]:
    """Write `model.pt`, `golden.json` and `export.json` into `run`, and return the document of export.json.

    `familiarity.bin` and `drift.bin` are written beside them if there are validation images enough; export.json says
    so, or why not.

    The temperature of the probabilities is fitted on the validation images. `model.int8.pt` is written beside
    `model.pt`; export.json gives its loss of top-1, and whether that is known well enough to offer it. With "pt2" as
    `kind` only `model.pt2` is written, after a check against the golden images of `model.pt`.

    Without `int8` there is no int8 form.

    Raises:
        TrainingError: the artifact and the network differ on a validation image, or on a training image if the split
            has no validation images.
    """
    shown = split if len(split.validation) else dataclasses.replace(split, validation=calibration_rows(split))
    files = RunFolder(run)
    target = files.artifact(kind)
    network = network.float().cpu().eval()
    pixels = Preprocess(preprocess)
    logits, labels = _answers(network, pixels, validation_batches(data, shown, BATCH))
    validation = len(split.validation)
    temperature = fit_temperature(logits[:validation], labels[:validation])
    spec = Spec(
        preprocess=preprocess,
        classes=data.classes,
        network=network_name(settings),
        temperature=temperature.value,
        provenance={
            "name": settings["name"],
            "fingerprint": data.fingerprint,
            "split_format": splits.FORMAT,
            "commit": commit(),
            "config": dict(settings),
            "versions": versions(),
            "weights": _origin(RunFolder(run)),
        },
    )
    # In a separate folder: TorchScript writes the file's name into the file.
    with tempfile.TemporaryDirectory(dir=run, prefix=".export-") as folder:
        artifact = Path(folder) / target.name
        try:
            exported_network = _written(network, spec, artifact)
            document = compare(
                logits, exported_network, pixels, validation_batches(data, shown, BATCH), spec.temperature
            )
            if kind == "pt2":
                _check_golden(artifact, run)
        except (ArtifactError, golden.GoldenError) as error:
            raise TrainingError(str(error)) from error
        _check_difference(document, target)
        document["temperature"] = dataclasses.asdict(temperature)
        if kind == "torchscript":
            document["int8"] = (
                WITHOUT_INT8 if not int8 else _quantized(network, logits, spec, artifact, pixels, data, split)
            )
            golden.write(choose(artifact, data, shown), files.golden)
            frozen = feature_key(settings, spec.provenance["weights"]) if stages(settings) == 1 else None
            embeddings = familiarity.embed(artifact, network, data, split, logits, frozen)
            document["familiarity"] = familiarity.write(artifact, embeddings)
            document["reference"] = reference.write(artifact, embeddings, data, logits / temperature.value)
            _write_validation(files.validation, logits[:validation], labels[:validation], temperature.value)
            for stale in (files.int8_model, files.compiled_model, files.familiarity, files.reference):
                stale.unlink(missing_ok=True)
            for beside in (files.int8_model, files.familiarity, files.reference):
                if artifact.with_name(beside.name).is_file():
                    os.replace(artifact.with_name(beside.name), beside)
        os.replace(artifact, target)
    if kind == "torchscript":
        write_json(files.export, {**document, "commit": spec.provenance["commit"]})
    return document


def _write_validation(path: Path, logits: torch.Tensor, labels: torch.Tensor, temperature: float) -> None:
    """Write the answers to the validation images: probabilities (N, K) float32 and labels (N,)."""
    probabilities = (logits / temperature).softmax(dim=1).float()
    with replacing(path) as part:
        np.savez_compressed(part, probabilities=probabilities.numpy(), labels=labels.numpy())


def _check_difference(comparison: Mapping[str, Any], path: Path) -> None:
    """Refuse an artifact whose answers differ from those of the trained network."""
    if comparison["different_top1"] or not comparison["largest_difference"] <= TOLERANCE:
        raise TrainingError(
            f"{path} was not written: exported and trained network differ on {comparison['different_top1']} "
            f"of {comparison['images']} images, by at most {comparison['largest_difference']:.1e} (allowed: "
            f"{TOLERANCE:.0e}). The network does something that tracing does not keep: choose another network.kind"
        )


def _origin(run: RunFolder) -> dict[str, str] | None:
    """Return the origin of the pretrained weights that a run began with, if it did."""
    return dict(json.loads(run.weights.read_text())) if run.weights.is_file() else None


def _quantized(
    network: Any,
    logits: torch.Tensor,
    spec: Spec,
    path: Path,
    preprocess: Preprocess,
    data: PreparedDataset,
    split: Split,
) -> dict[str, Any]:
    """Write the int8 network beside `path`; return its loss and whether it is offered, or why it does not exist.

    `logits` are those of the float32 network for the validation images.
    It is offered if the upper end of the interval of its loss is within `tolerances.INT8_TOP1_LOST`.
    """
    if not len(split.validation):
        return {"offered": False, "why": "there are no validation images to measure it on"}
    try:
        quantized_network = quantize(network, map(preprocess.normalize, calibration_batches(data, split)))
        torchscript.save_quantized(quantized_network, spec, path)
        quantized = torchscript.load(torchscript.quantized(path)).module
        batches = validation_batches(data, split, BATCH)
        comparison = compare(logits, quantized, preprocess, batches, spec.temperature)
    except (QuantizationError, ArtifactError, RuntimeError) as error:
        # The float32 network is exported nevertheless.
        torchscript.quantized(path).unlink(missing_ok=True)
        return {"offered": False, "why": str(error).strip().partition("\n")[0]}
    return judge_int8(comparison)


def judge_int8(comparison: Mapping[str, Any], kind: str = "validation") -> dict[str, Any]:
    """Return a comparison of the int8 network with its loss, and whether that is known to be small enough.

    `kind` names the images that were compared.
    """
    loss = scores.paired_loss(comparison["lost"], comparison["gained"], comparison["images"])
    allowed, points = tolerances.INT8_TOP1_LOST, f"{100 * loss.low:.1f} to {100 * loss.high:.1f} points of top-1"
    says = f"it loses {points} on {comparison['images']} {kind} images"
    document = {"offered": loss.high <= allowed, "says": says, "top1_lost": scores.plain(loss), "allowed": allowed}
    if loss.low > allowed:
        document["why"] = says
    elif loss.high > allowed:
        document["why"] = f"too few images to tell ({comparison['images']}): {says}"
    return {**document, **comparison}


def verdict(int8: Mapping[str, Any]) -> str:
    """Return a line that says whether int8 is offered, and why."""
    return f"int8 is offered: {int8['says']}" if int8["offered"] else f"int8 is not offered: {int8['why']}"


def _written(network: nn.Module, spec: Spec, path: Path) -> Any:
    """Write an artifact, and return it as a callable in float32."""
    if aot.is_aot_package(path):
        aot.save(network, spec, path)
        return aot.load(path, torch.device("cpu"), "fp32")[1]
    torchscript.save(network, spec, path)
    return torchscript.load(path).module


def _check_golden(weights: Path, run: Path) -> None:
    """Check an artifact, in each precision, against the golden images of the run."""
    path = RunFolder(run).golden
    if not path.is_file():
        raise TrainingError(f"{path} is not there: python -m training.export name={run.name} writes it")
    images = golden.read(path)
    for precision in aot.PRECISIONS:
        golden.check(Classifier(weights, precision=precision), images)


@torch.inference_mode()
def _answers(network: nn.Module, preprocess: Preprocess, batches: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits (N, K) of a network for the images of a loader, and their labels (N,)."""
    logits, labels = [], []
    for pixels, part in batches:
        logits.append(network(preprocess.normalize(pixels).contiguous(memory_format=torch.channels_last)))
        labels.append(part)
    return torch.cat(logits), torch.cat(labels)


@torch.inference_mode()
def compare(
    logits: torch.Tensor, exported: Any, preprocess: Preprocess, batches: Any, temperature: float
) -> dict[str, Any]:
    """Return the number of images whose top-1 differs, how often each is right, and the largest difference.

    `logits` (N, K) are those of the trained network for the images of `batches`; the difference is of a probability.
    """
    images, different, largest, losses, gains = 0, 0, 0.0, 0, 0
    correct = [0, 0]
    for pixels, labels in batches:
        trained, answered = logits[images : images + len(pixels)], exported(preprocess.normalize(pixels))
        ours, theirs = ((values / temperature).softmax(dim=1) for values in (trained, answered))
        images += len(pixels)
        first, second = (answers.argmax(dim=1) == labels for answers in (ours, theirs))
        for index, right in enumerate((first, second)):
            correct[index] += int(right.sum())
        losses, gains = losses + int((first & ~second).sum()), gains + int((second & ~first).sum())
        different += int((ours.argmax(dim=1) != theirs.argmax(dim=1)).sum())
        largest = max(largest, float((ours - theirs).abs().max()))
    about = {"images": images, "different_top1": different, "correct": correct, "lost": losses, "gained": gains}
    return {**about, "largest_difference": largest}


def _best_checkpoint(run: Path, settings: dict[str, Any], data: PreparedDataset) -> Path:
    files = RunFolder(run)
    best = files.best_checkpoint
    if not best.is_file():
        raise ConfigurationError(
            f"{best} does not exist: train first (make train NAME={run.name} DATASET={settings['dataset']['name']})"
        )
    if files.key.read_text() != run_key(settings, data):
        raise ConfigurationError(f"{best} is of other data, settings or versions than those here: train {run} again")
    return best


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit code."""
    formats = [argument.removeprefix("format=") for argument in arguments if argument.startswith("format=")]
    kind = formats[-1] if formats else "torchscript"
    arguments = [argument for argument in arguments if not argument.startswith("format=")]
    try:
        if kind not in ARTIFACTS:
            raise ConfigurationError(f"format={kind}: use {' or '.join(ARTIFACTS)}")
        run = run_folder(compose(arguments))
        config = load(run)
        settings = plain(config)
        data = PreparedDataset.open(store_folder(config))
        split = data.split(SplitSpec.from_config(settings["split"]))
        best = _best_checkpoint(run, settings, data)
        preprocess = data.preprocess(*input_statistics(settings, data, split))
        settings = with_planned_epochs(settings, run)
        # The checkpoint holds all weights: the files that training started from may be gone.
        node = {**settings["network"], "weights": None, "pretrained": False}
        node = {name: node[name] for name in settings["network"]}
        network = build(node, len(data.classes), preprocess.channels, preprocess.image_size)
        load_checkpoint(network.to(memory_format=torch.channels_last), best)
        long = ": compiling takes minutes" if kind == "pt2" else ""
        target = RunFolder(run).artifact(kind)
        print(f"exporting {target}{long}", flush=True)
        document = export(network, settings, data, split, preprocess, run, kind)
    except (ConfigurationError, DatasetError, TrainingError, OSError, ValueError) as error:
        print(f"error: {message_of(error)}", file=sys.stderr)
        return 1
    print(f"{target}: largest difference {document['largest_difference']:.1e} on {document['images']} images")
    print(document["temperature"]["says"])
    if "int8" in document:
        print(verdict(document["int8"]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
