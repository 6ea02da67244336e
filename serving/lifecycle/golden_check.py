"""Ask a version that is served its golden images: whether it answers as it was exported, and how fast."""

import dataclasses
import statistics
import time
from collections.abc import Mapping, Sequence

from handlers import golden
from handlers.golden import Golden, GoldenError
from serving.client import Client, ClientError, Prediction
from serving.errors import ServingError


class WrongAnswer(ServingError):
    """A golden image's answer differs from the exported one, or is missing; the message says which and why."""


@dataclasses.dataclass(frozen=True, slots=True)
class GoldenCheck:
    """Golden images, the classes that their probabilities belong to, and the precision that answers."""

    golden: Sequence[Golden]
    classes: Sequence[str]
    precision: str
    judged: bool = True  # otherwise any answer will do

    def check(self, each: Golden, answer: Mapping[str, float]) -> None:
        """Compare the best labels of one answer with the exported ones.

        Raises:
            WrongAnswer: a probability is off by more than `handlers.tolerances` allows.
        """
        try:
            golden.compare(each, answer, self.classes, self.precision)
        except (GoldenError, AttributeError, TypeError) as error:  # also an answer of another shape
            raise WrongAnswer(str(error)) from error

    def ask(self, client: Client, name: str, version: str | None = None, *, number: int = 0) -> Prediction:
        """Send one golden image (they take turns with `number`) and check the answer.

        Raises:
            WrongAnswer: it is wrong, or there is none.
        """
        each = self.golden[number % len(self.golden)]
        try:
            answer = client.predict(each.image, name, version)
        except ClientError as error:
            raise WrongAnswer(f"golden image {each.name} is not answered ({error})") from error
        if self.judged:
            self.check(each, answer.probabilities)
        return answer


def latencies(client: Client, checks: Mapping[str, GoldenCheck], name: str, rounds: int) -> dict[str, float]:
    """Return the median time of an answer of each version in seconds, asked in turns.

    A version that is not judged and does not answer is left out: the live one may be broken, and about to be replaced.

    Raises:
        WrongAnswer: one is wrong, or there is none.
    """
    taken: dict[str, list[float]] = {version: [] for version in checks}
    for number in range(rounds):
        for version in list(taken):
            start_time = time.perf_counter()
            try:
                checks[version].ask(client, name, version, number=number)
            except WrongAnswer:
                if checks[version].judged:
                    raise
                del taken[version]
            else:
                taken[version].append(time.perf_counter() - start_time)
    return {version: statistics.median(latencies) for version, latencies in taken.items()}
