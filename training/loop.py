"""One run of Lightning over a prepared data set, from its start or resumed from its last checkpoint."""

import dataclasses
import logging
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy

from handlers.run_folder import RunFolder
from handlers.spec import PreprocessSpec
from training.checkpoints import Checkpoints
from training.configuration import ConfigurationError
from training.data.batches import Joined
from training.data.loaders import training_batches, validation_batches
from training.data.shards import EncodedBatches
from training.data.splits import Split
from training.data.store import PreparedDataset
from training.external_processes import ExternalProcesses
from training.interrupts import Interrupts
from training.module import Classification
from training.precision import choose_bf16, choose_device, use_all_cores
from training.saving import save
from training.temperature import LEAST_IMAGES
from training.transfer import weight_average
from training.transfer.head import Head, balanced_weights

# Lightning warns of these, which are intended.
NOISE = (
    r".*have no `val_dataloader`",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"GPU available but not used",
    r"It is recommended to use `self.log\(.*sync_dist=True\)`",  # torchmetrics has joined the values of all processes
    r"Checkpoint directory .* exists and is not empty",
)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of a run: `module` holds the best weights, on the CPU; `seconds` is training time of all starts."""

    module: Classification
    checkpoints: Checkpoints
    device: torch.device
    bf16: bool
    seconds: float
    weight_average: dict[str, Any] | None = None  # fields of `WeightAverage`, where fine-tuned weights were averaged


def fit(
    config: Mapping[str, Any],
    data: PreparedDataset,
    split: Split,
    preprocess: PreprocessSpec,
    run: Path,
    say: Callable[[str], None],
    head: Head | None = None,
    after_epoch: Callable[[Mapping[str, float]], None] | None = None,
) -> Outcome:
    """Train `config`, writing into `run`, and return the network of the best checkpoint.

    Of several processes, the first one returns that network.

    With a fitted `head` training starts from it; the network as it is then is a candidate for the best checkpoint, and
    the only one without epochs. `after_epoch` is as in `training.train.train`.

    Raises:
        ConfigurationError: a setting is impossible.
        TrainingError: the loss is not finite.
    """
    trainer_node = config["trainer"]
    device = choose_device(trainer_node["device"])
    bf16 = choose_bf16(trainer_node["precision"], device)
    use_all_cores()
    torch.manual_seed(config["seed"])
    module = Classification(config, data.classes, preprocess, _class_weights(config, data, split))
    if head is not None:
        module.start_from(head)
    train, validation = batches(config, data, split, module, device)
    part = trainer_node.get("epoch_part", 1.0)
    images = len(split.train) + len(split.transformed)
    checkpoints = Checkpoints(run, round(part * images), trainer_node["max_minutes"], say, after_epoch)
    interrupts = Interrupts()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    parameters = sum(weight.numel() for weight in module.network.parameters())
    network = config["network"].get("model", config["network"]["kind"])
    say(
        f"{network}: {parameters:,} parameters, {images:,} training, {len(split.validation):,} validation "
        f"and {len(split.test):,} test images, on {device.type} in {'bf16' if bf16 else 'float32'}"
    )
    with warnings.catch_warnings():
        for message in NOISE:
            warnings.filterwarnings("ignore", message=message)
        trainer = L.Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            benchmark=device.type == "cuda",  # cuDNN tries its algorithms for a size of images, and takes the fastest
            **_processes(module),
            precision="bf16-mixed" if bf16 else "32-true",
            max_epochs=trainer_node["epochs"],
            limit_train_batches=max(part, 1.0 / len(train)),
            gradient_clip_val=trainer_node["gradient_clip"],
            logger=_logger(config, run),
            callbacks=[checkpoints, interrupts],
            default_root_dir=run,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            inference_mode=False,  # metrics that `validate` resets could not be updated by `fit`
            log_every_n_steps=min(50, len(train)),
        )
        last, judges = RunFolder(run).last_checkpoint, validation if len(split.validation) else None
        with interrupts.heeded():
            if head is not None and not last.is_file():
                measured = [{}] if judges is None else trainer.validate(module, judges, verbose=False)
                checkpoints.start_from(module, measured[0], writes=trainer.is_global_zero)
            if trainer_node["epochs"]:
                trainer.fit(module, train, judges, ckpt_path=str(last) if last.is_file() else None)
    if config["tracking"]["kind"] == "wandb":
        import wandb

        wandb.finish()  # else the next run of this process, another fold, would write into this one
    start = time.perf_counter()
    average = None
    if module.ranks.is_first:  # the others may not see the file yet
        average = _average(module, checkpoints, data, split, config["trainer"]["batch_size"], device, bf16, say)
        best = torch.load(RunFolder(run).best_checkpoint, map_location="cpu", weights_only=True)
        module.load_state_dict(best["state_dict"])
    seconds = sum(checkpoints.seconds) + time.perf_counter() - start
    return Outcome(module.cpu().eval(), checkpoints, device, bf16, seconds, average)


def _processes(module: Classification) -> dict[str, Any]:
    """Return the settings of Lightning for one process, or for several."""
    ranks = module.ranks
    if ranks.count == 1:
        return {"devices": 1}
    # Layers that learn later have no gradients at first.
    later = module.config["network"].get("freeze", "none") != "none"
    strategy = DDPStrategy(cluster_environment=ExternalProcesses(ranks), find_unused_parameters=later)
    return {"devices": ranks.beside, "strategy": strategy, "use_distributed_sampler": False}


def _average(
    module: Classification,
    checkpoints: Checkpoints,
    data: PreparedDataset,
    split: Split,
    batch_size: int,
    device: torch.device,
    bf16: bool,
    say: Callable[[str], None],
) -> dict[str, Any] | None:
    """Average the weights before and after fine-tuning, and keep the result as the best checkpoint.

    A run without a fitted head, or with too few validation images, keeps the checkpoint of its best epoch.
    """
    files = checkpoints.files
    count, epochs = len(split.validation), len(checkpoints.rows)
    if not epochs or checkpoints.best is None or count < LEAST_IMAGES or not files.first_checkpoint.is_file():
        return None
    best = torch.load(files.best_checkpoint, map_location="cpu", weights_only=True)
    if best.get("averaged_after") == epochs:  # the process ended after that, and before the run was finished
        return dict(best["weight_average"])
    tuned = {"last": files.last_checkpoint}
    if checkpoints.best["epoch"] not in (0, checkpoints.rows[-1]["epoch"]):
        tuned["best"] = files.best_checkpoint
    states = {}
    for name, path in (("first", files.first_checkpoint), *tuned.items()):
        module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["state_dict"])
        states[name] = {key: value.clone() for key, value in module.best_network.state_dict().items()}
    rows = split.validation[np.linspace(0, count - 1, min(count, weight_average.JUDGED)).astype(np.int64)]
    say(f"averaging the weights before and after fine-tuning, judged by {len(rows):,} validation images")
    judged = list(validation_batches(data, dataclasses.replace(split, validation=rows), batch_size))
    module.to(device).eval()

    def answers() -> torch.Tensor:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            return torch.cat([module.logits(pixels.to(device)).cpu() for pixels, _ in judged])

    labels = torch.cat([labels for _, labels in judged])
    average = weight_average.choose(module.best_network, states.pop("first"), states, answers, labels)
    say(average.says)
    record = dataclasses.asdict(average)
    document = {"state_dict": module.cpu().state_dict(), "weight_average": record, "averaged_after": epochs}
    save(document, files.best_checkpoint)
    return record


def _class_weights(config: Mapping[str, Any], data: PreparedDataset, split: Split) -> torch.Tensor | None:
    """Return the weight of each class in the loss, if `trainer.class_weights` is balanced."""
    setting = config["trainer"].get("class_weights", "none")
    if setting not in ("none", "balanced"):
        raise ConfigurationError(f"trainer.class_weights is {setting!r}: write none or balanced")
    return balanced_weights(data.labels[split.train], len(data.classes)) if setting == "balanced" else None


def batches(
    config: Mapping[str, Any], data: PreparedDataset, split: Split, module: Classification, device: torch.device
) -> tuple[Any, Any]:
    """Return the loaders of training and validation."""
    trainer, pin, ranks = config["trainer"], device.type == "cuda", module.ranks
    size, images = trainer["batch_size"], len(split.train) + len(split.transformed)
    if ranks.count > 1 and not ranks.count <= size <= images:
        raise ConfigurationError(
            f"trainer.batch_size is {size}: {ranks.count} processes that train {images} images together need one of "
            f"{ranks.count} to {images}"
        )
    judged = split
    if len(split.validation) >= ranks.count:  # else all processes judge by all of them
        judged = dataclasses.replace(split, validation=ranks.share(split.validation))
    validation = validation_batches(data, judged, size, pin=pin)
    if data.encoded:
        encoded = EncodedBatches(
            data,
            ranks.share_of_all(split.train, size),
            ranks.share_size(size),
            seed=config["seed"],
            epoch=lambda: module.current_epoch,
            pin=pin,
            limit=max(1, len(split.train) // size),
        )
        return encoded, validation
    joined = Joined(
        (
            (data.images, data.labels, split.train),
            (data.transformed_images, data.transformed_labels, split.transformed),
        )
    )
    train = training_batches(
        joined, trainer, device, seed=config["seed"], epoch=lambda: module.current_epoch, share=ranks.share
    )
    return train, validation


def _logger(config: Mapping[str, Any], run: Path) -> Logger | bool:
    """Return the logger of metrics beside the CSV file, if any.

    Raises:
        ConfigurationError: an unknown kind of tracking.
    """
    tracking = config["tracking"]
    if tracking["kind"] == "csv":
        return False
    if tracking["kind"] == "tensorboard":
        from lightning.pytorch.loggers import TensorBoardLogger

        return TensorBoardLogger(save_dir=run, name="tensorboard", version="", default_hp_metric=False)
    if tracking["kind"] != "wandb":
        raise ConfigurationError(f"tracking.kind is {tracking['kind']!r}: write csv, tensorboard or wandb")
    from lightning.pytorch.loggers import WandbLogger

    return WandbLogger(
        name=str(config["name"]),
        project=tracking["project"],
        entity=tracking["entity"],
        save_dir=run,
        config=dict(config),
    )
