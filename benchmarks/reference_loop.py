"""How fast does ResNet-18 train at 224 x 224, beside the loop that training scripts of the field have in common?

    python -m benchmarks.reference_loop [--rounds 9] [--steps 5] [--images 1600]

Three kinds train on the same drawn JPEG files of 256 x 256, at random crops and mirrored, and take turns:

- `sightline`: the step of `make train` in the precision that it chooses here, on the prepared data set;
- `reference`: the loop of pytorch/examples and of torchvision's references: `ImageFolder`, Pillow, torchvision's
  transforms, a `DataLoader` with as many processes as cores, SGD; float32, contiguous memory, as they are by default;
- `reference, best`: the same with channels-last memory and autocast to bfloat16.

The data set is prepared once, before any epoch; the seconds are in the result, and in no rate.

Writes benchmarks/results/reference_loop.json; the last line is the same JSON document. Exits with 1 where `sightline`
is less than twice as fast as `reference`, or slower than `reference, best`.
"""

import contextlib
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from torchvision import datasets, models, transforms

from benchmarks.harness import console
from benchmarks.result import TRAINING, Origin
from benchmarks.training import endless, prepared
from handlers.machine import cores
from synthetic import moths
from training.configuration import compose, plain, store_folder
from training.data import prepare
from training.data.loaders import training_batches
from training.pace import Stepper
from training.precision import use_all_cores

RESULT = Path("benchmarks/results/reference_loop.json")
RAW = Path("data/raw/moths")
SIDE, FILE_SIDE, CLASSES, BATCH = 224, 256, 20, 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PREFETCHED = 2  # batches of each process of a DataLoader, its default
SETTINGS = (
    "dataset=moths",
    "network=resnet18",
    f"dataset.image_size={SIDE}",
    f"trainer.batch_size={BATCH}",
    "trainer.train_size=null",
    "trainer.ema=0",
    "trainer.device=cpu",  # as the reference loop
    "trainer.mix.p=0",
    "augmentation=[{op: RandomResizedCrop, scale: [0.08, 1.0], cropping_mode: resample}, {op: RandomHorizontalFlip}]",
)
GOALS = {"reference": 2.0, "reference, best": 1.0}


class Loop:
    """A training loop: its steps, one batch each, and the number of batches that wait in its loader."""

    def __init__(self, steps: Iterator[None], waiting: int) -> None:
        self.steps, self.waiting = steps, waiting

    def seconds(self, steps: int) -> float:
        """Return the seconds of `steps` steps, after those on batches that were loaded during the other loops' turns.

        Those are not timed, and the loader has refilled its queue in them.
        """
        for _ in itertools.islice(self.steps, self.waiting):
            pass
        start = time.perf_counter()
        for _ in itertools.islice(self.steps, steps):
            pass
        return time.perf_counter() - start


def sightline() -> tuple[Loop, dict[str, Any]]:
    """Prepare the data set; return the loop of `make train`, and what it needed and chose."""
    start = time.perf_counter()
    prepare.run([*SETTINGS, f"raw={RAW}"], console.progress())
    facts = {"prepare_seconds": round(time.perf_counter() - start, 2)}
    config = compose(SETTINGS)
    settings = plain(config)
    data, classes, spec = prepared(settings, store_folder(config))
    stepper = Stepper(settings, classes, spec)
    batches = training_batches(data, settings["trainer"], stepper.device, seed=0, epoch=lambda: 0)
    source = endless(batches)

    def steps() -> Iterator[None]:
        for batch in source:
            stepper.step(stepper.on_device(batch))
            yield

    loop = Loop(steps(), batches.prefetch + 1)
    return loop, {**facts, "precision": "bf16" if stepper.bf16 else "fp32"}


def reference(folder: Path, *, best: bool) -> Loop:
    """Return the reference loop over class folders; `best`: channels-last memory and bfloat16."""
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIDE),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    images = datasets.ImageFolder(str(folder), transform)
    workers = cores()
    loader = DataLoader(images, BATCH, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=True)
    network = models.resnet18(num_classes=len(images.classes)).train()
    if best:
        network = network.to(memory_format=torch.channels_last)
    criterion = torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    source = itertools.chain.from_iterable(itertools.repeat(loader))

    def steps() -> Iterator[None]:
        for pixels, labels in source:
            if best:
                pixels = pixels.to(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=best):
                loss = criterion(network(pixels), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield

    return Loop(steps(), workers * PREFETCHED)


def measure(rounds: int, steps: int) -> dict[str, Any]:
    """Return images/s of each loop, and the ratios of the rounds; a first round warms up."""
    own, facts = sightline()
    train = RAW / "train"
    loops = {"sightline": own, "reference": reference(train, best=False)}
    loops["reference, best"] = reference(train, best=True)
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for number, (name, loop) in itertools.product(range(rounds + 1), loops.items()):
        duration = loop.seconds(steps)
        if number:
            seconds[name].append(duration)
    ratios = {name: [b / a for a, b in zip(seconds["sightline"], seconds[name], strict=True)] for name in GOALS}
    return {
        **facts,
        "images_per_second": {
            name: round(steps * BATCH / statistics.median(times), 2) for name, times in seconds.items()
        },
        "ratios": {
            name: {
                "median": round(statistics.median(values), 3),
                "range": [round(min(values), 3), round(max(values), 3)],
            }
            for name, values in ratios.items()
        },
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = console.parser("reference_loop", __doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--images", type=int, default=1600, help=f"number of drawn images, at least {BATCH}")
    options = parser.parse_args(arguments)
    if options.images < BATCH:
        parser.error(f"--images is {options.images}: a batch has {BATCH}")
    origin = Origin("reference_loop", sys.argv[1:] if arguments is None else arguments, code=TRAINING)
    use_all_cores()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        moths.generate(RAW, classes=CLASSES, images_per_class=options.images // CLASSES, size=FILE_SIDE)
        figures = measure(options.rounds, options.steps)
    about = {"batch_size": BATCH, "image_size": SIDE, "rounds": options.rounds, "steps": options.steps}
    failed = any(figures["ratios"][name]["median"] < goal for name, goal in GOALS.items())
    return origin.publish({**about, **figures, "goals": GOALS}, RESULT, failed=failed)


if __name__ == "__main__":
    sys.exit(main())
