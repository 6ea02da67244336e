"""The settings at which TorchServe's own `image_classifier` is fastest, so that it is compared at its best."""

import dataclasses
import json
import os
import subprocess
from typing import Any

from benchmarks import closed_loop, serving_rows
from benchmarks.closed_loop import LoadError
from benchmarks.peers import stock
from benchmarks.servers import NotMeasured
from benchmarks.serving_rows import Bench
from benchmarks.serving_session import COMPILING, Session
from handlers.atomic import write_json
from training.train import machine, versions


def best(session: Session, quick: bool) -> tuple[stock.Setting, list[dict[str, Any]]]:
    """Return the setting of TorchServe's own handler with the highest rate at the most connections, and all tried.

    What was found stays beside the runs for as long as machine, packages and weights are the same.
    """
    tried = stock.candidates(len(os.sched_getaffinity(0)))
    kept = session.bench.work / "stock.json"
    key = _key(session.bench)
    known = json.loads(kept.read_text()) if kept.is_file() else {}
    if known.get("key") == key:
        return stock.Setting(**known["best"]), known["tried"]
    if quick:
        return tried[0], []
    found, body, most = [], next(iter(session.images)), max(session.connections)
    for setting in tried:
        session.say(f"searching the best settings of image_classifier: {setting.title}")
        entry: dict[str, Any] = {**dataclasses.asdict(setting), "requests_per_second": 0.0, "reason": None}
        try:
            with serving_rows.stock_server(setting)(session.bench) as running:
                load: dict[str, Any] = {"bodies": session.images[body], "headers": running.headers}
                # A compiled network is compiled again for the first batches of other sizes.
                closed_loop.run(running.url, connections=most, seconds=COMPILING if setting.compiled else 2, **load)
                running.ask(session.bench.probe)
                rate = closed_loop.run(running.url, connections=most, seconds=5, **load).requests_per_second
                entry["requests_per_second"] = round(rate, 2)
                session.say(f"  {rate:.1f}/s")
        except (NotMeasured, LoadError, OSError, subprocess.SubprocessError) as error:
            entry["reason"] = str(error)
            session.say(f"  {error}")
        found.append(entry)
    place = max(range(len(found)), key=lambda each: found[each]["requests_per_second"])
    write_json(kept, {"key": key, "best": dataclasses.asdict(tried[place]), "tried": found})
    return tried[place], found


def _key(bench: Bench) -> str:
    """Return what the best settings of the stock handler depend on."""
    run = json.loads((bench.root / bench.run / "train.json").read_text())
    about = machine("cpu")
    return f"{run['key']} {about['processor']} {about['cores']} {versions()['torch']}"
