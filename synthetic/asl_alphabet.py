"""Signs of a hand before a wall, as frames of a film: the layout of the ASL alphabet data set.

    asl_alphabet_train/asl_alphabet_train/<class>/<class><n>.jpg    29 classes, n from 1, 200 x 200
    asl_alphabet_test/asl_alphabet_test/<class>_test.jpg            28 files (none of `del`)

Within a class, neighbouring frames resemble each other as a film's do: place, size, turn and light drift through key
frames. As in the public set, five of the test files are byte for byte a training file. The configurations follow the
manual alphabet as far as a drawing of limbs can; it matters only that no two classes share one.
"""

import math
from pathlib import Path

import numpy as np

from synthetic.canvas import Plane, blend, clouds, colour, flat, grid, pixels, ramp, stream
from synthetic.encoding import jpeg
from synthetic.folder import Parameters, Task, build
from synthetic.hand import Finger, Layer, Light, Placing, Pose, draw
from training.data.readers.asl_alphabet import CLASSES

TAG = 2
KEY = 9  # frames from one key frame to the next
COPIES = ("B", "G", "M", "S", "X")  # test files that are training files

DOWN = Finger(0.0)
UP = Finger(1.0)
SHORT = Finger(0.36)
HOOK = Finger(0.62, 0.0, 75.0)
THUMB_UP = Finger(0.85, 46.0, 6.0)  # beside the palm


def _curved(bend: float, angle: float = 0.0) -> tuple[Finger, Finger, Finger, Finger]:
    return (Finger(0.9, angle, bend), Finger(0.9, angle, bend), Finger(0.9, angle, bend), Finger(0.9, angle, bend))


# The hand's pose, and its turn in degrees clockwise.
SIGNS: dict[str, tuple[Pose, float]] = {
    "A": (Pose((THUMB_UP, DOWN, DOWN, DOWN, DOWN)), 0),
    "B": (Pose((DOWN, UP, UP, UP, UP), spread=0.35), 0),
    "C": (Pose((Finger(0.9, -18, 55), *_curved(-80, 8)), spread=0.5), 28),
    "D": (Pose((Finger(0.8, 62, 40), UP, HOOK, HOOK, HOOK)), 0),
    "E": (Pose((DOWN, SHORT, SHORT, SHORT, SHORT)), 0),
    "F": (Pose((Finger(0.9, 34, 20), Finger(0.75, -34, -50), UP, UP, UP), spread=1.5), 0),
    "G": (Pose((Finger(0.9, 44, 8), UP, DOWN, DOWN, DOWN)), -80),
    "H": (Pose((DOWN, UP, UP, DOWN, DOWN), spread=0.4), -82),
    "I": (Pose((DOWN, DOWN, DOWN, DOWN, UP)), 0),
    "J": (Pose((DOWN, DOWN, DOWN, DOWN, UP)), 70),
    "K": (Pose((Finger(1.0, 62, 0), UP, Finger(1.0, 22), DOWN, DOWN), spread=1.2), 0),
    "L": (Pose((Finger(1.1, -34), UP, DOWN, DOWN, DOWN)), 0),
    "M": (Pose((DOWN, Finger(0.5), Finger(0.5), Finger(0.5), DOWN), behind=True), 0),
    "N": (Pose((DOWN, Finger(0.5), Finger(0.5), DOWN, DOWN), behind=True), 0),
    "O": (Pose((Finger(0.9, 20, 60), *_curved(-150, 4)), spread=0.5), 20),
    "P": (Pose((Finger(1.0, 62, 0), UP, Finger(1.0, 22), DOWN, DOWN), spread=1.2), -140),
    "Q": (Pose((Finger(0.9, 44, 8), UP, DOWN, DOWN, DOWN)), -165),
    "R": (Pose((DOWN, Finger(1.0, 20), Finger(1.0, -10), DOWN, DOWN), spread=0.6), 0),
    "S": (Pose((DOWN, DOWN, DOWN, DOWN, DOWN)), 0),
    "T": (Pose((Finger(1.15, 66, 0), Finger(0.45), DOWN, DOWN, DOWN)), 0),
    "U": (Pose((DOWN, UP, UP, DOWN, DOWN), spread=0.3), 0),
    "V": (Pose((DOWN, Finger(1.0, -8), Finger(1.0, 14), DOWN, DOWN), spread=1.2), 0),
    "W": (Pose((DOWN, UP, UP, UP, DOWN), spread=1.8), 0),
    "X": (Pose((DOWN, Finger(0.8, -20, 110), DOWN, DOWN, DOWN)), 0),
    "Y": (Pose((Finger(1.1, -20), DOWN, DOWN, DOWN, Finger(1.05, 18))), 0),
    "Z": (Pose((DOWN, UP, DOWN, DOWN, DOWN)), 50),
    "del": (Pose((Finger(1.0, -10), *_curved(25)), spread=0.4), -100),
    "nothing": (Pose((DOWN, DOWN, DOWN, DOWN, DOWN)), 0),
    "space": (Pose((DOWN, *_curved(-20)), spread=2.0, behind=True), 95),
}


