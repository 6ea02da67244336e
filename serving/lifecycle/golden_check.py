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

    def check(self, image: Golden, answer: Mapping[str, float]) -> None:
        """Compare the best labels of one answer with the exported ones.

        Raises:
            WrongAnswer: a probability is off by more than `handlers.tolerances` allows.
        """
        try:
            golden.compare(image, answer, self.classes, self.precision)
        except (GoldenError, AttributeError, TypeError) as error:  # also an answer of another shape
            raise WrongAnswer(str(error)) from error

    def ask(self, client: Client, name: str, version: str | None = None, *, number: int = 0) -> Prediction:
        """Send one golden image (they take turns with `number`) and check the answer.

        Raises:
            WrongAnswer: it is wrong, or there is none.
        """
        image = self.golden[number % len(self.golden)]
        try:
            answer = client.predict(image.image, name, version, counted=False)
        except ClientError as error:
            raise WrongAnswer(f"golden image {image.name} is not answered ({error})") from error
        if self.judged:
            self.check(image, answer.probabilities)
        return answer

    def time(self, client: Client, name: str, version: str, number: int) -> float | None:
        """Return the seconds that `ask` takes, None if a version that is not judged does not answer.

        Raises:
            WrongAnswer: the answer is judged and wrong, or there is none.
        """
        start_time = time.perf_counter()
        try:
            self.ask(client, name, version, number=number)
        except WrongAnswer:
            if self.judged:
                raise
            return None
        return time.perf_counter() - start_time


def latencies(client: Client, checks: Mapping[str, GoldenCheck], name: str, rounds: int) -> dict[str, float]:
    """Return the median time of an answer of each version in seconds, asked in turns.

    A version that is not judged and does not answer is left out: the live one may be broken, and about to be replaced.

    Raises:
        WrongAnswer: one is wrong, or there is none.
    """
    times: dict[str, list[float]] = {version: [] for version in checks}
    for number in range(rounds):
        for version in list(times):
            seconds = checks[version].time(client, name, version, number)
            if seconds is None:
                del times[version]
            else:
                times[version].append(seconds)
    return {version: statistics.median(seconds) for version, seconds in times.items()}
