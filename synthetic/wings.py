"""One moth on bark, leaf or wall: four wings in polar coordinates around their roots, markings, body and feelers."""

import dataclasses
import functools
import math

import numpy as np

from synthetic.canvas import DESIGN, Plane, blend, clouds, colour, flat, grid, ramp, stream

# Base and marking colours, as hue, saturation, value; each palette serves many species.
PALETTES = (
    ((0.08, 0.55, 0.55), (0.07, 0.6, 0.22), (0.12, 0.3, 0.9)),
    ((0.10, 0.15, 0.80), (0.08, 0.3, 0.20), (0.06, 0.6, 0.50)),
    ((0.22, 0.45, 0.75), (0.26, 0.6, 0.25), (0.93, 0.3, 0.85)),
    ((0.00, 0.70, 0.70), (0.65, 0.3, 0.10), (0.13, 0.6, 0.95)),
    ((0.14, 0.65, 0.90), (0.95, 0.5, 0.45), (0.60, 0.2, 0.30)),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Wing:
    """One wing's outline: it spans `low` to `high` degrees from straight out (up positive) around its root."""

    low: float
    high: float
    length: float
    broad: float  # exponent of the outline: small is broad, large is narrow
    lean: float  # where its tip lies between low (0) and high (1)
    scallops: int
    tail: float


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """Parameters that all moths of one species share."""

    fore: Wing
    hind: Wing
    bands: int
    jagged: float
    eye: float  # radius of the eye-spots
    eyes_behind: bool
    spots: int  # round spots in a row
    freckles: float
    rays: int  # dark veins
    border: float
    clear: bool  # the middle of the wings is glass
    body: float
    ringed: bool
    feathered: bool
    palettes: tuple[int, int]


@functools.cache
def kind(label: int) -> Kind:
    """Return how the moths of species `label` look, whatever the seed of the images."""
    rng = stream(DESIGN, 4, label)
    marking = label % 6
    fore = Wing(
        low=float(rng.uniform(-25, -5)),
        high=float(rng.uniform(45, 75)),
        length=float(rng.uniform(0.78, 1.0)),
        broad=float(rng.choice([0.3, 0.55, 0.9])),
        lean=float(rng.uniform(0.45, 0.8)),
        scallops=int(rng.choice([0, 0, 6, 9])),
        tail=0.0,
    )
    hind = Wing(
        low=float(rng.uniform(-88, -75)),
        high=float(rng.uniform(0, 15)),
        length=float(rng.uniform(0.45, 0.75)),
        broad=float(rng.choice([0.3, 0.5, 0.7])),
        lean=float(rng.uniform(0.3, 0.6)),
        scallops=int(rng.choice([0, 5, 8])),
        tail=float(rng.choice([0.0, 0.0, 0.0, 0.55])),
    )
    return Kind(
        fore=fore,
        hind=hind,
        bands=int(rng.integers(2, 5)) if marking in (0, 4) else 0,
        jagged=float(rng.choice([0.0, 0.6, 1.5])),
        eye=float(rng.uniform(0.10, 0.17)) if marking in (1, 4) else 0.0,
        eyes_behind=bool(rng.random() < 0.6),
        spots=int(rng.integers(3, 6)) if marking == 2 else 0,
        freckles=float(rng.uniform(0.5, 0.9)) if marking == 3 else 0.0,
        rays=int(rng.integers(5, 9)) if marking == 5 else 0,
        border=float(rng.choice([0.0, 0.1, 0.16])),
        clear=bool(marking == 5 and rng.random() < 0.6),
        body=float(rng.uniform(0.05, 0.11)),
        ringed=bool(rng.random() < 0.5),
        feathered=bool(rng.random() < 0.5),
        palettes=(int(rng.integers(len(PALETTES))), int(rng.integers(len(PALETTES)))),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Paint:
    """The colours of one moth, RGB."""

    base: Plane
    mark: Plane
    light: Plane


def draw(kind: Kind, size: int, rng: np.random.Generator, ground: float | None = None) -> Plane:
    """Return an RGB picture (3, size, size), 0 to 1, of one moth.

    It rests on bark, a leaf or a wall; for `ground`, on a plain grey of that brightness in even light.
    """
    picture = resting_place(size, rng)
    if ground is not None:
        picture[:] = ground
    palette = PALETTES[kind.palettes[int(rng.random() < 0.4)]]
    base, mark, light = (
        colour(
            hue + rng.normal(0, 0.02),
            float(np.clip(saturation * rng.normal(1, 0.15), 0, 1)),
            min(1.0, value * rng.normal(1, 0.12)),
        )
        for hue, saturation, value in palette
    )
    scale, turn, squeeze = rng.uniform(0.7, 1.0), rng.normal(0, 0.35), rng.uniform(0.82, 1.0)
    shift_x, shift_y = rng.uniform(-0.15, 0.15, 2)
    x, y = grid(size)
    cos, sin = math.cos(turn) / scale, math.sin(turn) / scale
    across = (cos * (x - float(shift_x)) + sin * (y - float(shift_y))) / np.float32(squeeze)
    rise = sin * (x - float(shift_x)) - cos * (y - float(shift_y)) - np.float32(0.15)
    grain = clouds(rng, size, size, size / 10, 3)
    moth = Moth(picture, np.abs(across), rise, grain, 2.0 / (size * scale), Paint(base, mark, light))
    shadow = clouds(rng, size, size, size / 3, 2)
    lift = rng.uniform(-9, 9)
    moth.wing(dataclasses.replace(kind.hind, high=kind.hind.high + lift), kind, 0.12, behind=True)
    moth.wing(dataclasses.replace(kind.fore, low=kind.fore.low + lift, high=kind.fore.high + lift), kind, 0.0)
    moth.body(kind)
    light = 0.92 + 0.08 * shadow + np.float32(rng.uniform(-0.12, 0.12)) * x
    return picture * light if ground is None else picture


def resting_place(size: int, rng: np.random.Generator) -> Plane:
    """Return the background, on which the moth rests: bark, a leaf, or a plain wall."""
    hue, saturation, value = (
        (0.08, 0.35, rng.uniform(0.25, 0.6)),
        (0.28, 0.55, rng.uniform(0.3, 0.6)),
        (0.12, 0.06, rng.uniform(0.6, 0.95)),
    )[rng.integers(3)]
    picture = flat(size, colour(hue, saturation, value))
    other = colour(hue + rng.uniform(-0.04, 0.04), saturation, value * rng.uniform(0.5, 0.8))
    blend(picture, other, ramp(clouds(rng, size, size, size / rng.uniform(2, 8), 5, 0.7), -0.5, 1.5))
    return picture


class Moth:
    """A moth's own frame over the picture: x outward from the body on either side, y towards the head."""

    def __init__(self, picture: Plane, x: Plane, y: Plane, grain: Plane, pixel: float, paint: Paint) -> None:
        self.picture = picture
        self.x, self.y = x, y
        self.grain = grain
        self.pixel = pixel
        self.paint = paint

    def wing(self, wing: Wing, kind: Kind, drop: float, behind: bool = False) -> None:
        """Draw one pair of wings, whose roots lie `drop` below the frame's origin."""
        x, y = self.x - np.float32(0.02), self.y + np.float32(drop)
        distance = np.sqrt(x * x + y * y)
        share = (np.arctan2(y, x) * np.float32(180 / math.pi) - np.float32(wing.low)) / np.float32(wing.high - wing.low)
        inside = np.clip(share, 0.001, 0.999)
        # Bend the angle so that the outline is longest at the tip.
        bent = np.power(inside, np.float32(math.log(0.5) / math.log(wing.lean)))
        outline = wing.length * np.power(np.sin(np.float32(math.pi) * bent), np.float32(wing.broad))
        if wing.scallops:
            outline *= 1 - 0.06 * np.abs(np.sin(inside * np.float32(math.pi * wing.scallops)))
        if wing.tail:
            outline += np.float32(wing.tail) * np.exp(-(((inside - np.float32(0.22)) / np.float32(0.07)) ** 2))
        edge = self.pixel * 1.5
        mask = ramp(distance - outline, edge, -edge) * ramp(np.abs(share - 0.5), 0.5, 0.48)
        far = distance / np.maximum(outline, 1e-3)
        tint = self._tint(kind, wing, distance, far, inside, x, y, behind)
        tint *= (0.72 + 0.28 * np.sin(np.float32(math.pi) * inside)) * (1 + 0.05 * self.grain)
        if kind.clear:
            mask = mask * (1 - 0.75 * ramp(far, 0.88, 0.8) * ramp(distance, 0.12, 0.2))
        blend(self.picture, tint, mask)

    def _tint(
        self, kind: Kind, wing: Wing, distance: Plane, far: Plane, inside: Plane, x: Plane, y: Plane, behind: bool
    ) -> Plane:
        paint = self.paint
        tint = np.empty_like(self.picture)
        tint[:] = (paint.base if not behind else 0.6 * paint.base + 0.4 * paint.light)[:, None, None]
        blend(tint, paint.mark, 0.5 * ramp(distance, 0.3, 0.0))
        if kind.bands:
            wave = np.abs((inside * 9) % 2 - 1) * np.float32(0.35 * kind.jagged)
            phase = far * np.float32(kind.bands) + wave + 0.06 * self.grain
            blend(tint, paint.mark, 0.85 * ramp(np.sin(np.float32(2 * math.pi) * phase), 0.25, 0.55))
        if kind.freckles:
            blend(tint, paint.mark, 0.9 * ramp(self.grain, 1.3 - kind.freckles, 1.5 - kind.freckles))
        if kind.rays:
            ray = np.abs((inside * kind.rays) % 1 - 0.5)
            blend(tint, paint.mark, 0.9 * ramp(ray * far, 0.09, 0.05))
        if kind.spots:
            step = (far * 2.2) % 1 - 0.5
            row = (inside * kind.spots) % 1 - 0.5
            blend(tint, paint.light if not behind else paint.mark, ramp(step * step + row * row, 0.12, 0.08))
        if kind.border:
            blend(tint, paint.mark, 0.9 * ramp(far, 1 - kind.border - 0.03, 1 - kind.border))
        if kind.eye and behind == kind.eyes_behind:
            middle = math.radians(wing.low + (wing.high - wing.low) * wing.lean)
            reach = 0.6 * wing.length
            ring = np.hypot(x - np.float32(reach * math.cos(middle)), y - np.float32(reach * math.sin(middle)))
            ring *= np.float32(1 / kind.eye)
            for radius, fill in ((1.0, paint.mark), (0.8, paint.light), (0.5, 0.3 * paint.mark), (0.2, paint.light)):
                blend(tint, fill, ramp(ring, radius + 0.06, radius - 0.06))
        return tint

    def body(self, kind: Kind) -> None:
        """Draw thorax, abdomen, head and feelers."""
        x, y, paint = self.x, self.y, self.paint
        edge = self.pixel * 1.5
        length = np.clip((0.12 - y) / np.float32(0.62), 0.0, 1.0)
        width = kind.body * np.sqrt(np.maximum(1 - ((length - 0.3) / 0.72) ** 2, 0.0))
        shade = np.sqrt(np.maximum(1 - (x / np.maximum(width, 1e-3)) ** 2, 0.0)) * 0.6 + 0.4
        tint = np.empty_like(self.picture)
        tint[:] = (0.5 * paint.mark + 0.4 * paint.base)[:, None, None]
        if kind.ringed:
            rings = ramp(np.sin(length * np.float32(44)), 0.0, 0.4) * ramp(length, 0.35, 0.4)
            blend(tint, paint.light, rings)
        tint *= shade
        blend(self.picture, tint, ramp(x - width, edge, -edge) * ramp(y, 0.14, 0.11) * ramp(y, -0.5, -0.47))
        # Feelers: thin bows from the head, with combs where the species has them.
        bow = np.float32(0.10) + x * np.float32(1.1) - 0.9 * x * x
        aside = np.abs(y - bow)
        if kind.feathered:
            aside -= np.float32(0.035) * (1 - 2 * x) * (np.sin(x * np.float32(160)) > 0).astype(np.float32)
        thread = ramp(aside, 0.014, 0.008) * ramp(x, 0.36, 0.34)
        blend(self.picture, 0.7 * paint.mark, thread)
