"""What stands in a scene, back to front: each function draws one kind of thing at random places of a sketch."""

from collections.abc import Callable

import numpy as np

from training.generate.sketch import Points, Sketch


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


def skyscrapers(sketch: Sketch) -> None:
    rng = sketch.rng
    for _ in range(rng.integers(6, 10)):
        x, width, height = rng.uniform(-0.05, 0.95), rng.uniform(0.09, 0.18), rng.uniform(0.3, 0.62)
        facade(sketch, x, sketch.horizon + 0.02, width, height, sketch.tone(rng.choice([0.58, 0.08]), 0.2, 0.5, 0.15))


def facade(sketch: Sketch, x: float, foot: float, width: float, height: float, fill: tuple[int, int, int]) -> None:
    """Draw a front with rows of windows."""
    sketch.box(x, foot - height, x + width, foot, fill)
    glass = sketch.tone(0.55, 0.3, 0.85 if sum(fill) < 360 else 0.3)
    columns, rows = max(2, round(width / 0.035)), max(2, round(height / 0.05))
    for column in range(columns):
        for row in range(rows):
            left, top = x + width * (column + 0.25) / columns, foot - height * (row + 0.8) / rows
            sketch.box(left, top, left + 0.5 * width / columns, top + 0.5 * height / rows, glass)


def houses(sketch: Sketch) -> None:
    rng = sketch.rng
    for number in range(rng.integers(2, 5)):
        width = rng.uniform(0.18, 0.3)
        x, foot = rng.uniform(0, 0.8), sketch.horizon + 0.03 + 0.05 * number
        height = width * rng.uniform(0.5, 0.8)
        facade(sketch, x, foot, width, height, sketch.tone(rng.uniform(0, 0.15), 0.3, 0.75, 0.12))
        roof = [(x - 0.02, foot - height), (x + width + 0.02, foot - height), (x + width / 2, foot - 1.6 * height)]
        sketch.polygon(roof, sketch.tone(0.02, 0.6, 0.45))


def church(sketch: Sketch) -> None:
    rng = sketch.rng
    x, foot, width = rng.uniform(0.2, 0.55), sketch.horizon + 0.08, rng.uniform(0.14, 0.18)
    wall = sketch.tone(0.1, 0.12, 0.8)
    nave = sketch.rng.choice([-1.0, 1.0]) * rng.uniform(0.25, 0.35)
    left, right = sorted((x + width / 2, x + width / 2 + nave))
    sketch.box(left, foot - 0.22, right, foot, sketch.shaded(wall, 0.9))
    sketch.polygon(
        [(left, foot - 0.22), (right, foot - 0.22), ((left + right) / 2, foot - 0.36)], sketch.tone(0.0, 0.3, 0.3)
    )
    sketch.box(x, foot - 0.42, x + width, foot, wall)
    spire = [(x - 0.01, foot - 0.42), (x + width + 0.01, foot - 0.42), (x + width / 2, foot - rng.uniform(0.68, 0.8))]
    sketch.polygon(spire, sketch.tone(0.58, 0.3, 0.3))
    dark = sketch.tone(0.6, 0.3, 0.2)
    sketch.disc(x + width / 2, foot - 0.3, 0.03, 0.05, dark)
    sketch.box(x + width / 2 - 0.03, foot - 0.12, x + width / 2 + 0.03, foot, dark)


def lighthouse(sketch: Sketch) -> None:
    rng = sketch.rng
    x, foot, height = rng.uniform(0.2, 0.8), sketch.horizon + 0.06, rng.uniform(0.4, 0.55)
    sketch.disc(x, foot + 0.05, 0.25, 0.08, sketch.tone(0.08, 0.2, 0.35))
    hue = rng.choice([0.0, 0.6])
    for band in range(6):
        low, high = foot - height * band / 6, foot - height * (band + 1) / 6
        half, above = 0.06 - 0.005 * band, 0.055 - 0.005 * band
        fill = sketch.tone(0.1, 0.03, 0.93) if band % 2 else sketch.tone(hue, 0.75, 0.6)
        sketch.polygon([(x - half, low), (x + half, low), (x + above, high), (x - above, high)], fill)
    top = foot - height
    sketch.box(x - 0.022, top - 0.05, x + 0.022, top, sketch.tone(0.14, 0.6, 0.95))
    sketch.polygon([(x - 0.035, top - 0.05), (x + 0.035, top - 0.05), (x, top - 0.1)], sketch.tone(0, 0.5, 0.3))


