"""A room and its furniture: each function draws one kind of thing at random places of a sketch."""

from synthetic.sketch import Sketch


def room(sketch: Sketch) -> None:
    """Draw a room in perspective: ceiling, floor, two side walls and the back wall."""
    rng = sketch.rng
    wall = sketch.tone(float(rng.uniform(0, 0.7)), 0.15, 0.75, 0.1)
    left, right, top, bottom = (
        rng.uniform(0.2, 0.3),
        rng.uniform(0.7, 0.8),
        rng.uniform(0.18, 0.25),
        rng.uniform(0.6, 0.7),
    )
    sketch.box(0, 0, 1, 1, wall)
    sketch.polygon([(0, 0), (1, 0), (right, top), (left, top)], sketch.tone(0.1, 0.05, 0.88))
    sketch.polygon([(0, 1), (1, 1), (right, bottom), (left, bottom)], sketch.tone(0.08, 0.4, 0.45, 0.12))
    sketch.polygon([(0, 0), (left, top), (left, bottom), (0, 1)], sketch.shaded(wall, 0.85))
    sketch.polygon([(1, 0), (right, top), (right, bottom), (1, 1)], sketch.shaded(wall, 0.92))


def windows(sketch: Sketch) -> None:
    count, sky = int(sketch.rng.integers(2, 5)), sketch.tone(0.56, 0.25, 0.95)
    for number in range(count):
        x, half = (number + 0.5) / count, 0.3 / count
        sketch.box(x - half, 0.15, x + half, 0.48, sky)
        sketch.line([(x, 0.15), (x, 0.48)], 0.012, sketch.tone(0.1, 0.1, 0.9))
        sketch.line([(x - half, 0.31), (x + half, 0.31)], 0.012, sketch.tone(0.1, 0.1, 0.9))


def shelves(sketch: Sketch) -> None:
    rng = sketch.rng
    wood = sketch.tone(0.07, 0.5, 0.35)
    start, end = (0.0, rng.uniform(0.6, 0.8)) if rng.random() < 0.5 else (rng.uniform(0.2, 0.4), 1.0)
    sketch.box(start, 0.12, end, 0.82, wood)
    for row in range(5):
        x, base = start + 0.015, 0.25 + 0.135 * row
        while x < end - 0.04:
            width, height = rng.uniform(0.012, 0.035), rng.uniform(0.07, 0.105)
            sketch.box(x, base - height, x + width, base, sketch.tone(rng.uniform(0, 1), 0.55, 0.55, 0.15))
            x += width + 0.003


def pillars(sketch: Sketch) -> None:
    stone = sketch.tone(0.1, 0.1, 0.8)
    for number in range(4):
        for side in (0, 1):
            inset, wide = 0.02 + 0.1 * number, 0.055 - 0.011 * number
            x = inset if side == 0 else 1 - inset - wide
            sketch.box(x, 0.05 + 0.06 * number, x + wide, 0.95 - 0.07 * number, sketch.shaded(stone, 1 - 0.1 * number))


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
