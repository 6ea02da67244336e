"""What nature puts into a scene: each function draws one kind of thing at random places of a sketch."""

import numpy as np

from synthetic.sketch import Points, Sketch


def ridge(sketch: Sketch, height: float, rough: float, fill: tuple[int, int, int]) -> Points:
    """Draw a mountain ridge by midpoint displacement and return its line."""
    line = np.array([sketch.rng.uniform(0.2, 1), sketch.rng.uniform(0.2, 1)])
    step = 0.5
    while len(line) < 65:
        middle = (line[:-1] + line[1:]) / 2 + sketch.rng.normal(0, step * rough, len(line) - 1)
        line = np.insert(line, np.arange(1, len(line)), middle)
        step /= 2
    points = [
        (float(x), sketch.horizon - height * max(0.1, float(y)))
        for x, y in zip(np.linspace(0, 1, len(line)), line, strict=True)
    ]
    sketch.polygon([*points, (1, sketch.horizon + 0.01), (0, sketch.horizon + 0.01)], fill)
    return points


def mountains(sketch: Sketch) -> None:
    ridge(sketch, 0.34, 0.9, sketch.tone(0.6, 0.25, 0.5))
    ridge(sketch, 0.22, 0.9, sketch.tone(0.55, 0.25, 0.35))


def peaks(sketch: Sketch) -> None:
    rng = sketch.rng
    for _ in range(rng.integers(2, 4)):
        x, height, half = rng.uniform(0.1, 0.9), rng.uniform(0.3, 0.5), rng.uniform(0.25, 0.4)
        top, foot = sketch.horizon - height, sketch.horizon + 0.01
        rock = sketch.tone(0.6, 0.15, 0.4)
        sketch.polygon([(x, top), (x + half, foot), (x - half, foot)], rock)
        sketch.polygon([(x, top), (x + half, foot), (x + 0.1 * half, foot)], sketch.shaded(rock, 0.7))
        snow = [(x, top), (x + 0.5 * half, top + 0.5 * height), (x + 0.2 * half, top + 0.38 * height)]
        snow += [
            (x, top + 0.55 * height),
            (x - 0.2 * half, top + 0.36 * height),
            (x - 0.45 * half, top + 0.45 * height),
        ]
        sketch.polygon(snow, sketch.tone(0.6, 0.04, 0.95, 0.02))


def hills(sketch: Sketch) -> None:
    for height in (0.2, 0.12):
        ridge(sketch, height, 0.25, sketch.tone(0.27, 0.45, 0.3 + height))


def forest(sketch: Sketch) -> None:
    rng = sketch.rng
    for _ in range(18):
        x, radius = rng.uniform(0, 1), rng.uniform(0.06, 0.12)
        foot = sketch.horizon + rng.uniform(0, 0.08)
        sketch.box(x - 0.012, foot - radius, x + 0.012, foot + 0.03, sketch.tone(0.07, 0.5, 0.25))
        leaf = sketch.tone(0.28, 0.55, 0.38)
        for _ in range(4):
            aside, rise = rng.normal(0, radius / 2), rng.normal(0, radius / 3)
            sketch.disc(x + aside, foot - 1.6 * radius + rise, radius * 0.8, radius * 0.7, leaf)
            leaf = sketch.shaded(leaf, 1.08)


def pines(sketch: Sketch) -> None:
    rng = sketch.rng
    for _ in range(rng.integers(8, 14)):
        x, height = rng.uniform(0, 1), rng.uniform(0.18, 0.4)
        foot = sketch.horizon + rng.uniform(0.0, 0.2)
        fill = sketch.tone(0.36, 0.55, 0.25)
        for tier in range(4):
            top = foot - height * (1 - tier * 0.2)
            half = height * (0.1 + 0.06 * tier)
            sketch.polygon([(x, top), (x + half, top + height * 0.36), (x - half, top + height * 0.36)], fill)
            fill = sketch.shaded(fill, 1.12)


def trunks(sketch: Sketch) -> None:
    rng = sketch.rng
    for _ in range(rng.integers(10, 18)):
        x, width = rng.uniform(0, 1), rng.uniform(0.01, 0.035)
        fill = sketch.tone(0.09, 0.35, 0.4, 0.12)
        sketch.polygon(
            [(x, 0), (x + width, 0), (x + 1.2 * width, 1 - 4 * width), (x - 0.2 * width, 1 - 4 * width)], fill
        )


def palms(sketch: Sketch) -> None:
    rng = sketch.rng
    for _ in range(rng.integers(2, 4)):
        x, height, foot = rng.uniform(0.1, 0.9), rng.uniform(0.35, 0.55), sketch.horizon + rng.uniform(0.05, 0.2)
        top = x + rng.normal(0, 0.08), foot - height
        sketch.line([(x, foot), ((x + top[0]) / 2 + 0.02, foot - height / 2), top], 0.018, sketch.tone(0.08, 0.4, 0.35))
        leaf = sketch.tone(0.3, 0.6, 0.4)
        for angle in np.linspace(-0.3, 3.4, 8):
            tip = top[0] + 0.14 * float(np.cos(angle)), top[1] - 0.1 * float(np.sin(angle)) + 0.04
            bow = (top[0] + tip[0]) / 2, min(top[1], tip[1]) - 0.025
            sketch.polygon([top, bow, tip, ((top[0] + tip[0]) / 2, bow[1] + 0.035)], leaf)