def windmill(sketch: Sketch) -> None:
    rng = sketch.rng
    x, foot = rng.uniform(0.3, 0.7), sketch.horizon + 0.1
    body = [(x - 0.09, foot), (x + 0.09, foot), (x + 0.05, foot - 0.38), (x - 0.05, foot - 0.38)]
    sketch.polygon(body, sketch.tone(0.08, 0.25, 0.6))
    sketch.disc(x, foot - 0.38, 0.055, 0.04, sketch.tone(0.02, 0.4, 0.3))
    start, reach, sail = rng.uniform(0, 1.57), rng.uniform(0.26, 0.34), sketch.tone(0.12, 0.1, 0.92)
    for quarter in range(4):
        angle = start + quarter * np.pi / 2
        cos, sin = float(np.cos(angle)), float(np.sin(angle))
        hub, tip = (x, foot - 0.36), (x + reach * cos, foot - 0.36 - reach * sin)
        sketch.polygon(
            [hub, tip, (tip[0] + 0.07 * sin, tip[1] + 0.07 * cos), (x + 0.07 * sin, hub[1] + 0.07 * cos)], sail
        )
        sketch.line([hub, tip], 0.01, sketch.tone(0.08, 0.4, 0.25))


def bridge(sketch: Sketch) -> None:
    rng = sketch.rng
    deck, stone = sketch.horizon + rng.uniform(-0.12, 0.0), sketch.tone(rng.choice([0.08, 0.0, 0.6]), 0.25, 0.45)
    arches_ = int(rng.integers(2, 5))
    sketch.box(0, deck, 1, deck + 0.06, stone)
    for number in range(arches_ + 1):
        middle = number / arches_
        sketch.box(middle - 0.035, deck, middle + 0.035, deck + 0.35, sketch.shaded(stone, 0.85))
        for step in range(12):  # the stone between two arches narrows downward
            half = 0.5 / arches_ * (1 - np.sqrt(1 - ((11.5 - step) / 12) ** 2))
            sketch.box(middle - half, deck + 0.05 + 0.015 * step, middle + half, deck + 0.07 + 0.015 * step, stone)


def road(sketch: Sketch) -> None:
    rng = sketch.rng
    aim, near = rng.uniform(0.35, 0.65), rng.uniform(0.25, 0.75)
    tar, top = sketch.tone(0.6, 0.05, 0.3), sketch.horizon
    sketch.polygon([(aim - 0.015, top), (aim + 0.015, top), (near + 0.4, 1), (near - 0.4, 1)], tar)
    white = sketch.tone(0.12, 0.2, 0.95, 0.02)
    for share in (0.08, 0.2, 0.38, 0.65):
        y, low = top + (1 - top) * share, top + (1 - top) * share * 1.35
        x, under = aim + (near - aim) * share, aim + (near - aim) * share * 1.35
        sketch.polygon(
            [(x - 0.02 * share, y), (x + 0.02 * share, y), (under + 0.03 * share, low), (under - 0.03 * share, low)],
            white,
        )


def river(sketch: Sketch) -> None:
    rng = sketch.rng
    start, bow, left, right = rng.uniform(0.3, 0.7), rng.uniform(0.12, 0.25), [], []
    sign = rng.choice([-1.0, 1.0])
    for share in np.linspace(0, 1, 14):
        middle = start + sign * bow * np.sin(share * 5) * (0.3 + share)
        y = sketch.horizon + (1 - sketch.horizon) * share**1.5
        half = 0.01 + 0.17 * share**1.3
        left.append((float(middle - half), float(y)))
        right.append((float(middle + half), float(y)))
    sketch.polygon([*left, *reversed(right)], sketch.tone(0.56, 0.5, 0.65))


def boats(sketch: Sketch) -> None:
    rng = sketch.rng
    for _ in range(rng.integers(2, 5)):
        x, size = rng.uniform(0.1, 0.9), rng.uniform(0.05, 0.1)
        y = sketch.horizon + size * rng.uniform(0.5, 2.5)
        hull = [(x - size, y), (x + size, y), (x + 0.7 * size, y + 0.35 * size), (x - 0.7 * size, y + 0.35 * size)]
        sketch.polygon(hull, sketch.tone(rng.uniform(0, 1), 0.6, 0.5))
        sketch.polygon([(x, y), (x, y - 2 * size), (x + 0.9 * size, y - 0.2 * size)], sketch.tone(0.1, 0.05, 0.95))


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


