"""Thousands of damaged images, sixteen at once: each is answered or refused in time, and no worker dies of any.

A body that fails is kept in the test's folder as `<seed>-<number>.<format>`; `mutation(seed, number)` makes it again.
"""

import collections
import json
import math
from pathlib import Path

import pytest

from tests.server.conftest import CLASSES, RunningServer
from tests.server.connections import Connections, Reply
from tests.server.mutations import FORMATS, WAYS, mutation, originals

MODEL = "digits"
TIMEOUT = 20.0  # seconds: sixteen damaged headers may all claim, and get, as many pixels as the limit allows
ENOUGH = 20  # failing bodies


def fault(reply: Reply) -> str | None:
    """Return what is wrong with a reply to whatever was sent, or None."""
    if reply.status not in (200, 400, 413, 415):
        return f"status {reply.status} after {reply.seconds:.1f} s: {reply.body[:200]!r}"
    try:
        answer = json.loads(reply.body)
    except ValueError:
        return f"no JSON: {reply.body[:200]!r}"
    if reply.status == 200:
        sound = len(answer) == 3 and set(answer) < set(CLASSES[MODEL])
        finite = sound and all(isinstance(value, float) and 0 <= value <= 1 for value in answer.values())
        return None if finite and math.fsum(answer.values()) <= 1 + 1e-5 else f"no probabilities: {answer}"
    sound = set(answer) == {"code", "type", "message"} and answer["code"] == reply.status
    # A body that begins with "{" or is empty by chance is no image; any other is refused as one.
    return None if sound and answer["message"] else f"no reason: {answer}"


def test_whole_images_are_answered(server: RunningServer) -> None:
    with Connections(server, MODEL, 4, TIMEOUT) as connections:
        for bodies in originals().values():
            assert [reply.status for reply in connections.ask_all(bodies)] == [200] * len(bodies)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("seed", "count"), [(1, 2000), pytest.param(2, 12_000, marks=pytest.mark.slow)])
def test_a_damaged_image_is_answered_or_refused(server: RunningServer, tmp_path: Path, seed: int, count: int) -> None:
    pids = server.pids(MODEL)
    statuses: collections.Counter[tuple[str, str, int]] = collections.Counter()
    failing = []
    with Connections(server, MODEL, 16, TIMEOUT) as connections:
        replies = connections.ask_all(mutation(seed, number).body for number in range(count))
        for number, reply in enumerate(replies):
            made = mutation(seed, number)
            statuses[made.image_format, made.way, reply.status] += 1
            if (wrong := fault(reply)) is not None:
                path = tmp_path / f"{seed}-{number}.{made.image_format.lower()}"
                path.write_bytes(made.body)
                failing.append(f"{path} ({made.way}): {wrong}")
            if len(failing) == ENOUGH:  # a worker that dies again and again is started again ever later
                break
    assert not failing, "\n".join([f"{len(failing)} of {number + 1} failed", *failing])
    assert server.pids(MODEL) == pids, "a worker died"
    assert statuses.total() == count
    # Damage that every decoder shrugs off, or refuses at its first byte, would show nothing.
    assert {(name, way) for name, way, _ in statuses} == {(name, way) for name in FORMATS for way in WAYS}
    for name in FORMATS:
        of_it = collections.Counter({key: n for key, n in statuses.items() if key[0] == name})
        answered = sum(n for (_, _, status), n in of_it.items() if status == 200)
        assert 0.05 * of_it.total() < answered < 0.95 * of_it.total(), (name, answered)
