"""How many images a second does each network answer in process, in each precision, beside ResNet-18?

    python -m benchmarks.networks [--rounds 9] [--networks efficientnet_lite0 resnet18 ...]

Networks of training/configs/network/ with random weights, on which speed does not depend, at 224 x 224 on one core of a
CPU, in the engine of a worker: TorchScript, frozen, its layers fused; int8 from `training.quantization`. All networks
take turns in one precision and batch size, so that other load of the machine affects all of them.

Prints a table and, as its last line, one JSON document; writes benchmarks/results/networks.json.
"""

import statistics
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import console, resnet
from benchmarks.int8 import Kind, UnavailableError, ours
from benchmarks.interleave import Work, one_core, take_turns
from benchmarks.result import TRAINING, Origin
from handlers.network.precision import gains_from_bf16
from training.configuration import ConfigurationError

RESULT = Path("benchmarks/results/networks.json")
NETWORKS = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "resnet18d_half", "resnet18", "resnet50")
REFERENCE = "resnet18"
BATCHES, TURN = (1, 8), 0.2  # images, seconds
CALIBRATION = 16  # images


def measure(kinds: dict[str, Kind], images: torch.Tensor, precision: str, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each network and batch size; `ratio` is to ResNet-18 in the same round: median and range."""
    rows = []
    for batch in BATCHES:
        works: dict[str, Work] = {
            name: partial(network, inputs(images[:batch])) for name, (inputs, network) in kinds.items()
        }
        times = take_turns(works, rounds, TURN)
        for name, seconds in times.items():
            rates = [batch / time for time in seconds]
            ratios = [theirs / own for theirs, own in zip(times[REFERENCE], seconds, strict=True)]
            rows.append(
                {
                    "network": name,
                    "precision": precision,
                    "batch": batch,
                    "images_per_second": round(statistics.median(rates), 1),
                    "range": [round(min(rates), 1), round(max(rates), 1)],
                    "ratio": round(statistics.median(ratios), 3),
                    "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
                }
            )
    return rows


@torch.no_grad()
def main(arguments: Sequence[str]) -> int:
    """Measure the networks of the command line."""
    parser = console.parser("networks", __doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), help=f"default: {' '.join(NETWORKS)}")
    options = parser.parse_args(arguments)
    names = list(dict.fromkeys([*options.networks, REFERENCE]))
    origin = Origin("networks", arguments, code=TRAINING)
    random = torch.Generator().manual_seed(0)
    images = torch.randn(CALIBRATION, 3, resnet.SIDE, resnet.SIDE, generator=random)
    bf16 = ["bf16"] if gains_from_bf16(torch.device("cpu")) else []
    rows = []
    try:
        networks = {name: resnet.untrained(network=name) for name in names}
        for precision in ("fp32", *bf16, "int8"):
            with tempfile.TemporaryDirectory() as folder, one_core():
                spec = resnet.spec()
                kinds = {name: ours(net, spec, precision, images, Path(folder)) for name, net in networks.items()}
                rows += measure(kinds, images, precision, options.rounds)
    except (ConfigurationError, UnavailableError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    figures = {
        "image_size": resnet.SIDE,
        "number_of_rounds": options.rounds,
        "parameters": {name: sum(w.numel() for w in net.parameters()) for name, net in networks.items()},
        "cores_used": 1,
        "engine_of_int8": torch.backends.quantized.engine,
        "rows": rows,
    }
    head = ("network", "precision", "batch", "images/s (range)", f"times {REFERENCE} (range)")
    cells = [
        (
            *(str(row[name]) for name in ("network", "precision", "batch")),
            "{:.1f} ({:.1f} to {:.1f})".format(row["images_per_second"], *row["range"]),
            "{:.2f} ({:.2f} to {:.2f})".format(row["ratio"], *row["ratio_range"]),
        )
        for row in rows
    ]
    console.print_table(f"networks at {resnet.SIDE} x {resnet.SIDE}, one core", head, cells)
    return origin.publish(figures, RESULT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
