"""Send odd, broken and hostile images to a running server, singly and among good ones, and report what changes."""

import collections
import dataclasses
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from serving.client import Client, Prediction, RequestRefused

TOLERANCE = 1e-4  # of a neighbour's probability: other batch sizes round otherwise
MEMORY = 10**9  # bytes


@dataclasses.dataclass
class Report:
    """What happened to the files, and to everything near them."""

    files: int = 0
    answers: dict[str, int] = dataclasses.field(default_factory=dict)  # "answered", or the status and type of a refusal
    unexplained: list[str] = dataclasses.field(default_factory=list)  # neither an answer nor a 4xx with a reason
    otherwise_in_batch: list[str] = dataclasses.field(default_factory=list)  # alone and in a batch not the same
    neighbours: int = 0
    neighbours_changed: list[str] = dataclasses.field(default_factory=list)
    workers_died: bool = False
    memory_grown: int = 0  # bytes, of the worker that grew most
    slowest: float = 0.0  # seconds, of one odd file alone
    slowest_file: str = ""

    @property
    def passed(self) -> bool:
        """Return whether all that must hold does."""
        faults = self.unexplained or self.otherwise_in_batch or self.neighbours_changed or self.workers_died
        return not faults and self.memory_grown < MEMORY


def probe(client: Client, model: str, files: Sequence[Path], good: Sequence[bytes]) -> Report:
    """Send each file alone, and then again at once with all of `good`, and return what happened.

    The server builds batches of what comes together, so the neighbours are sent from threads of their own.
    """
    report = Report(files=len(files))
    references = [client.predict(image, model) for image in good]
    before = {worker.pid: psutil.Process(worker.pid).memory_info().rss for worker in client.describe(model).workers}
    counts: collections.Counter[str] = collections.Counter()
    with ThreadPoolExecutor(len(good) + 1) as pool:
        for path in files:
            data = path.read_bytes()
            began = time.perf_counter()
            alone = ask(client, data, model)
            seconds = time.perf_counter() - began
            if seconds > report.slowest:
                report.slowest, report.slowest_file = seconds, path.name
            half = len(good) // 2
            asked = [pool.submit(ask, client, image, model) for image in (*good[:half], data, *good[half:])]
            answers = [each.result() for each in asked]
            together = answers.pop(half)
            counts[_kind(alone)] += 1
            if isinstance(alone, str):
                report.unexplained.append(f"{path.name}: {alone}")
            if not _same(alone, together):
                report.otherwise_in_batch.append(f"{path.name}: {_kind(alone)} alone, {_kind(together)} in a batch")
            for reference, answer in zip(references, answers, strict=True):
                report.neighbours += 1
                if not _same(reference, answer):
                    report.neighbours_changed.append(f"beside {path.name}: {_kind(answer)}")
    report.answers = dict(counts.most_common())
    after = {worker.pid for worker in client.describe(model).workers}
    report.workers_died = after != set(before)
    report.memory_grown = max((peak_memory(pid) - before[pid] for pid in after & set(before)), default=0)
    return report


def peak_memory(pid: int) -> int:
    """Return the most bytes that a process ever held in memory; what it holds now where the system does not say."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        (line,) = [each for each in lines if each.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return int(psutil.Process(pid).memory_info().rss)


def ask(client: Client, image: bytes, model: str) -> Prediction | RequestRefused | str:
    try:
        return client.predict(image, model)
    except RequestRefused as refusal:
        return refusal if refusal.message else f"{refusal.code} without a reason"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _kind(answer: Prediction | RequestRefused | str) -> str:
    if isinstance(answer, RequestRefused):
        return f"{answer.code} {answer.kind}"
    return answer if isinstance(answer, str) else "answered"


def _same(one: Prediction | RequestRefused | str, other: Prediction | RequestRefused | str) -> bool:
    if isinstance(one, Prediction) and isinstance(other, Prediction):
        # Labels of equal probability may swap places; what is missing from one answer's top-k counts as its least.
        least = min((*one.probabilities.values(), *other.probabilities.values()))
        labels = set(one.probabilities) | set(other.probabilities)
        pairs = ((one.probabilities.get(k, least), other.probabilities.get(k, least)) for k in labels)
        return all(abs(a - b) <= TOLERANCE for a, b in pairs)
    return _kind(one) == _kind(other) and not isinstance(one, str)
