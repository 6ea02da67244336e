"""What people put into a scene: each function draws one kind of thing at random places of a sketch."""

import numpy as np

from synthetic.sketch import Sketch


def facade(sketch: Sketch, x: float, foot: float, width: float, height: float, fill: tuple[int, int, int]) -> None:
    """Draw a front with rows of windows."""
    sketch.box(x, foot - height, x + width, foot, fill)
    glass = sketch.tone(0.55, 0.3, 0.85 if sum(fill) < 360 else 0.3)
    columns, rows = max(2, round(width / 0.035)), max(2, round(height / 0.05))
    for column in range(columns):
        for row in range(rows):
            window_x, window_y = x + width * (column + 0.25) / columns, foot - height * (row + 0.8) / rows
            sketch.box(window_x, window_y, window_x + 0.5 * width / columns, window_y + 0.5 * height / rows, glass)


def skyscrapers(sketch: Sketch) -> None:
    rng = sketch.rng
    for _ in range(rng.integers(6, 10)):
        x, width, height = rng.uniform(-0.05, 0.95), rng.uniform(0.09, 0.18), rng.uniform(0.3, 0.62)
        facade(sketch, x, sketch.horizon + 0.02, width, height, sketch.tone(rng.choice([0.58, 0.08]), 0.2, 0.5, 0.15))


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
    start, end = sorted((x + width / 2, x + width / 2 + nave))
    sketch.box(start, foot - 0.22, end, foot, sketch.shaded(wall, 0.9))
    sketch.polygon(
        [(start, foot - 0.22), (end, foot - 0.22), ((start + end) / 2, foot - 0.36)], sketch.tone(0.0, 0.3, 0.3)
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


def boats(sketch: Sketch) -> None:
    rng = sketch.rng
    for _ in range(rng.integers(2, 5)):
        x, size = rng.uniform(0.1, 0.9), rng.uniform(0.05, 0.1)
        y = sketch.horizon + size * rng.uniform(0.5, 2.5)
        hull = [(x - size, y), (x + size, y), (x + 0.7 * size, y + 0.35 * size), (x - 0.7 * size, y + 0.35 * size)]
        sketch.polygon(hull, sketch.tone(rng.uniform(0, 1), 0.6, 0.5))
        sketch.polygon([(x, y), (x, y - 2 * size), (x + 0.9 * size, y - 0.2 * size)], sketch.tone(0.1, 0.05, 0.95))


def tents(sketch: Sketch) -> None:
    rng = sketch.rng
    for number in range(rng.integers(2, 5)):
        x, size, foot = rng.uniform(0.1, 0.9), rng.uniform(0.09, 0.16), sketch.horizon + 0.1 + 0.07 * number
        cloth = sketch.tone(rng.choice([0.05, 0.13, 0.55, 0.3]), 0.7, 0.75)
        sketch.polygon([(x - size, foot), (x + size, foot), (x, foot - 1.2 * size)], cloth)
        sketch.polygon(
            [(x - 0.3 * size, foot), (x + 0.2 * size, foot), (x, foot - 0.9 * size)], sketch.shaded(cloth, 0.4)
        )


def fence(sketch: Sketch) -> None:
    rng = sketch.rng
    y, wood = sketch.horizon + rng.uniform(0.12, 0.25), sketch.tone(0.08, 0.25, 0.75, 0.12)
    for rise in (0.03, 0.1):
        sketch.box(0, y + rise, 1, y + rise + 0.02, wood)
    for number in range(int(rng.integers(7, 12))):
        x = number / 9
        sketch.box(x, y - 0.02, x + 0.03, y + 0.17, sketch.shaded(wood, 0.9))
