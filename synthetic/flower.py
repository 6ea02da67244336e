"""One flower before leaves, drawn in polar coordinates: its class fixes some parameters, the others are random."""

import dataclasses
import functools
import math

import numpy as np

from synthetic.canvas import DESIGN, Plane, blend, clouds, colour, flat, grid, ramp, stream

PETALS = (5, 3, 13, 6, 21, 4, 8, 34, 10)
HUES = (0.0, 0.06, 0.13, 0.16, 0.62, 0.75, 0.83, 0.93)


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """Parameters that all flowers of one class share. Lengths are shares of the flower's radius."""

    petals: int
    pointed: float  # exponent of the outline: below 1 round, above 1 pointed
    waist: float  # how near the centre the gaps between petals reach, 0 to 1
    notch: float  # depth of the cut in a petal's tip
    layers: int
    twist: float  # turns of a petal's axis from root to tip
    veins: int  # stripes along a petal
    rings: float  # bands across it
    spots: float  # density of freckles
    throat: float  # radius of the differently coloured inside
    disc: float  # radius of the centre
    seeds: bool  # the centre is a field of dots, not a smooth bowl
    stamens: int
    hues: tuple[float, ...]


@functools.cache
def kind(label: int) -> Kind:
    """Return how the flowers of class `label` look: the same on every machine, whatever the seed of the images."""
    rng = stream(DESIGN, 3, label)
    petals = PETALS[label % len(PETALS)]
    many = petals > 8
    marking = (label // 3) % 4
    return Kind(
        petals=petals,
        pointed=float(rng.choice([0.35, 0.6, 1.0, 1.8])),
        waist=float(rng.uniform(0.1, 0.35) if not many else rng.uniform(0.3, 0.6)),
        notch=float(rng.choice([0.0, 0.0, 0.15, 0.25])) * (not many),
        layers=int(rng.integers(1, 4)) if petals >= 5 else 1,
        twist=float(rng.choice([0.0, 0.0, 0.05, -0.05])),
        veins=int(rng.integers(3, 7)) if marking == 1 else 0,
        rings=float(rng.uniform(2, 4)) if marking == 2 else 0.0,
        spots=float(rng.uniform(0.8, 1.3)) if marking == 3 else 0.0,
        throat=float(rng.choice([0.0, 0.4, 0.6])),
        disc=float(rng.uniform(0.08, 0.16) if petals < 8 else rng.uniform(0.2, 0.45)),
        seeds=bool(petals >= 8),
        stamens=int(rng.choice([0, 5, 9])) if petals < 8 else 0,
        hues=tuple(float(hue) for hue in rng.choice(HUES, 4, replace=False)),
    )


def draw(kind: Kind, size: int, rng: np.random.Generator, ground: float | None = None) -> Plane:
    """Return an RGB picture (3, size, size), 0 to 1, of one flower, and often a second one behind it.

    It is drawn on leaves; for `ground`, on a plain grey of that brightness in even light.
    """
    picture = leaves(size, rng)
    if ground is not None:
        picture[:] = ground
    hue = float(rng.choice(kind.hues)) + rng.normal(0, 0.015)
    paint = Paint(hue, rng.uniform(0.25, 0.95), rng.uniform(0.75, 1.0), rng.uniform(0.08, 0.16))
    if rng.random() < 0.35:
        side = float(rng.choice([-1.0, 1.0]))
        _flower(
            picture, kind, paint, (side * rng.uniform(0.5, 0.8), rng.uniform(-0.7, 0.6)), rng.uniform(0.3, 0.5), rng
        )
    place = (rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2))
    _flower(picture, kind, paint, place, rng.uniform(0.5, 0.9), rng)
    x, y = grid(size)
    slope = rng.uniform(-0.15, 0.15, 2)
    light = np.float32(rng.uniform(0.8, 1.05)) + np.float32(slope[0]) * x + np.float32(slope[1]) * y
    return picture * light if ground is None else picture


