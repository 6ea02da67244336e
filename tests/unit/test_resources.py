from pathlib import Path

import pytest

from handlers import machine
from handlers.machine import THREADS_VARIABLE
from serving.errors import ServingError
from serving.host import resources as shares_module
from serving.host.resources import JAVA_VARIABLES, Resources

GB = 10**9


@pytest.mark.parametrize(
    ("models", "cores", "memory", "gpus", "expected"),
    [
        (1, 2, 24 * GB, 0, (2, 1)),
        (1, 16, 128 * GB, 0, (16, 1)),
        (1, 16, 8 * GB, 0, (3, 5)),  # a third of the memory holds three
        (2, 8, 64 * GB, 0, (4, 1)),
        (3, 8, 64 * GB, 0, (2, 1)),
        (5, 2, 24 * GB, 0, (1, 1)),
        (3, 8, 3 * GB, 0, (1, 2)),
        (1, 1, 1 * GB, 0, (1, 1)),
        (2, 16, 128 * GB, 1, (1, 8)),
        (1, 16, 128 * GB, 4, (4, 4)),
    ],
)
def test_cores_and_memory_are_shared_out(
    models: int, cores: int, memory: int, gpus: int, expected: tuple[int, int]
) -> None:
    shares = Resources.of(models, cores=cores, memory=memory, gpus=gpus)
    assert (shares.workers, shares.threads) == expected
    assert 256 <= shares.heap <= 2048 and f"-Xmx{shares.heap}m" in shares.java()
    assert ("TieredStopAtLevel" in shares.java()) is ("ParallelGC" in shares.java()) is (gpus == 0)


def test_what_somebody_wrote_himself_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in JAVA_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    shares = Resources(workers=3, threads=2, heap=700)
    ours = "-Xmx700m -XX:TieredStopAtLevel=1 -XX:+UseParallelGC"
    written = "vmargs=-XX:+A -Db=c\n"
    assert shares.properties(written) == f"default_workers_per_model=3\nvmargs=-XX:+A -Db=c {ours}\n"
    commented = "#default_workers_per_model=1\n# vmargs=-Xmx1g\n"
    assert shares.properties(commented) == f"default_workers_per_model=3\nvmargs= {ours}\n"
    his = "-Xmx1g -XX:TieredStopAtLevel=4 -XX:+UseSerialGC"
    assert shares.properties(f"default_workers_per_model = 1\n vmargs = {his}\n") == "\n"
    for name in JAVA_VARIABLES:
        with monkeypatch.context() as patch:
            patch.setenv(name, "-XX:+UseG1GC")
            assert shares.properties(written).endswith("vmargs=-XX:+A -Db=c -Xmx700m -XX:TieredStopAtLevel=1\n")


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("-XX:MaxRAMPercentage=50", "-XX:TieredStopAtLevel=1 -XX:+UseParallelGC"),
        ("-XX:MaxHeapSize=1g -XX:-UseG1GC", "-XX:TieredStopAtLevel=1 -XX:+UseParallelGC"),
        ("-Xmx1g @options.txt", "-XX:TieredStopAtLevel=1"),
        ("-Xmx1g -XX:Flags=.hotspotrc -XX:TieredStopAtLevel=4", ""),
        ("-Dmail=me@here", "-Xmx700m -XX:TieredStopAtLevel=1 -XX:+UseParallelGC"),
    ],
)
def test_options_of_java_are_added_beside_those_that_somebody_chose(told: str, expected: str) -> None:
    assert Resources(workers=3, threads=2, heap=700).java(told) == expected


def test_beside_a_gpu_the_metrics_of_the_machine_are_collected_without_those_of_the_gpu() -> None:
    shares = Resources(workers=1, threads=2, heap=700, has_gpu=True)
    assert shares.properties("").splitlines()[2:] == ["system_metrics_cmd=ts/metrics/metric_collector.py --gpu 0"]
    assert "system_metrics_cmd" not in shares.properties("system_metrics_cmd=mine\n")


def test_threads_that_the_environment_names_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = Resources(workers=3, threads=2, heap=700)
    monkeypatch.delenv(THREADS_VARIABLE, raising=False)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    assert shares.environment() == {THREADS_VARIABLE: "2", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    monkeypatch.setenv(THREADS_VARIABLE, "5")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=1")
    assert shares.environment() == {}


def test_this_machine_has_shares() -> None:
    shares = Resources.of_this_machine(1)
    assert 1 <= shares.workers * shares.threads <= machine.cores()


@pytest.mark.parametrize(
    ("build", "visible", "expected"),
    [("2.15.0", None, 2), ("2.15.0", "", 0), ("2.15.0", "-1", 0), ("2.15.0", "1", 1), ("2.15.0+cpu", None, 0)],
)
def test_gpus_are_those_that_torch_will_find(
    build: str, visible: str | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _: build)
    monkeypatch.setattr(Path, "glob", lambda *_: iter([Path("/dev/nvidia0"), Path("/dev/nvidia1")]))
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert shares_module.gpus() == expected


def test_a_number_of_workers_that_is_none_is_named() -> None:
    shares = Resources(workers=3, threads=2, heap=700)
    assert (shares.workers_of(""), shares.workers_of("default_workers_per_model=5\n")) == (3, 5)
    with pytest.raises(ServingError, match="default_workers_per_model is 'two', write a whole number"):
        shares.workers_of("default_workers_per_model=two\n")


def test_a_gpu_gets_one_worker_and_the_cpu_all() -> None:
    assert Resources.of(1, cores=4, memory=64 * 10**9).per_device == 4
    assert Resources.of(1, cores=4, memory=64 * 10**9, gpus=2).per_device == 1