def cactus(sketch: Sketch) -> None:
    rng = sketch.rng
    for _ in range(rng.integers(3, 6)):
        x, size, foot = rng.uniform(0.05, 0.95), rng.uniform(0.12, 0.28), sketch.horizon + rng.uniform(0.05, 0.25)
        green = sketch.tone(0.33, 0.5, 0.35)
        sketch.line([(x, foot), (x, foot - size)], size * 0.16, green)
        for side, rise in ((-1, 0.45), (1, 0.6)):
            arm = x + side * 0.25 * size
            sketch.line(
                [(x, foot - rise * size), (arm, foot - rise * size), (arm, foot - (rise + 0.3) * size)],
                size * 0.1,
                green,
            )


def rocks(sketch: Sketch) -> None:
    rng = sketch.rng
    for _ in range(rng.integers(6, 12)):
        x, size = rng.uniform(0, 1), rng.uniform(0.04, 0.13)
        y = sketch.horizon + rng.uniform(0.1, 0.5) * (1 - sketch.horizon) + size
        corners = [
            (x + size * float(np.cos(a)) * rng.uniform(0.7, 1), y - 0.7 * size * float(np.sin(a)) * rng.uniform(0.7, 1))
            for a in np.linspace(0, 6.28, 9)[:-1]
        ]
        stone = sketch.tone(0.08, 0.15, 0.45, 0.12)
        sketch.polygon(corners, stone)
        sketch.polygon([*corners[1:4], (x, y)], sketch.shaded(stone, 1.3))


def cliffs(sketch: Sketch) -> None:
    rng = sketch.rng
    for side in (0.0, 1.0):
        reach, stone = rng.uniform(0.25, 0.42), sketch.tone(0.05, 0.5, 0.55)
        for layer in range(6):
            top = 0.08 + 0.13 * layer
            edge = abs(side - (reach + 0.03 * float(rng.normal())))
            low = abs(side - (reach + 0.05))
            sketch.polygon(
                [(side, top), (edge, top + 0.02), (low, top + 0.2), (side, top + 0.2)],
                sketch.shaded(stone, 0.8 + 0.1 * (layer % 3)),
            )


def waterfall(sketch: Sketch) -> None:
    rng = sketch.rng
    x, width, top = rng.uniform(0.35, 0.65), rng.uniform(0.08, 0.16), rng.uniform(0.08, 0.2)
    sketch.box(0, top, 1, sketch.horizon + 0.1, sketch.tone(0.28, 0.3, 0.25))
    foot = sketch.horizon + 0.15
    for _ in range(26):
        aside, white = x + rng.uniform(-width, width), sketch.tone(0.55, 0.08, 0.92)
        sketch.line([(aside, top), (aside + 0.3 * (aside - x), foot + rng.uniform(-0.02, 0.05))], 0.012, white)
    sketch.disc(x, foot + 0.03, 1.8 * width, 0.05, sketch.tone(0.55, 0.05, 0.95))


def river(sketch: Sketch) -> None:
    rng = sketch.rng
    start, bow, left_bank, right_bank = rng.uniform(0.3, 0.7), rng.uniform(0.12, 0.25), [], []
    sign = rng.choice([-1.0, 1.0])
    for share in np.linspace(0, 1, 14):
        middle = start + sign * bow * np.sin(share * 5) * (0.3 + share)
        y = sketch.horizon + (1 - sketch.horizon) * share**1.5
        half = 0.01 + 0.17 * share**1.3
        left_bank.append((float(middle - half), float(y)))
        right_bank.append((float(middle + half), float(y)))
    sketch.polygon([*left_bank, *reversed(right_bank)], sketch.tone(0.56, 0.5, 0.65))


def waves(sketch: Sketch) -> None:
    rng = sketch.rng
    for _ in range(40):
        share = rng.uniform(0.05, 1) ** 0.8
        x, y, half = rng.uniform(0, 1), sketch.horizon + (1 - sketch.horizon) * share, 0.02 + 0.12 * share
        sketch.disc(x, y, half, 0.002 + 0.008 * share, sketch.tone(0.53, 0.15, 0.85))


def rows(sketch: Sketch) -> None:
    rng = sketch.rng
    aim, leaf = rng.uniform(0.2, 0.8), sketch.tone(0.24, 0.6, 0.45)
    for number in range(-12, 13):
        foot = aim + number * 0.16
        wide = 0.05
        sketch.polygon(
            [(aim + number * 0.008, sketch.horizon), (foot + wide, 1), (foot - wide, 1)],
            sketch.shaded(leaf, rng.uniform(0.85, 1.15)),
        )
