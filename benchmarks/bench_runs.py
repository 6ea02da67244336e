"""The runs of the serving benchmark: trained by the commands of the project, on drawn images.

Only speed is measured, so training is short: enough for answers that differ between images. An existing run is used
again.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from handlers.run_folder import RUNS, RunFolder

CLASSES, IMAGE_SIZE = 12, 224
RAW, STORE = "data/raw/bench-scenes", "bench"
SHORT = ("trainer.epochs=1", "split.images_per_class=4")
LITE = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
# network -> overrides of its training
NETWORKS = {
    "resnet18": ("network=resnet18", "trainer.epochs=4"),
    "resnet50": ("network=resnet50", *SHORT),
    "vgg16": ("network=vgg16", *SHORT),
    "vit": ("network=vit", "network.patch_size=16", *SHORT),
    **{name: (f"network={name}", *SHORT) for name in ("resnet18d_half", "small_cnn")},
    **{name: (f"network={name}", "network.pretrained=false", *SHORT) for name in LITE},
}


class TrainingFailed(Exception):
    """A command failed; the message is the last line of its output."""


def run(
    network: str,
    root: Path,
    say: Callable[[str], None] = print,
    *,
    size: int = IMAGE_SIZE,
    timeout: float | None = None,
) -> Path:
    """Return `runs/bench-<network>` with its model.pt for images of `size` pixels; train it if it is missing.

    Raises:
        TrainingFailed: one of the project's commands failed, or took longer than `timeout` seconds.
    """
    suffix = "" if size == IMAGE_SIZE else f"-{size}"
    folder = RUNS / f"bench-{network}{suffix}"
    if RunFolder(root / folder).training.is_file():
        return folder
    say(f"training {network} on drawn images, once")
    data = ("dataset=places365", f"store={STORE}{suffix}", f"dataset.image_size={size}")
    _do(root, timeout, "synthetic", "places365", RAW, "--images-per-class", "40", "--classes", str(CLASSES))
    _do(root, timeout, "training.data.prepare", *data, f"raw={RAW}", *NETWORKS[network])  # its filter
    recipe = ("augmentation=[]", "trainer.train_size=null", "trainer.batch_size=16", "split.validation=0.1")
    _do(root, timeout, "training.train", *data, f"name={folder.name}", *NETWORKS[network], *recipe)
    return folder


def _do(root: Path, timeout: float | None, module: str, *arguments: str) -> None:
    command = [sys.executable, "-m", module, *arguments]
    try:
        process = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise TrainingFailed(f"python -m {module} took longer than {timeout:g} s") from error
    if process.returncode:
        lines = (process.stderr or process.stdout).strip().splitlines() or ["no reason given"]
        raise TrainingFailed(f"python -m {module} {' '.join(arguments)}: {lines[-1]}")