def generate(
    raw: Path,
    *,
    seed: int = 0,
    images_per_class: int = 100,
    classes: int = 29,
    size: int = 200,
    workers: int | None = None,
) -> bool:
    """Write signs to `raw`: `images_per_class` training frames, one test frame each; False if it has them."""
    train, test = ("/".join([f"asl_alphabet_{side}"] * 2) for side in ("train", "test"))
    tasks = []
    for number, label in enumerate(CLASSES[:classes]):
        tasks += [
            Task(f"{train}/{label}/{label}{frame + 1}.jpg", image, (seed, number, 0, frame, size))
            for frame in range(images_per_class)
        ]
        if label != "del":
            side = 0 if label in COPIES else 1
            tasks.append(Task(f"{test}/{label}_test.jpg", image, (seed, number, side, images_per_class // 2, size)))
    return build(raw, Parameters("asl_alphabet", seed, images_per_class, classes, size), tasks, workers)


def image(seed: int, label: int, side: int, frame: int, size: int) -> bytes:
    """Return one JPEG: `label` counts in `CLASSES`; `side` 0 is the training film, 1 another take for the test."""
    rng = stream(seed, TAG, label, side, frame)
    drift = _drift(seed, label, side, frame)
    picture = _room(size, stream(seed, TAG, 1000), drift, rng)
    if CLASSES[label] != "nothing":
        _sign(picture, label, drift, rng)
    light = np.float32(0.75 + 0.22 * drift[6])
    return jpeg(pixels(picture * light, rng, 0.012))


def _drift(seed: int, label: int, side: int, frame: int) -> list[float]:
    """Return 12 values, -1 to 1, that glide from key frame to key frame."""
    number, share = divmod(frame, KEY)
    ease = 0.5 - 0.5 * math.cos(math.pi * share / KEY)
    before, after = (stream(seed, TAG, label, side, 2_000_000 + key).uniform(-1, 1, 12) for key in (number, number + 1))
    return [float(value) for value in before + ease * (after - before)]


def _room(size: int, room: np.random.Generator, drift: list[float], rng: np.random.Generator) -> Plane:
    """Return the wall behind the signer: a bright upper and a dull lower part, a beam, all swaying a little."""
    x, y = grid(size)
    upper, lower = colour(0.5 + 0.1 * drift[8], 0.08, 0.92), colour(0.13, 0.18, 0.6 + 0.1 * drift[9])
    beam = colour(0.07, 0.45, 0.4)
    picture = flat(size, upper)
    tilt = 0.06 * drift[10]
    edge = room.uniform(0.0, 0.3) + 0.25 * drift[7]
    blend(picture, lower, ramp(y - tilt * x, edge - 0.015, edge + 0.015))
    blend(picture, beam, ramp(y + (room.uniform(0.1, 0.25) + tilt) * x, edge - 0.95, edge - 1.0))
    picture += 0.10 * drift[11] * x + 0.05 * y
    picture += 0.025 * clouds(rng, size, size, size / 3, 3)
    return picture


def _sign(picture: Plane, label: int, drift: list[float], rng: np.random.Generator) -> None:
    size = picture.shape[-1]
    pose, turn = SIGNS[CLASSES[label]]
    angle = math.pi * drift[4]
    light = Light(0.5 * math.cos(angle), 0.5 * math.sin(angle), 0.55, 0.35)
    layer = Layer(size, size, light)
    unit = size * (0.25 + 0.055 * drift[2])
    # A hand that points sideways or down must still lie within the frame.
    rise = math.cos(math.radians(turn))
    placing = Placing(
        x=size * (0.5 + 0.12 * drift[0] - 0.10 * math.sin(math.radians(turn))) + rng.normal(0, size / 250),
        y=size * (0.5 + 0.08 * drift[1] + 0.10 * rise) + rng.normal(0, size / 250),
        unit=unit,
        turn=turn + 11 * drift[3],
        arm=3.5,
    )
    draw(layer, _shaken(pose, rng), placing)
    skin = colour(0.06, 0.42, 0.72 + 0.26 * drift[5])
    # A hand before a bright wall is often nearly a silhouette.
    shade = layer.shade * (1 + 0.04 * clouds(rng, size, size, size / 10, 2))
    blend(picture, shade * skin[:, None, None], layer.cover)


def _shaken(pose: Pose, rng: np.random.Generator) -> Pose:
    """Return the pose as a hand holds it, never twice quite alike."""
    thumb, index, middle, ring, little = (
        Finger(finger.extent * rng.normal(1, 0.02), finger.angle + rng.normal(0, 2.5), finger.bend + rng.normal(0, 4))
        for finger in pose.fingers
    )
    return Pose((thumb, index, middle, ring, little), pose.spread * rng.normal(1, 0.08), pose.behind)
