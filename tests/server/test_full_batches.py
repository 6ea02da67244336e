"""Sixteen requests in one batch, one of them bad: it alone is refused, the fifteen others are answered rightly.

That they are in one batch follows from the clock: TorchServe waits `DELAY` for a batch to fill, and there are never
more than sixteen requests. Sixteen answers before that time is over are those of one full batch.
"""

import collections
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from pipeline.agreement import TOLERANCE
from serving import archive
from tests.server.conftest import CLASSES, RunningServer, picture
from tests.server.connections import Connections
from tests.server.test_odd_images import png_bomb, saved
from tests.server.test_requests import expected

SIZE = 16
DELAY = 5.0  # seconds
MODEL = "sixteen"
GOOD = [picture(seed, image_format=kind) for seed in range(30) for kind in ("JPEG", "PNG", "WEBP")]
BAD = {
    "truncated": (picture(1)[:500], 400),
    "not an image": (b"no image at all", 400),
    "empty": (b"", 400),
    "too many pixels": (png_bomb(60_000), 413),
    "unsupported": (saved(Image.new("RGB", (20, 20)), "JPEG2000"), 415),
    "broken JSON": (b'{"instances": [', 400),
}


@pytest.fixture(scope="module")
def full(server: RunningServer, root: Path) -> Iterator[RunningServer]:
    """Serve the network of `digits` once more, with full batches of sixteen."""
    overrides = [f"batchSize={SIZE}", f"maxBatchDelay={DELAY * 1000:.0f}", "handler.top_k=10"]
    overrides += ["minWorkers=1", "handler.precision=fp32"]
    built = archive.build(
        MODEL, "1.0", run=root / "runs" / "digits", store=root / "model_store", overrides=overrides, rehearse=False
    )
    with server.also_serving([built]):
        yield server


# Each bad body is sent twice at each place.
@pytest.mark.parametrize("rounds", [2 * SIZE * len(BAD), pytest.param(1000, marks=pytest.mark.slow)])
def test_one_bad_image_among_sixteen_is_one_refusal(full: RunningServer, root: Path, rounds: int) -> None:
    right = expected(root, "digits", GOOD, 10)
    assert all(distance(one, other) > 10 * TOLERANCE for one, other in itertools.combinations(right[::3], 2))
    pids, kinds = full.pids(MODEL), list(BAD.values())
    assert full.client.describe(MODEL).batch_size == SIZE and len(pids) == 1
    counts: collections.Counter[str] = collections.Counter()
    with Connections(full, MODEL, SIZE, timeout=30) as connections:
        for number in range(rounds):
            place, (bad, status) = number % SIZE, kinds[number // SIZE % len(kinds)]
            chosen = [(number * SIZE + offset) % len(GOOD) for offset in range(SIZE)]
            bodies = [bad if offset == place else GOOD[image] for offset, image in enumerate(chosen)]
            began = time.monotonic()
            replies = list(connections.ask_all(bodies))
            counts["full"] += time.monotonic() - began < DELAY
            for offset, (image, reply) in enumerate(zip(chosen, replies, strict=True)):
                answer = json.loads(reply.body)
                if offset == place:
                    counts["refused"] += reply.status == status == answer["code"] and bool(answer["message"])
                else:
                    counts["right"] += reply.status == 200 and distance(answer, right[image]) <= TOLERANCE
    assert counts["refused"] == rounds
    assert counts["right"] == rounds * (SIZE - 1)
    assert counts["full"] >= 0.99 * rounds
    assert full.pids(MODEL) == pids


def distance(one: dict[str, float], other: dict[str, float]) -> float:
    """Return the largest difference of a probability."""
    assert set(one) == set(other) == set(CLASSES["digits"])
    return max(abs(one[label] - other[label]) for label in one)
