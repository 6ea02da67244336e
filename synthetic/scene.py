"""A scene: sky and ground or a room, with scenery in it, as its class lays them out."""

import dataclasses
from collections.abc import Callable

import numpy as np

from synthetic import buildings, interior, landscape
from synthetic.canvas import DESIGN, Plane, blend, clouds, colour, grid, ramp, stream
from synthetic.sketch import Sketch

# hue, saturation, value
GROUNDS = {
    "grass": (0.26, 0.5, 0.45),
    "sand": (0.11, 0.4, 0.8),
    "water": (0.56, 0.5, 0.5),
    "snow": (0.6, 0.05, 0.92),
    "paved": (0.08, 0.06, 0.5),
    "rock": (0.06, 0.35, 0.5),
    "soil": (0.08, 0.45, 0.35),
}

# Back to front, so that a layout made by chance can be put in order.
OUTDOORS: dict[str, Callable[[Sketch], None]] = {
    "mountains": landscape.mountains,
    "peaks": landscape.peaks,
    "hills": landscape.hills,
    "skyscrapers": buildings.skyscrapers,
    "forest": landscape.forest,
    "pines": landscape.pines,
    "waterfall": landscape.waterfall,
    "cliffs": landscape.cliffs,
    "river": landscape.river,
    "road": buildings.road,
    "rows": landscape.rows,
    "waves": landscape.waves,
    "bridge": buildings.bridge,
    "rocks": landscape.rocks,
    "houses": buildings.houses,
    "church": buildings.church,
    "lighthouse": buildings.lighthouse,
    "windmill": buildings.windmill,
    "cactus": landscape.cactus,
    "palms": landscape.palms,
    "tents": buildings.tents,
    "boats": buildings.boats,
    "fence": buildings.fence,
    "trunks": landscape.trunks,
}
INDOORS: dict[str, Callable[[Sketch], None]] = {
    "windows": interior.windows,
    "shelves": interior.shelves,
    "pillars": interior.pillars,
    "doors": interior.doors,
    "bed": interior.bed,
    "tables": interior.tables,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """Parameters that all scenes of one class share: ground, things from back to front, approximate horizon."""

    ground: str  # a key of GROUNDS, or "room"
    items: tuple[str, ...]
    horizon: float = 0.55


# Layouts that suit their names; any other class gets a random layout.
LAYOUTS = {
    "/a/airport_terminal": Layout("room", ("windows", "pillars")),
    "/b/beach": Layout("sand", ("palms",), 0.45),
    "/b/bedroom": Layout("room", ("windows", "bed")),
    "/b/bridge": Layout("water", ("hills", "bridge"), 0.55),
    "/c/campsite": Layout("grass", ("pines", "tents"), 0.45),
    "/c/canyon": Layout("rock", ("mountains", "cliffs"), 0.65),
    "/c/church/outdoor": Layout("grass", ("forest", "church"), 0.7),
    "/c/corridor": Layout("room", ("doors",)),
    "/d/desert/vegetation": Layout("sand", ("mountains", "cactus"), 0.5),
    "/f/farm": Layout("soil", ("hills", "rows", "houses"), 0.45),
    "/f/forest/broadleaf": Layout("soil", ("forest", "trunks"), 0.6),
    "/h/harbor": Layout("water", ("houses", "boats"), 0.45),
    "/h/highway": Layout("grass", ("hills", "road"), 0.5),
    "/l/library/indoor": Layout("room", ("shelves",)),
    "/l/lighthouse": Layout("water", ("waves", "lighthouse"), 0.65),
    "/m/mountain_snowy": Layout("snow", ("peaks", "pines"), 0.65),
    "/o/ocean": Layout("water", ("waves",), 0.4),
    "/r/restaurant": Layout("room", ("windows", "tables")),
    "/r/river": Layout("grass", ("forest", "river"), 0.45),
    "/s/skyscraper": Layout("paved", ("skyscrapers",), 0.85),
    "/v/village": Layout("grass", ("mountains", "houses", "fence"), 0.55),
    "/w/waterfall": Layout("water", ("waterfall", "rocks"), 0.6),
    "/w/windmill": Layout("grass", ("windmill", "fence"), 0.65),
    "/v/vineyard": Layout("soil", ("mountains", "rows"), 0.4),
}


def layout(label: int, name: str) -> Layout:
    """Return how the scenes of a class are laid out, whatever the seed of the images."""
    if name in LAYOUTS:
        return LAYOUTS[name]
    rng = stream(DESIGN, 5, label)
    if rng.random() < 0.2:
        pair = sorted(rng.choice(len(INDOORS), 2, replace=False))
        return Layout("room", tuple(list(INDOORS)[number] for number in pair))
    outdoors = list(OUTDOORS)
    indices = sorted(rng.choice(len(outdoors), int(rng.integers(2, 4)), replace=False))
    ground = list(GROUNDS)[rng.integers(len(GROUNDS))]
    return Layout(ground, tuple(outdoors[number] for number in indices), float(rng.uniform(0.35, 0.7)))


def draw(layout: Layout, size: int, rng: np.random.Generator) -> Plane:
    """Return an RGB picture (3, size, size), 0 to 1, of one scene."""
    sketch = Sketch(size, float(np.clip(layout.horizon + rng.normal(0, 0.06), 0.3, 0.88)), rng)
    if layout.ground == "room":
        interior.room(sketch)
    else:
        # The colour of the sky and the season say little about the class.
        sketch.box(0, 0, 1, sketch.horizon, sketch.tone(float(rng.choice([0.57, 0.58, 0.08, 0.62])), 0.35, 0.75, 0.18))
        hue, saturation, value = GROUNDS[layout.ground]
        sketch.box(0, sketch.horizon, 1, 1, sketch.tone(hue + rng.normal(0, 0.04), saturation, value, 0.09))
    backdrop = sketch.picture() if layout.ground != "room" else None
    for item in layout.items:
        (INDOORS if layout.ground == "room" else OUTDOORS)[item](sketch)
    picture = sketch.picture()
    x, y = grid(size)
    horizon = 2 * sketch.seen_horizon - 1
    if backdrop is not None:
        sky = np.abs(picture - backdrop).max(axis=0) < 0.02
        mist = ramp(clouds(rng, size, size, size / 2.5, 5), rng.uniform(-0.5, 0.6), 1.8) * ramp(
            y, horizon, horizon - 0.3
        )
        blend(picture, colour(0.6, 0.03, rng.uniform(0.75, 1.0)), mist * sky * np.float32(rng.uniform(0.4, 1.0)))
    # Texture grows coarser towards the viewer, as grass, sand and floors do.
    near = ramp(y, min(horizon, 0.9), 1.0)
    picture += 0.05 * near * clouds(rng, size, size, size / 12, 4, 0.8) + 0.02 * clouds(rng, size, size, size / 40, 2)
    # Leaves, a pole or a passer-by near the camera hide a part.
    if rng.random() < 0.6:
        where = (x - np.float32(rng.uniform(-1, 1))) ** 2 * np.float32(rng.uniform(1, 5)) + (
            y - np.float32(rng.uniform(-1, 1))
        ) ** 2
        hidden = ramp(where + 0.12 * clouds(rng, size, size, size / 6, 3), 0.14, 0.12)
        blend(picture, colour(rng.uniform(), 0.4, rng.uniform(0.1, 0.5)), hidden)
    tint = colour(rng.uniform(), rng.uniform(0.0, 0.3), 1.0)[:, None, None]
    slope = rng.uniform(-0.3, 0.3, 2)
    picture *= tint * np.float32(rng.uniform(0.55, 1.15)) * (1 + np.float32(slope[0]) * x + np.float32(slope[1]) * y)
    return picture[:, :, ::-1] if rng.random() < 0.5 else picture
