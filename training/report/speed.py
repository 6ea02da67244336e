"""How many images a second the network of a run answers in this process, in each precision that the machine gains from.

Only the network: neither decoding nor TorchServe. Another program that computes at the same time slows it.
"""

import statistics
import time
from typing import Any

import torch
from rich.console import Console

from handlers.network.engine import Engine
from handlers.network.precision import by_speed
from handlers.run_folder import RunFolder
from training.configuration import ConfigurationError
from training.data.progress import progress
from training.predictions import open_classifier
from training.run import machine

BATCHES = (1, 8)
SECONDS = 1.0  # of each measurement
LEAST_CALLS = 3


def measure(run: RunFolder, console: Console) -> dict[str, Any]:
    """Return images/s by precision and batch size on the CPU, and the machine."""
    precisions = [*by_speed(torch.device("cpu")), *(["int8"] if run.int8_model.is_file() else [])]
    rates = {}
    with progress(console, "measuring the speed", len(precisions)) as advance:
        for precision in precisions:
            advance(1)
            try:
                engine = open_classifier(run.path, precision).engine  # one at a time: see `torchscript.fused`
            except ConfigurationError as error:
                if precision != "int8":
                    raise
                console.print(f"warning: int8 was not measured: {error}", highlight=False)  # of another processor
                continue
            engine.warm_up(BATCHES[-1])
            rates[precision] = {str(count): round(_rate(engine, count), 1) for count in BATCHES}
    return {"images_per_second": rates, "threads": torch.get_num_threads(), "machine": machine("cpu")}


def _rate(engine: Engine, count: int) -> float:
    """Return images/s of batches of `count`, by the median time of a call."""
    batch = engine.buffer(count)
    batch.copy_(torch.randn(batch.shape, generator=torch.Generator().manual_seed(0)))
    times: list[float] = []
    while len(times) < LEAST_CALLS or sum(times) < SECONDS:
        start = time.perf_counter()
        engine(batch)
        times.append(time.perf_counter() - start)
    return count / statistics.median(times)
