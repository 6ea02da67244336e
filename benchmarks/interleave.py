"""Works that take turns on one core, so that other load of the machine affects all of them."""

import contextlib
import importlib.metadata
import math
import os
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import TypeVar

import torch

Work = Callable[[], object]
Name = TypeVar("Name", bound=Hashable)


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Keep this thread, and those that libraries start from it, on one core."""
    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
    os.sched_setaffinity(0, {max(cores)})
    torch.set_num_threads(1)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)


def take_turns(
    works: Mapping[Name, Work], rounds: int, turn: float, clock: Callable[[], float] = time.perf_counter
) -> dict[Name, list[float]]:
    """Return the seconds of one call of each work, in each round, by a clock.

    A turn calls a work until about `turn` seconds have passed, as often in each round; the order moves on by one each
    round.
    """
    passes = {}
    for name, work in works.items():
        work()  # warm-up
        start = clock()
        work()
        passes[name] = max(1, math.ceil(turn / (clock() - start)))
    times: dict[Name, list[float]] = {name: [] for name in works}
    names = list(works)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            work = works[name]
            start = clock()
            for _ in range(passes[name]):
                work()
            times[name].append((clock() - start) / passes[name])
    return times


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of the packages that are installed."""
    installed = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[package] = importlib.metadata.version(package)
    return installed
