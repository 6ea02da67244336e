"""The command line of every peer."""

import argparse
from pathlib import Path


def parse() -> argparse.Namespace:
    """Return `run` (a folder with model.pt), `port`, `precision`, `workers`, their `threads`, `batch`, `delay` (ms)."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--delay", type=float, default=5.0)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--bodies", type=Path, action="append", default=[])
    return parser.parse_known_args()[0]
