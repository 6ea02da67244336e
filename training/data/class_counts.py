"""Classes with few images, named before anything is trained on them. Imports nothing."""

from collections.abc import Mapping

# Below this a network hardly learns a class, and its score on a few test images says little.
FEW = 10
_SHOWN = 5


def remarks(counts: Mapping[str, int]) -> list[str]:
    """Return one line on the classes without an image to train on, and one on those with fewer than `FEW`."""
    absent = [repr(name) for name, count in counts.items() if count == 0]
    few = [f"{name!r} {count}" for name, count in counts.items() if 0 < count < FEW]
    lines = []
    if absent:
        lines.append(f"without an image to train on, yet an output of the network: {_listed(absent)}")
    if few:
        lines.append(f"fewer than {FEW} images to train on: {_listed(few)}. Add images where you can")
    return lines


def _listed(names: list[str]) -> str:
    suffix = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} class{'' if len(names) == 1 else 'es'}, {', '.join(names[:_SHOWN])}{suffix}"