@dataclasses.dataclass(frozen=True, slots=True)
class Paint:
    """The colours of one flower: hue, saturation and value of its petals, and the hue of its centre."""

    hue: float
    saturation: float
    value: float
    centre: float


def leaves(size: int, rng: np.random.Generator) -> Plane:
    """Return a blurred background of leaves, earth or shade."""
    hue = float(rng.choice([0.25, 0.3, 0.36, 0.1]))
    picture = flat(size, colour(hue, rng.uniform(0.3, 0.7), rng.uniform(0.2, 0.5)))
    other = colour(hue + rng.uniform(-0.08, 0.08), rng.uniform(0.3, 0.8), rng.uniform(0.1, 0.65))
    blend(picture, other, ramp(clouds(rng, size, size, size / 3, 4), -0.6, 0.8))
    x, y = grid(size)
    for _ in range(rng.integers(2, 6)):  # blades of grass and leaves, out of focus
        turn, offset, width = rng.uniform(0, math.pi), rng.uniform(-1, 1), rng.uniform(0.03, 0.15)
        cos, sin, bow = np.float32(math.cos(turn)), np.float32(math.sin(turn)), np.float32(width)
        across = cos * x + sin * y - np.float32(offset)
        along = cos * y - sin * x - np.float32(rng.uniform(-0.5, 0.5))
        mask = ramp(np.abs(across) + bow * along * along, width, width * 0.4)
        blend(picture, colour(hue, rng.uniform(0.4, 0.8), rng.uniform(0.25, 0.7)), 0.7 * mask)
    return picture


def _flower(
    picture: Plane, kind: Kind, paint: Paint, place: tuple[float, float], radius: float, rng: np.random.Generator
) -> None:
    size = picture.shape[-1]
    # A flower lies within a square around it: do not touch the pixels outside.
    rows, columns = (
        slice(max(0, int((middle - 1.15 * radius + 1) * size / 2)), int((middle + 1.15 * radius + 1) * size / 2) + 1)
        for middle in (place[1], place[0])
    )
    x, y = grid(size)
    x, y, picture = x[:, columns], y[rows], picture[:, rows, columns]
    # Seen from aside a flower is an ellipse: squeeze along a random axis.
    axis, squeeze = rng.uniform(0, math.pi), rng.uniform(0.7, 1.0)
    cos, sin = np.float32(math.cos(axis)), np.float32(math.sin(axis))
    x, y = x - np.float32(place[0]), y - np.float32(place[1])
    across = (x * cos + y * sin) * np.float32(1 / radius)
    along = (y * cos - x * sin) * np.float32(1 / (radius * squeeze))
    distance: Plane = np.hypot(across, along)
    turns: Plane = np.arctan2(along, across) * np.float32(0.5 / math.pi)
    pixel = 2.0 / (size * radius)
    start = rng.uniform(0, 1)
    grain = clouds(rng, distance.shape[0], distance.shape[1], size / 14, 3)
    for layer in range(kind.layers):
        _petals(picture, kind, paint, distance, turns, start + 0.5 * layer / kind.petals, layer, grain, pixel, rng)
    _centre(picture, kind, paint, distance, turns, pixel, rng)


