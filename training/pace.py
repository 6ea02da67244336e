"""The bare training step, and how many epochs of it fit into a given time."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from handlers.atomic import write_text
from handlers.run_folder import RunFolder
from handlers.spec import PreprocessSpec
from training.data.batches import Batch
from training.data.splits import Split
from training.data.store import PreparedDataset
from training.module import Classification
from training.optimizers import make_optimizer
from training.precision import choose_bf16, choose_device, use_all_cores
from training.run import with_planned_epochs

WARM_UP, TIMED = 2, 5  # steps
# Part of the given time that training plans with: the rest is for validation and checkpoints. On a machine that slows
# down, `Checkpoints` ends training in time.
PLANNED = 0.93


class Stepper:
    """The training step of one module, with its optimizer: augment, normalize, network, loss, backward, step."""

    def __init__(self, settings: Mapping[str, Any], classes: Sequence[str], spec: PreprocessSpec) -> None:
        self.device = choose_device(settings["trainer"]["device"])
        self.bf16 = choose_bf16(settings["trainer"]["precision"], self.device)
        self.module = Classification(settings, classes, spec).to(self.device).train()
        self.optimizer = make_optimizer(self.module.network, settings["trainer"])

    def on_device(self, batch: Batch) -> Batch:
        images, labels = batch
        return images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)

    def step(self, batch: Batch) -> None:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            loss = self.module.training_step(batch, 1)
        with self.module.part("backward"):
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        with self.module.part("optimizer"):
            self.optimizer.step()
            self.module.on_train_batch_end()

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def fitting_epochs(settings: Mapping[str, Any], classes: Sequence[str], spec: PreprocessSpec, images: float) -> float:
    """Return how many epochs to plan, so that the learning rate has fallen when `trainer.max_minutes` are over.

    Times a few steps on random images at their full size, with a network that is thrown away; images that grow while
    training, and shards that are decoded on the way, take another time. `images` is what an epoch sees, its validation
    counted in. At most `trainer.epochs`; not a whole number, so that large sets, with few epochs, use all of the time.
    """
    trainer: Mapping[str, Any] = settings["trainer"]
    stepper = Stepper({**settings, "trainer": {**trainer, "train_size": None}}, classes, spec)
    stepper.module.on_train_epoch_start()  # frozen layers cost less
    shape = (trainer["batch_size"], spec.channels, spec.image_size, spec.image_size)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8)
    batch = stepper.on_device((pixels, torch.zeros(len(pixels), dtype=torch.int64)))
    seconds = []
    for _ in range(WARM_UP + TIMED):
        stepper.wait()
        start = time.perf_counter()
        stepper.step(batch)
        stepper.wait()
        seconds.append(time.perf_counter() - start)
    # The median: of a machine that others use too, a step may take many times as long as the next.
    epoch = images / len(pixels) * statistics.median(seconds[WARM_UP:])
    return min(float(trainer["epochs"]), float(60 * trainer["max_minutes"] * PLANNED / epoch))


def fit_epochs(
    settings: dict[str, Any],
    data: PreparedDataset,
    split: Split,
    preprocess: PreprocessSpec,
    run: Path,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Return the settings with as many epochs as fit into `trainer.max_minutes`, as found when this run began first."""
    trainer = settings["trainer"]
    if trainer["max_minutes"] is None:
        return settings
    budget = RunFolder(run).planned_epochs
    if not budget.is_file():
        say("timing the training step, for up to a minute")
        use_all_cores()
        # A validation image goes through the network forward only: a third of the work.
        images = len(split.train) + len(split.transformed) + len(split.validation) / 3
        epochs = fitting_epochs(settings, data.classes, preprocess, images)
        if epochs < trainer["epochs"]:
            minutes = trainer["max_minutes"]
            say(f"planning {round(epochs, 2):g} of {trainer['epochs']} epochs: what fits into {minutes:g} min")
        write_text(budget, str(epochs))
    return with_planned_epochs(settings, run)
