"""Moths with spread wings: the layout of the moths data set.

    train/<SPECIES>/001.jpg, valid/<SPECIES>/1.jpg, test/<SPECIES>/1.jpg     224 x 224; names contain blanks

A species has its wing shapes and markings. Colours come from a few palettes that many species share.
"""

from pathlib import Path

from synthetic import wings
from synthetic.canvas import Plane, opacity, pixels, stream
from synthetic.encoding import jpeg
from synthetic.folder import Parameters, Task, build

TAG = 4
SIDES = ("train", "valid", "test")
SPECIES = (
    "ARCIGERA FLOWER MOTH",
    "ATLAS MOTH",
    "BANDED TIGER MOTH",
    "BIRD CHERRY ERMINE MOTH",
    "BLACK RUSTIC MOTH",
    "BLAIRS MOCHA",
    "BLOTCHED EMERALD MOTH",
    "BLUE BORDERED CARPET MOTH",
    "BROWN ARGUS MOTH",
    "BURNISHED BRASS MOTH",
    "CINNABAR MOTH",
    "CLEARWING MOTH",
    "CLIFDEN NONPAREIL MOTH",
    "COMET MOTH",
    "DEATHS HEAD HAWK MOTH",
    "DINGY FOOTMAN MOTH",
    "ELEPHANT HAWK MOTH",
    "EMPEROR GUM MOTH",
    "EMPEROR MOTH",
    "EYED HAWK MOTH",
    "FIERY CLEARWING MOTH",
    "GARDEN TIGER MOTH",
    "GHOST MOTH",
    "GIANT LEOPARD MOTH",
    "GREEN SILVER LINES MOTH",
    "GREY DAGGER MOTH",
    "HERCULES MOTH",
    "HUMMING BIRD HAWK MOTH",
    "HORNET MOTH",
    "IO MOTH",
    "JERSEY TIGER MOTH",
    "LARGE EMERALD MOTH",
    "LIME HAWK MOTH",
    "LUNA MOTH",
    "MADAGASCAN SUNSET MOTH",
    "MERVEILLE DU JOUR MOTH",
    "MOTHER SHIPTON MOTH",
    "OLEANDER HAWK MOTH",
    "PEACH BLOSSOM MOTH",
    "PEPPERED MOTH",
    "POLYPHEMUS MOTH",
    "PUSS MOTH",
    "ROSY MAPLE MOTH",
    "SCARLET TIGER MOTH",
    "SIXSPOT BURNET MOTH",
    "SPECKLED YELLOW MOTH",
    "SWALLOW TAILED MOTH",
    "VAPOURER MOTH",
    "WHITE LINED SPHINX MOTH",
    "YELLOW SHELL MOTH",
)


def generate(
    raw: Path,
    *,
    seed: int = 0,
    images_per_class: int = 50,
    classes: int = 12,
    size: int = 224,
    workers: int | None = None,
) -> bool:
    """Write moths to `raw`: `images_per_class` to train, a tenth each for valid and test; False if it has them."""
    few = max(1, round(images_per_class / 10))
    tasks = [
        Task(f"{split}/{SPECIES[label]}/{index + 1:0{digits}d}.jpg", image, (seed, label, side, index, size))
        for side, (split, count, digits) in enumerate(zip(SIDES, (images_per_class, few, few), (3, 1, 1), strict=True))
        for label in (number * len(SPECIES) // classes for number in range(classes))
        for index in range(count)
    ]
    return build(raw, Parameters("moths", seed, images_per_class, classes, size), tasks, workers)


def image(seed: int, label: int, side: int, index: int, size: int) -> bytes:
    """Return one JPEG: `label` counts in `SPECIES`, `side` in `SIDES`."""
    rng = stream(seed, TAG, label, side, index)
    return jpeg(pixels(wings.draw(wings.kind(label), size, rng), rng, 0.012))


def cover(seed: int, label: int, side: int, index: int, size: int) -> Plane:
    """Return where the moth of an image is: its opacity (size, size)."""
    black, white = (
        wings.draw(wings.kind(label), size, stream(seed, TAG, label, side, index), ground) for ground in (0.0, 1.0)
    )
    return opacity(black, white)
