"""The simulation of queues: it agrees with theory where there is one, and with the machine that made its figures."""

import statistics
from pathlib import Path

import pytest
import yaml

pytest.importorskip(
    "simpy", reason=".venv/bin/uv pip install --require-hashes -r requirements-kubernetes.txt is missing"
)
from benchmarks import capacity
from benchmarks.capacity import Machine, Run

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_one_worker_without_batches_is_as_pollaczek_and_khinchine_say(share: float) -> None:
    service = 0.01
    run = Run(Machine(1, 1, service, 0.0), seed=1)
    run.open(share / service)
    expected = service + share * service / (2 * (1 - share))  # the mean of M/D/1
    assert statistics.mean(run.latencies) == pytest.approx(expected, rel=0.15)


def test_full_batches_give_the_best_rate() -> None:
    machine = Machine(2, 4, 0.02, 0.005)
    assert machine.best() == pytest.approx(2 * 4 / 0.04)
    assert Run(machine).closed(64) == pytest.approx(machine.best(), rel=0.02)


def test_a_machine_is_known_again_by_its_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "SECONDS", 20.0)
    machine = Machine(2, 8, 0.02, 0.005)
    rates = {connections: Run(machine).closed(connections) for connections in (16, 64)}
    again = capacity.fitted(rates, 2, 8)
    assert Run(again).closed(16) == pytest.approx(rates[16], rel=0.05)
    assert again.best() == pytest.approx(machine.best(), rel=0.05)


def test_a_stricter_limit_leaves_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "SECONDS", 20.0)
    machine = Machine(2, 8, 0.02, 0.005)
    assert 0 < capacity.usable(machine, 0.1) < capacity.usable(machine, 0.5) < machine.best()
    assert capacity.usable(machine, 0.01) == 0


def test_each_price_has_a_day_and_a_source() -> None:
    for price in yaml.safe_load((ROOT / capacity.PRICES).read_text()):
        assert price["source"].startswith("https://") and price["date"].count("-") == 2 and price["hour"] > 0