def tents(sketch: Sketch) -> None:
    rng = sketch.rng
    for number in range(rng.integers(2, 5)):
        x, size, foot = rng.uniform(0.1, 0.9), rng.uniform(0.09, 0.16), sketch.horizon + 0.1 + 0.07 * number
        cloth = sketch.tone(rng.choice([0.05, 0.13, 0.55, 0.3]), 0.7, 0.75)
        sketch.polygon([(x - size, foot), (x + size, foot), (x, foot - 1.2 * size)], cloth)
        sketch.polygon(
            [(x - 0.3 * size, foot), (x + 0.2 * size, foot), (x, foot - 0.9 * size)], sketch.shaded(cloth, 0.4)
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


def fence(sketch: Sketch) -> None:
    rng = sketch.rng
    y, wood = sketch.horizon + rng.uniform(0.12, 0.25), sketch.tone(0.08, 0.25, 0.75, 0.12)
    for rise in (0.03, 0.1):
        sketch.box(0, y + rise, 1, y + rise + 0.02, wood)
    for number in range(int(rng.integers(7, 12))):
        x = number / 9
        sketch.box(x, y - 0.02, x + 0.03, y + 0.17, sketch.shaded(wood, 0.9))


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


def shelves(sketch: Sketch) -> None:
    rng = sketch.rng
    wood = sketch.tone(0.07, 0.5, 0.35)
    left, right = (0.0, rng.uniform(0.6, 0.8)) if rng.random() < 0.5 else (rng.uniform(0.2, 0.4), 1.0)
    sketch.box(left, 0.12, right, 0.82, wood)
    for row in range(5):
        x, base = left + 0.015, 0.25 + 0.135 * row
        while x < right - 0.04:
            width, height = rng.uniform(0.012, 0.035), rng.uniform(0.07, 0.105)
            sketch.box(x, base - height, x + width, base, sketch.tone(rng.uniform(0, 1), 0.55, 0.55, 0.15))
            x += width + 0.003


def bed(sketch: Sketch) -> None:
    rng = sketch.rng
    x, y, width = rng.uniform(0.15, 0.4), rng.uniform(0.5, 0.58), rng.uniform(0.38, 0.5)
    cloth = sketch.tone(rng.uniform(0, 1), 0.35, 0.75)
    sketch.box(x, y - 0.15, x + width, y + 0.05, sketch.tone(0.06, 0.5, 0.35))
    sketch.polygon([(x, y), (x + width, y), (x + width + 0.12, 0.88), (x - 0.12, 0.88)], cloth)
    sketch.box(x - 0.12, 0.88, x + width + 0.12, 0.95, sketch.shaded(cloth, 0.6))
    for side in (0.06, 0.54):
        pillow = x + side * width
        sketch.disc(pillow + 0.2 * width, y + 0.02, 0.19 * width, 0.045, sketch.tone(0.1, 0.04, 0.94))


def tables(sketch: Sketch) -> None:
    rng = sketch.rng
    for number in range(rng.integers(3, 6)):
        x, y, half = rng.uniform(0.1, 0.9), 0.62 + 0.08 * number, 0.08 + 0.02 * number
        wood = sketch.tone(0.07, 0.5, 0.5)
        sketch.line([(x, y), (x, y + 1.2 * half)], 0.02, sketch.shaded(wood, 0.5))
        sketch.disc(x, y, half, 0.3 * half, wood)
        for side in (-1.5, 1.5):
            chair = x + side * half
            sketch.box(chair - 0.03, y - 0.06, chair + 0.03, y + 0.06, sketch.tone(0.02, 0.5, 0.35))
            sketch.line([(chair, y + 0.06), (chair, y + 0.12)], 0.04, sketch.tone(0.02, 0.5, 0.2))


def doors(sketch: Sketch) -> None:
    rng = sketch.rng
    fill = sketch.tone(rng.uniform(0, 0.6), 0.4, 0.4)
    for share in (0.15, 0.42, 0.7):
        for side in (0, 1):
            near, far = 0.3 * (share + 0.14), 0.3 * share
            points = [
                (far, 0.28 + 0.05 * share),
                (near, 0.3 + 0.02 * share),
                (near, 1 - 0.4 * near),
                (far, 1 - 0.4 * far),
            ]
            sketch.polygon([(x if side == 0 else 1 - x, y) for x, y in points], fill)
    for share in (0.2, 0.5, 0.8):
        sketch.disc(0.5, 0.28 * share, 0.1 * (1.1 - share), 0.02, sketch.tone(0.14, 0.2, 0.98, 0.01))


def pillars(sketch: Sketch) -> None:
    stone = sketch.tone(0.1, 0.1, 0.8)
    for number in range(4):
        for side in (0, 1):
            inset, wide = 0.02 + 0.1 * number, 0.055 - 0.011 * number
            x = inset if side == 0 else 1 - inset - wide
            sketch.box(x, 0.05 + 0.06 * number, x + wide, 0.95 - 0.07 * number, sketch.shaded(stone, 1 - 0.1 * number))


def windows(sketch: Sketch) -> None:
    count, sky = int(sketch.rng.integers(2, 5)), sketch.tone(0.56, 0.25, 0.95)
    for number in range(count):
        x, half = (number + 0.5) / count, 0.3 / count
        sketch.box(x - half, 0.15, x + half, 0.48, sky)
        sketch.line([(x, 0.15), (x, 0.48)], 0.012, sketch.tone(0.1, 0.1, 0.9))
        sketch.line([(x - half, 0.31), (x + half, 0.31)], 0.012, sketch.tone(0.1, 0.1, 0.9))


ITEMS: dict[str, Callable[[Sketch], None]] = {
    each.__name__: each
    for each in (
        *(mountains, peaks, hills, skyscrapers, forest, pines, waterfall, cliffs, river, road, rows, waves, bridge),
        *(rocks, houses, church, lighthouse, windmill, cactus, palms, tents, boats, fence, trunks),
        *(windows, shelves, pillars, doors, bed, tables),
    )
}
INDOORS = ("windows", "shelves", "pillars", "doors", "bed", "tables")
