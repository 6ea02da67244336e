"""What happens to a batch: augment, normalize, network, loss; the same step on a CPU and on a GPU."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning as L
import torch
import torchmetrics
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.profiler import record_function

from handlers.preprocessing import Preprocess
from handlers.spec import PreprocessSpec
from training.augmentation import Augmentation, Mix
from training.configuration import ConfigurationError, TrainingError
from training.networks import DroppedNorm, build
from training.optimizers import layers, make_optimizer, make_schedule
from training.ranks import Ranks
from training.transfer.depthwise import Float32Depthwise
from training.transfer.distillation import Teacher
from training.transfer.head import Head

Batch = tuple[torch.Tensor, torch.Tensor]
Part = Callable[[str], AbstractContextManager[Any]]


class Classification(L.LightningModule):
    """Trains one network on uint8 batches (B, C, S, S) with int64 labels (B,).

    `config` has the nodes `network`, `trainer`, `augmentation` and `seed`, as plain dictionaries, and `distillation` if
    it names a teacher. `best_network` is validated and exported: the averaged weights if `trainer.ema` is set.
    `class_weights` (K,) are those of the loss.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        classes: Sequence[str],
        preprocess: PreprocessSpec,
        class_weights: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.classes = classes
        self.settings: Mapping[str, Any] = config["trainer"]
        self.seed = int(config["seed"])
        self.ranks = Ranks.of_environment()
        self.image_size = preprocess.image_size
        self.channels = preprocess.channels
        self.preprocess = Preprocess(preprocess)
        self.network = build(config["network"], len(classes), preprocess.channels, preprocess.image_size)
        self.part: Part = record_function  # of a step, in torch's own profile; training.profiling measures them
        self.memory_format = torch.channels_last
        self.network.to(memory_format=self.memory_format)
        for weights in list(layers(self.network).values())[: _frozen_layers(config["network"])]:
            for weight in weights:
                weight.requires_grad_(False)
        self.average = _average(self.network, self.settings["ema"])
        sizes = sorted({self._train_size(epoch) for epoch in self._epochs})
        self.augmentations = nn.ModuleDict({str(size): self._augmentation(size) for size in sizes})
        self.mix = Mix(**self.settings["mix"], classes=len(classes))
        self.teacher = Teacher.of(config, classes)
        self.loss = nn.CrossEntropyLoss(class_weights, label_smoothing=self.settings["label_smoothing"])
        self.train_loss, self.train_accuracy, self.validation_loss, self.validation_accuracy = (
            # NaN checks synchronise with the GPU, twice a step; `_check` does it now and then.
            torchmetrics.MeanMetric(nan_strategy="disable")
            for _ in range(4)
        )

    @property
    def best_network(self) -> nn.Module:
        """Return the network that is validated and exported."""
        return self.network if self.average is None else self.average.module

    def start_from(self, head: Head) -> None:
        """Begin with a fitted head."""
        fitted = {"head.weight": head.weight, "head.bias": head.bias}
        for network in (self.network, self.best_network):
            network.load_state_dict({**network.state_dict(), **fitted})

    @property
    def _epochs(self) -> range:
        return range(int(self.settings["epochs"]))

    def _augmentation(self, size: int) -> Augmentation:
        return Augmentation(self.config["augmentation"], self.classes, self.channels, size)

    def _train_size(self, epoch: int) -> int:
        """Return the side of training images in pixels: it grows linearly, in steps of 16 pixels, over the epochs."""
        sizes = self.settings["train_size"]
        if sizes is None:
            return self.image_size
        if not self.network.any_size:
            raise ConfigurationError("trainer.train_size needs a network for any size; this one needs null")
        start, end = sizes
        if not 8 <= start <= end <= self.image_size:
            raise ConfigurationError(
                f"trainer.train_size is [{start}, {end}]: give 8 <= start <= end <= {self.image_size}"
            )
        progress = epoch / max(1, len(self._epochs) - 1)
        return int(end) if progress >= 1 else int(min(end, start + (end - start) * progress // 16 * 16))

    def augment(self, images: torch.Tensor, labels: torch.Tensor, dtype: torch.dtype = torch.float32) -> Batch:
        """Return images in [0, 1] of this epoch's size and of `dtype`, changed at random, and their labels."""
        size = self._train_size(min(self.current_epoch, len(self._epochs) - 1))
        augmentation: Augmentation = self.augmentations[str(size)]  # type: ignore[assignment]
        floats = images.float().div_(255.0)
        # A random crop takes its part of the stored image, shrunk only so far that the crop skips no pixels: it has no
        # its own antialiasing.
        before = min(images.shape[-1], size * 3 // 2) if augmentation.crops else size
        if before != images.shape[-1]:
            floats = nn.functional.interpolate(floats, size=(before, before), mode="bilinear", antialias=True)
        changed: Batch = augmentation(floats.to(dtype), labels)
        return changed

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        # What bounds augmentation on a GPU is its memory, of which bf16 images take half; a CPU is slower with them.
        lower = self.device.type == "cuda" and torch.is_autocast_enabled("cuda")
        with self.part("augmentation"), torch.autocast(self.device.type, enabled=False):
            images, labels = self.augment(*batch, torch.bfloat16 if lower else torch.float32)
            mixed, targets = self.mix(images, labels)
            inputs = self.preprocess.normalize(mixed).contiguous(memory_format=self.memory_format)
        with self.part("forward"):
            with Float32Depthwise() if self.device.type == "cpu" else nullcontext():
                logits = self.network(inputs).float()
            loss: torch.Tensor = self.loss(logits, targets)
            if self.teacher is not None:
                loss = self.teacher.loss(loss, logits, mixed)
        self._check(loss, index)
        self.train_loss.update(loss.detach().expand(len(labels)))  # with nan_strategy="disable" weights are ignored
        hard = targets if targets.ndim == 1 else targets.argmax(dim=1)
        self.train_accuracy.update((logits.detach().argmax(dim=1) == hard).float())
        # The gradient is the mean of those of the processes, whose parts of a batch may differ by an image.
        return loss if self.ranks.count == 1 else loss * (len(labels) * self.ranks.count / self.settings["batch_size"])

    def _check(self, loss: torch.Tensor, index: int) -> None:
        # To look at a number on a GPU is to wait for it.
        if (self.device.type == "cpu" or index % 50 == 0) and not bool(torch.isfinite(loss)):
            raise TrainingError(
                f"the loss is {float(loss.detach())} in epoch {self.current_epoch + 1}, batch {index + 1}: "
                f"lower trainer.lr (now {self.settings['lr']}) or set trainer.gradient_clip=1"
            )

    def on_train_batch_end(self, *_: Any) -> None:
        if self.average is not None:
            self.average.update_parameters(self.network)

    def on_train_epoch_start(self) -> None:
        # Seeded by epoch, so that a resumed run gives the same result as one that was never interrupted.
        torch.manual_seed(self.seed * 100_003 + self.current_epoch + self.ranks.rank * 1_000_000_007)
        self._freeze()
        if self.settings.get("freeze_norms"):
            for module in self.network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, DroppedNorm):
                    module.eval()

    def _freeze(self) -> None:
        """Let only the head learn until `network.unfreeze_epoch`, where `network.freeze` is features."""
        node = self.config["network"]
        if node.get("freeze", "none") == "none":
            return
        until = node.get("unfreeze_epoch")
        frozen = until is None or self.current_epoch < int(until)
        self.network.body.requires_grad_(not frozen)
        self.network.body.train(not frozen)  # the statistics of batch norms are features too

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Return float32 (B, K) of the network that is exported, for uint8 images (B, C, S, S)."""
        inputs = self.preprocess.normalize(images).contiguous(memory_format=torch.channels_last)
        answers: torch.Tensor = self.best_network(inputs).float()
        return answers

    def validation_step(self, batch: Batch, index: int) -> None:
        images, labels = batch
        logits = self.logits(images)
        # The very loss that training lowers: without label smoothing, a network that trains on would seem to worsen.
        self.validation_loss.update(self.loss(logits, labels).expand(len(labels)))
        self.validation_accuracy.update((logits.argmax(dim=1) == labels).float())

    def on_validation_epoch_end(self) -> None:
        self.log("validation_loss", self.validation_loss.compute())
        self.log("validation_accuracy", self.validation_accuracy.compute())
        self.validation_loss.reset()
        self.validation_accuracy.reset()

    def on_train_epoch_end(self) -> None:
        loss = self.train_loss.compute()
        self._check(loss, 0)
        self.log("train_loss", loss)
        self.log("train_accuracy", self.train_accuracy.compute())
        self.train_loss.reset()
        self.train_accuracy.reset()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = make_optimizer(self.network, self.settings)
        schedule = make_schedule(optimizer, self.settings, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _frozen_layers(network: Mapping[str, Any]) -> int:
    """Return the number of layers next to the input that do not learn: none of a network that starts from nothing."""
    return int(network.get("frozen_layers") or 0) if network.get("pretrained") else 0


class Average(AveragedModel):
    """Keeps the number of its steps on the CPU: asking a GPU for it at each step waits for all that it has to do."""

    def _apply(self, *arguments: Any, **options: Any) -> "Average":
        steps = self.n_averaged
        super()._apply(*arguments, **options)  # type: ignore[no-untyped-call]
        self.n_averaged = steps
        return self


def _average(network: nn.Module, decay: float) -> Average | None:
    """Return a copy of the network whose weights follow with `decay`, 0.999 for a mean over about 1000 steps.

    The decay starts low, (1 + n) / (10 + n) after n steps, so that the random first weights are soon forgotten.
    """
    if not decay:
        return None
    if not 0 < decay < 1:
        raise ConfigurationError(f"trainer.ema is {decay}: write 0 for off, or a decay below 1 such as 0.999")

    def follow(averaged: Any, current: Any, steps: Any) -> None:
        n = int(steps)
        weight = 1 - min(decay, (1 + n) / (10 + n))
        for mean, value in zip(averaged, current, strict=True):
            if mean.is_floating_point():
                mean.lerp_(value.to(mean.dtype), weight)
            else:
                mean.copy_(value)

    average = Average(network, multi_avg_fn=follow, use_buffers=True)
    return average.requires_grad_(False)
