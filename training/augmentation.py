"""Random changes of whole training batches on the device, by Kornia, as a data set's recipe lists them."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import kornia.augmentation as K
import torch
from kornia.augmentation import auto
from torch import nn
from torchvision.transforms import v2

from training.configuration import ConfigurationError, near

POLICIES = ("AutoAugment", "RandAugment", "TrivialAugment")
# These change the size of images, or mix those of a batch, and draw by themselves.
OF_A_BATCH = ("RandomResizedCrop", "RandomCrop", "RandomMosaic", "RandomTransplantation")
# What changes colours in bf16 as in float32, but for half a level of 255 on average (measured on photographs). What
# moves pixels does not: a place in an image of 224 would be off by up to a pixel.
IN_BF16 = (
    *("ColorJitter", "ColorJiggle", "RandomBrightness", "RandomContrast", "RandomSaturation", "RandomHue"),
    *("RandomGamma", "RandomGrayscale", "RandomErasing", "RandomGaussianNoise", "RandomGaussianBlur"),
)


def operation_names() -> list[str]:
    """Return every operation that a recipe may name."""
    names = [name for name in dir(K) if name.startswith(("Random", "Color")) and not name.endswith(("3D", "V2"))]
    return sorted({*names, *POLICIES})


class Augmentation(nn.Module):
    """The operations of a recipe, in order.

    Images are float32 or bf16 in [0, 1], (B, C, S, S), and stay so, S being `image_size`; only a recipe that `crops`
    (`RandomResizedCrop`) also takes others and makes that size of them. Of bf16 images, operations that are not among
    `IN_BF16` work on float32 ones. Labels are int64 (B,) and change only where a
    `RandomHorizontalFlip` has a `label_map` of class names: a mirrored left hand is a right hand.

    Raises:
        ConfigurationError: an unknown operation, parameter or class, or an operation that cannot take such images.
    """

    def __init__(
        self, recipe: Sequence[Mapping[str, Any]], classes: Sequence[str], channels: int, image_size: int
    ) -> None:
        super().__init__()
        self.enabled = True  # benchmarks measure its cost
        self.operations = nn.ModuleList()
        self.crops = any(entry.get("op") == "RandomResizedCrop" for entry in recipe)
        for index, entry in enumerate(recipe):
            where = f"augmentation[{index}]"
            options = dict(entry)
            name = str(options.pop("op", ""))
            if name == "RandomHorizontalFlip":
                operation: Operation = Flip(options.pop("label_map", None), classes, where)
            else:
                operation = Operation()
            operation.change, operation.p = _make(name, options, image_size, where)
            operation.same = bool(options.get("same_on_batch"))
            operation.exact = name not in IN_BF16
            _try(operation, name, channels, image_size, where)
            self.operations.append(operation)

    def _apply(self, *arguments: Any, **options: Any) -> "Augmentation":
        """Leave the drawing of parameters on the CPU: Kornia, and what follows it there, waits for those of a GPU."""
        super()._apply(*arguments, **options)  # type: ignore[no-untyped-call]
        for module in self.modules():
            if isinstance(module, K.base._BasicAugmentationBase):
                module.set_rng_device_and_dtype(torch.device("cpu"), torch.float32)
        return self

    @torch.no_grad()
    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        for operation in self.operations if self.enabled else ():
            images, labels = operation(images, labels)
        return images.clamp(0.0, 1.0), labels


class Operation(nn.Module):
    """One Kornia operation, on each image with probability `p`.

    Kornia itself would change all images, and then take those that were drawn.
    """

    change: nn.Module
    exact: bool
    p: float
    same: bool  # all images of a batch, or none

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # Drawn on the CPU: the number of rows is known without waiting for a device.
        rows = (torch.rand(1 if self.same else len(images)) < self.p).expand(len(images)).nonzero()[:, 0]
        if len(rows) == len(images):
            return self.changed(images), self.relabelled(labels)
        if not len(rows):
            return images, labels
        rows = rows.to(images.device, non_blocking=True)
        labels = labels.index_copy(0, rows, self.relabelled(labels[rows]))
        return images.index_copy(0, rows, self.changed(images[rows])), labels

    def changed(self, images: torch.Tensor) -> torch.Tensor:
        """Return the images changed, of the same type."""
        output: torch.Tensor = self.change(images.float() if self.exact else images)
        return output.to(images.dtype)

    def relabelled(self, labels: torch.Tensor) -> torch.Tensor:
        """Return the labels of changed images."""
        return labels


class Flip(Operation):
    """A horizontal flip that also maps the labels: `mapping` from class name to class name, or None."""

    mapping: torch.Tensor

    def __init__(self, label_map: Mapping[Any, Any] | None, classes: Sequence[str], where: str) -> None:
        super().__init__()
        mapping = list(range(len(classes)))
        for source, target in (label_map or {}).items():
            for name in (source, target):
                if str(name) not in classes:
                    hint = near(str(name), list(classes))
                    raise ConfigurationError(f"{where}.label_map names {name!r}, which is not a class{hint}")
            mapping[list(classes).index(str(source))] = list(classes).index(str(target))
        self.register_buffer("mapping", torch.tensor(mapping), persistent=False)

    def relabelled(self, labels: torch.Tensor) -> torch.Tensor:
        return self.mapping[labels]


def _make(name: str, options: dict[str, Any], image_size: int, where: str) -> tuple[nn.Module, float]:
    """Return an operation for images that were drawn, and the probability of drawing one."""
    operations = operation_names()
    if name not in operations:
        raise ConfigurationError(f"{where} names {name!r}, which is not a Kornia augmentation{near(name, operations)}")
    make = getattr(auto, name) if name in POLICIES else getattr(K, name)
    parameters = [p for p in inspect.signature(make.__init__).parameters if p not in ("self", "args", "kwargs")]
    for key in options:
        if key not in parameters:
            raise ConfigurationError(f"{where}: {name} has no parameter {key!r}{near(key, parameters)}")
    if name in ("RandomResizedCrop", "RandomCrop"):
        options.setdefault("size", (image_size, image_size))
    if name == "RandomHorizontalFlip" and "p_batch" in options:
        raise ConfigurationError(
            f"{where}: {name} has no p_batch here: give p, and same_on_batch: true for whole batches"
        )
    values = {key: _tuples(value) for key, value in options.items()}
    try:
        augmentation: nn.Module = make(**values)
        if name in POLICIES + OF_A_BATCH:
            return augmentation, 1.0
        probability = float(augmentation.p)  # type: ignore[arg-type]  # its own where the recipe gives none
        return make(**{**values, "p": 1.0}), probability
    except Exception as error:  # each class checks its parameters in its own way
        raise ConfigurationError(f"{where}: {name} does not take {options}: {error}") from error


def _tuples(value: Any) -> Any:
    """Kornia wants tuples where a configuration has lists."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def _try(operation: Operation, name: str, channels: int, image_size: int, where: str) -> None:
    """Run once, so that what cannot work says so before training starts and not in its midst."""
    images = torch.rand(4, channels, image_size, image_size)
    try:
        changed = operation.changed(images)
    except Exception as error:  # as above
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigurationError(
            f"{where}: {name} cannot take images of {channels} x {image_size}²: {reason}"
        ) from error
    if changed.shape != images.shape:
        raise ConfigurationError(
            f"{where}: {name} makes {tuple(changed.shape[1:])} of {tuple(images.shape[1:])}: leave out its size"
        )


class Mix:
    """Mixup (arXiv:1710.09412) and CutMix (arXiv:1905.04899): with probability `p` a batch is mixed with itself.

    `mixup` and `cutmix` are the alphas of their Beta distributions, 0 for off; where both are on, each has half.
    Labels int64 (B,) become probabilities float (B, classes).
    """

    def __init__(self, *, mixup: float = 0.0, cutmix: float = 0.0, p: float = 0.0, classes: int) -> None:
        if min(mixup, cutmix) < 0 or not 0 <= p <= 1:
            raise ConfigurationError(
                f"trainer.mix is mixup={mixup}, cutmix={cutmix}, p={p}: alphas from 0, p in [0, 1]"
            )
        kinds: list[nn.Module] = []
        if mixup:
            kinds.append(v2.MixUp(alpha=mixup, num_classes=classes))
        if cutmix:
            kinds.append(v2.CutMix(alpha=cutmix, num_classes=classes))
        self.kinds = kinds
        self.p = p if kinds else 0.0

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.p or float(torch.rand(())) >= self.p:
            return images, labels
        mixed: tuple[torch.Tensor, torch.Tensor] = self.kinds[int(torch.randint(len(self.kinds), ()))](images, labels)
        return mixed
