"""A hand of rounded limbs, lit from one side: the drawing behind both fingers and signs.

The hand's own frame has a palm one unit wide around the origin, y up and the thumb on the left: the palm of a right
hand turned away, or of a left hand as the fingers data set names it.
"""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from synthetic.canvas import Plane

Point = tuple[float, float]

# thumb, index, middle, ring, little
ROOTS: tuple[Point, ...] = ((-0.34, -0.36), (-0.35, 0.24), (-0.12, 0.34), (0.12, 0.33), (0.34, 0.20))
LENGTHS = (0.78, 0.86, 0.97, 0.90, 0.70)
RADII = (0.145, 0.128, 0.133, 0.126, 0.108)
FAN = (-50.0, -11.0, -2.0, 7.0, 18.0)  # degrees from straight up, clockwise positive
FOLDED = 0.3  # a finger shorter than this share of its length lies on the palm


@dataclasses.dataclass(frozen=True, slots=True)
class Finger:
    """How one finger is held: `extent` is the share of its length, `angle` and `bend` are degrees beyond its fan."""

    extent: float
    angle: float = 0.0
    bend: float = 0.0

    @property
    def is_out(self) -> bool:
        """Return whether it is stretched out, and not folded onto the palm."""
        return self.extent >= FOLDED


@dataclasses.dataclass(frozen=True, slots=True)
class Pose:
    """Five fingers, thumb first, and the place of a folded thumb: `across` the palm or hidden `behind` it."""

    fingers: tuple[Finger, Finger, Finger, Finger, Finger]
    spread: float = 1.0
    behind: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Placing:
    """Position of the hand: centre and unit in pixels, turn in degrees clockwise, mirrored, length of the arm."""

    x: float
    y: float
    unit: float
    turn: float = 0.0
    mirrored: bool = False
    arm: float = 0.95

    def pixel(self, point: Point) -> Point:
        """Return the pixel coordinates of a point of the hand's frame."""
        x, y = (-point[0] if self.mirrored else point[0]), -point[1]
        turn = math.radians(self.turn)
        cos, sin = math.cos(turn), math.sin(turn)
        return self.x + self.unit * (cos * x - sin * y), self.y + self.unit * (sin * x + cos * y)


@dataclasses.dataclass(frozen=True, slots=True)
class Light:
    """Light from the direction (x, y, z), z towards the viewer, on top of the ambient light."""

    x: float
    y: float
    z: float
    ambient: float


class Layer:
    """The drawn hand: `shade` (H, W), brightness 0 to about 1, and `cover` (H, W), its opacity."""

    def __init__(self, height: int, width: int, light: Light) -> None:
        self.shade = np.zeros((height, width), np.float32)
        self.cover = np.zeros((height, width), np.float32)
        self._light = light

    def limb(self, points: list[Point], radii: list[float], flat: float = 0.0) -> None:
        """Draw a chain of tapered capsules (pixels) on top; `flat` 0 to 1 removes their roundness."""
        height, width = self.shade.shape
        reach = max(radii) + 1.5
        left = max(0, int(min(x for x, _ in points) - reach))
        right = min(width, int(max(x for x, _ in points) + reach) + 2)
        top = max(0, int(min(y for _, y in points) - reach))
        bottom = min(height, int(max(y for _, y in points) + reach) + 2)
        if left >= right or top >= bottom:
            return
        xs = np.arange(left, right, dtype=np.float32)[None, :] + np.float32(0.5)
        ys = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5)
        edge, normal_x, normal_y = _nearest(xs, ys, points, radii)
        cover = np.clip(0.5 - edge, 0.0, 1.0)
        round_ = np.float32(1.0 - flat)
        normal_x *= round_
        normal_y *= round_
        height_ = np.sqrt(np.maximum(1.0 - normal_x * normal_x - normal_y * normal_y, 0.0))
        light = self._light
        shade = normal_x * light.x + normal_y * light.y + height_ * light.z
        shade = np.maximum(shade, 0.0) + light.ambient * (0.45 + 0.55 * height_)
        window = slice(top, bottom), slice(left, right)
        self.shade[window] += cover * (shade - self.shade[window])
        self.cover[window] = np.maximum(self.cover[window], cover)