def _petals(
    picture: Plane,
    kind: Kind,
    paint: Paint,
    distance: Plane,
    turns: Plane,
    start: float,
    layer: int,
    grain: Plane,
    pixel: float,
    rng: np.random.Generator,
) -> None:
    """Draw one ring of petals; later layers are smaller and lie on top."""
    reach = 0.74**layer
    far = distance / np.float32(reach)
    count = kind.petals
    position = (turns - np.float32(start) + np.float32(kind.twist) * far) * np.float32(count)
    number = np.floor(position)
    phase = position - number - np.float32(0.5)  # -0.5 to 0.5 across a petal
    lengths = rng.uniform(0.92, 1.06, count).astype(np.float32)
    shades = rng.uniform(0.86, 1.08, count).astype(np.float32)
    which = number.astype(np.int32) % count
    bow = np.cos(np.float32(math.pi) * phase)
    outline = kind.waist + (1 - kind.waist) * np.power(np.maximum(bow, 1e-4), np.float32(kind.pointed))
    if kind.notch:
        outline -= np.float32(kind.notch) * np.exp(-((phase / np.float32(0.09)) ** 2))
    outline *= lengths[which]
    mask = ramp(far - outline, pixel * 1.2, -pixel * 1.2)

    tint = np.empty_like(picture)
    tint[:] = colour(paint.hue, paint.saturation, paint.value)[:, None, None]
    inner = colour(paint.hue + 0.04, min(1.0, paint.saturation + 0.3), paint.value * 0.8)
    blend(tint, inner, 0.6 * ramp(far, 0.9, 0.1))
    dark = colour(paint.hue - 0.05, min(1.0, paint.saturation + 0.35), paint.value * 0.45)
    if kind.throat:
        pale = colour(0.14, 0.35, 0.97) if kind.veins == 0 and kind.rings == 0 else dark
        blend(tint, pale, 0.85 * ramp(far, kind.throat + 0.08, kind.throat - 0.08))
    if kind.veins:
        blend(tint, dark, 0.75 * ramp(np.cos(phase * np.float32(2 * math.pi * kind.veins)), 0.2, 0.8))
    if kind.rings:
        blend(tint, dark, 0.75 * ramp(np.sin(far * np.float32(2 * math.pi * kind.rings)), 0.1, 0.6))
    if kind.spots:
        blend(tint, dark, 0.85 * ramp(grain, 1.6 - kind.spots * 0.8, 1.9 - kind.spots * 0.8))
    # Petals arch: bright along the middle, dark at the seams and under the next layer.
    shade = (0.62 + 0.38 * bow) * shades[which] * (0.75 + 0.25 * ramp(outline - far, 0.0, 0.12))
    shade *= 1 + 0.05 * grain
    blend(picture, tint * shade, mask)
    if layer + 1 < kind.layers:
        picture *= 1 - 0.25 * ramp(distance, reach * 0.8, reach * 0.55) * mask


def _centre(
    picture: Plane, kind: Kind, paint: Paint, distance: Plane, turns: Plane, pixel: float, rng: np.random.Generator
) -> None:
    tint = np.empty_like(picture)
    tint[:] = colour(paint.centre, 0.85, 0.85 if not kind.seeds else 0.5)[:, None, None]
    if kind.seeds:
        # Seeds lie in two families of spirals, as in a sunflower.
        swirl = np.log(np.maximum(distance, 0.01)) * np.float32(3.0)
        dots = np.cos((turns * 21 + swirl) * np.float32(2 * math.pi)) * np.cos(
            (turns * 13 - swirl) * np.float32(2 * math.pi)
        )
        blend(tint, colour(paint.centre, 0.7, 0.2), ramp(dots, 0.0, 0.6))
    tint *= 0.7 + 0.3 * ramp(distance, kind.disc, 0.0)
    blend(picture, tint, ramp(distance - np.float32(kind.disc), pixel, -pixel))
    if kind.stamens:
        start = rng.uniform(0, 1)
        phase = (turns + start) * kind.stamens
        aside = (phase - np.round(phase)) * distance * np.float32(2 * math.pi / kind.stamens)
        reach = kind.disc + 0.22
        thread = ramp(np.abs(aside), 0.022, 0.008) * ramp(distance, reach, reach - 0.02)
        blend(picture, colour(0.15, 0.3, 0.95), 0.8 * thread)
        knob = ramp(np.sqrt(aside * aside + (distance - reach) ** 2), 0.055, 0.03)
        blend(picture, colour(0.1, 0.85, 0.75), knob)
