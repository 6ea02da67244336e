"""Find the fastest settings of TorchServe's `image_classifier`, so that it is compared at its best."""

import dataclasses
import json
import os
import subprocess
from typing import Any

from benchmarks.comparison import rows
from benchmarks.comparison.rows import Bench
from benchmarks.comparison.session import COMPILING, Session
from benchmarks.harness.servers import NotMeasured
from benchmarks.peers import stock
from benchmarks.traffic import closed_loop
from benchmarks.traffic.closed_loop import LoadError
from handlers.atomic import write_json
from handlers.run_folder import RunFolder
from training.run import machine, versions


def best(session: Session, quick: bool) -> tuple[stock.Setting, list[dict[str, Any]]]:
    """Return the setting with the highest rate at the highest number of connections, and the rates of all settings.

    The result is cached in the work folder, for the same machine, packages and weights.
    """
    tried = stock.candidates(len(os.sched_getaffinity(0)))
    cache = session.bench.work / "stock.json"
    key = _key(session.bench)
    cached = json.loads(cache.read_text()) if cache.is_file() else {}
    if cached.get("key") == key:
        return stock.Setting(**cached["best"]), cached["tried"]
    if quick:
        return tried[0], []
    entries, body, connections = [], next(iter(session.images)), max(session.connections)
    for setting in tried:
        session.log(f"searching the best settings of image_classifier: {setting.title}")
        entry: dict[str, Any] = {**dataclasses.asdict(setting), "requests_per_second": 0.0, "reason": None}
        try:
            with rows.stock_server(setting)(session.bench) as running:
                load: dict[str, Any] = {"bodies": session.images[body], "headers": running.headers}
                # A compiled network is compiled again for the first batches of other sizes.
                closed_loop.run(
                    running.url, connections=connections, seconds=COMPILING if setting.compiled else 2, **load
                )
                running.ask(session.bench.probe)
                rate = closed_loop.run(running.url, connections=connections, seconds=5, **load).requests_per_second
                entry["requests_per_second"] = round(rate, 2)
                session.log(f"  {rate:.1f}/s")
        except (NotMeasured, LoadError, OSError, subprocess.SubprocessError) as error:
            entry["reason"] = str(error)
            session.log(f"  {error}")
        entries.append(entry)
    place = max(range(len(entries)), key=lambda place: entries[place]["requests_per_second"])
    write_json(cache, {"key": key, "best": dataclasses.asdict(tried[place]), "tried": entries})
    return tried[place], entries


def _key(bench: Bench) -> str:
    """Return a key of the weights, the machine and torch, on which the best settings depend."""
    run = json.loads(RunFolder(bench.root / bench.run).training.read_text())
    about = machine("cpu")
    return f"{run['key']} {about['processor']} {about['cores']} {versions()['torch']}"