def _nearest(xs: Plane, ys: Plane, points: list[Point], radii: list[float]) -> tuple[Plane, Plane, Plane]:
    """Return the signed distance (pixels) to the chain's outline and the x and y of its surface's normal."""
    best: tuple[Plane, Plane, Plane] | None = None
    for (x0, y0), (x1, y1), r0, r1 in zip(points, points[1:], radii, radii[1:], strict=False):
        across, down = x1 - x0, y1 - y0
        from_x, from_y = xs - np.float32(x0), ys - np.float32(y0)
        inverse = 1.0 / max(across * across + down * down, 1e-6)
        along = np.clip(from_x * np.float32(across * inverse) + from_y * np.float32(down * inverse), 0.0, 1.0)
        from_x = from_x - along * np.float32(across)
        from_y = from_y - along * np.float32(down)
        radius = np.float32(r0) + along * np.float32(r1 - r0)
        edge = np.sqrt(from_x * from_x + from_y * from_y) - radius
        inner = 1.0 / np.maximum(radius, 1e-3)
        normal_x, normal_y = from_x * inner, from_y * inner
        if best is None:
            best = edge, normal_x, normal_y
        else:
            closer = edge < best[0]
            best = (
                np.where(closer, edge, best[0]),
                np.where(closer, normal_x, best[1]),
                np.where(closer, normal_y, best[2]),
            )
    assert best is not None, "a limb has at least two points"
    return best


def draw(layer: Layer, pose: Pose, placing: Placing) -> None:
    """Draw a posed hand onto a layer: arm and palm, then the fingers, then a thumb that lies across them."""

    def limb(points: list[Point], radii: list[float], flat: float = 0.0) -> None:
        layer.limb([placing.pixel(p) for p in points], [r * placing.unit for r in radii], flat)

    thumb = pose.fingers[0]
    limb([(0.02, -0.45), (0.03, -placing.arm)], [0.33, 0.30], 0.35)
    if thumb.is_out or pose.behind:
        limb(*_straight(0, thumb, 1.0))
    limb([(0.0, -0.36), (0.0, 0.0)], [0.40, 0.50], 0.45)
    if thumb.is_out:
        limb([(-0.22, -0.34), (-0.36, -0.2)], [0.2, 0.16], 0.3)  # the ball of the thumb joins it to the palm
    for points, radii in _fingers(pose):
        limb(points, radii)
    if not thumb.is_out and not pose.behind:
        limb([(-0.34, -0.38), (-0.40, -0.12), (0.06, -0.06)], [0.19, 0.155, 0.115])


def _fingers(pose: Pose) -> Iterator[tuple[list[Point], list[float]]]:
    """Yield the points and radii of the fingers beside the thumb: those that are out first, folded ones lie on top."""
    fingers = list(enumerate(pose.fingers))[1:]
    for number, finger in fingers:
        if finger.is_out:
            yield _straight(number, finger, pose.spread)
    for number, finger in fingers:
        if not finger.is_out:
            yield _folded(number)


def _folded(number: int) -> tuple[list[Point], list[float]]:
    """Return a finger that lies on the palm as one bone."""
    x, y = ROOTS[number]
    return [(x, y + 0.10), (x * 0.93, y - 0.22)], [RADII[number] * 1.08, RADII[number] * 0.95]


def _straight(number: int, finger: Finger, spread: float) -> tuple[list[Point], list[float]]:
    """Return a finger that is out as three bones, each turned by half of its bend from the one before."""
    x, y = ROOTS[number]
    heading = math.radians(FAN[number] * spread + finger.angle)
    turn = math.radians(finger.bend) / 2
    bone = LENGTHS[number] * finger.extent / 2.6
    points = [(x, y)]
    for share in (1.0, 0.9, 0.7):
        x, y = x + share * bone * math.sin(heading), y + share * bone * math.cos(heading)
        points.append((x, y))
        heading += turn
    radius = RADII[number]
    return points, [radius, radius, radius * 0.93, radius * 0.8]
