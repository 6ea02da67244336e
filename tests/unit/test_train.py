import csv
import itertools
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from handlers import golden
from handlers.classifier import Classifier
from handlers.network import torchscript
from handlers.spec import PreprocessSpec
from tests.unit.tinted_store import CLASSES, TINY, tinted_store
from training import export
from training.cards import cards
from training.configuration import ConfigurationError, compose, plain
from training.data import tfrecord
from training.module import Classification
from training.optimizers import make_optimizer, make_schedule
from training.pace import PLANNED, fitting_epochs
from training.train import main, train

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tinted_store(tmp_path_factory.mktemp("project"))


@pytest.fixture(autouse=True)
def _in_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


def tiny(name: str, *overrides: str) -> tuple[Path, list[str]]:
    said: list[str] = []
    return train(compose([*TINY, f"name={name}", *overrides]), said.append), said


def metrics(run: Path) -> list[dict[str, float]]:
    with open(run / "metrics.csv") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def command(name: str, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "training.train", *TINY, f"name={name}", *overrides]


def test_a_run_learns_and_leaves_everything_behind() -> None:
    run, said = tiny("whole")
    left = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert left == {
        *(
            "config.yaml",
            "environment.txt",
            "metrics.csv",
            "curves.png",
            "train.json",
            "model.pt",
            "model.int8.pt",
            "golden.json",
            "validation.npz",
            "export.json",
        ),
        *("checkpoints/key", "checkpoints/last.ckpt", "checkpoints/best.ckpt"),
    }
    document = json.loads((run / "train.json").read_text())
    assert document["epochs"] == 3 and document["best"]["validation_accuracy"] >= 0.8
    assert document["images"]["train"] + document["images"]["validation"] == 54
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert all(math.isfinite(value) for row in metrics(run) for value in row.values())
    assert sum("images/s" in line and "left" in line for line in said) == 3
    kept = golden.read(run / "golden.json")
    own = [each.name for each in kept if not each.drawn]
    assert own == [f"image-{number}" for number in range(len(own))] and len(CLASSES) <= len(own) <= 8
    assert {each.name for each in kept if each.drawn} == set(cards(16))
    assert golden.check(Classifier(run / "model.pt"), kept) < 1e-6
    spec = torchscript.load(run / "model.pt").spec
    assert spec.classes == CLASSES and spec.network == "cnn" and spec.preprocess.image_size == 16
    assert spec.provenance["fingerprint"] == document["fingerprint"]


def test_a_long_epoch_shows_its_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any("batch" in line for line in tiny("short", "trainer.epochs=1")[1])
    monkeypatch.setattr("training.checkpoints.SECONDS_BETWEEN_LINES", 0.0)
    _, said = tiny("long", "trainer.epochs=2")
    assert [line for line in said if "batch" in line] == [
        f"epoch   {epoch}/2  batch {batch} of 6" for epoch in (1, 2) for batch in range(1, 7)
    ]


def test_classes_with_few_images_are_named_before_training() -> None:
    _, said = tiny("few", "trainer.epochs=1", "split.images_per_class=4")
    assert said[0].startswith(f"fewer than 10 images to train on: {len(CLASSES)} classes, '{CLASSES[0]}' 4")


def test_what_is_finished_is_left_alone_before_torch_is_imported() -> None:
    tiny("finished")
    arguments = [*TINY, "name=finished"]
    code = f"import sys; from training.train import main; main({arguments}); assert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "runs/finished is up to date"


def test_the_same_seed_gives_the_same_metrics_and_another_seed_does_not() -> None:
    first, second, other = (tiny(name, f"seed={seed}")[0] for name, seed in (("one", 1), ("two", 1), ("three", 2)))
    assert (first / "metrics.csv").read_bytes() == (second / "metrics.csv").read_bytes()
    assert (first / "metrics.csv").read_bytes() != (other / "metrics.csv").read_bytes()


def test_a_killed_run_goes_on_as_if_it_had_not_been_killed() -> None:
    whole, _ = tiny("unbroken", "trainer.epochs=6", "trainer.ema=0.9")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    line = command("broken", "trainer.epochs=6", "trainer.ema=0.9")
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        next(said for said in process.stdout if said.startswith("epoch   2/6"))
        process.send_signal(signal.SIGKILL)
    assert not Path("runs/broken/train.json").exists()
    _, said = tiny("broken", "trainer.epochs=6", "trainer.ema=0.9")
    assert any("resuming" in line for line in said)
    assert not any(line.startswith(("epoch   1/6", "epoch   2/6")) for line in said)
    assert Path("runs/broken/metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


def test_a_changed_configuration_starts_anew() -> None:
    tiny("changed")
    run, said = tiny("changed", "trainer.lr=0.01")
    assert "starting again" in said[0] and len(metrics(run)) == 3
    _, said = tiny("changed", "trainer.lr=0.01", "tracking=csv")
    assert said == ["runs/changed is up to date"]


@pytest.fixture(scope="module")
def plainly(root: Path) -> list[dict[str, float]]:
    """Return the metrics of two epochs with nothing asked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        return metrics(tiny("plainly", "trainer.epochs=2", "trainer.precision=fp32")[0])


@pytest.mark.parametrize(
    "option",
    [
        "trainer.optimizer=adamw",
        "trainer.schedule=constant",
        "trainer.ema=0.5",
        "trainer.mix={mixup: 0.2, cutmix: 1.0, p: 0.8}",
        "trainer.train_size=[8,16]",
        "trainer.gradient_clip=0.01",
        "trainer.precision=bf16",
        "trainer.label_smoothing=0.2",
    ],
)
def test_each_option_of_the_trainer_changes_what_is_learned(plainly: list[dict[str, float]], option: str) -> None:
    fp32 = [] if "precision" in option else ["trainer.precision=fp32"]
    run, _ = tiny("options", "trainer.epochs=2", *fp32, option)
    # The average of weights is what is validated; everything else changes the steps.
    column = "validation_loss" if "ema" in option else "train_loss"
    assert [row[column] for row in metrics(run)] != [row[column] for row in plainly]
    assert json.loads((run / "train.json").read_text())["precision"] == ("bf16" if "bf16" in option else "fp32")
    assert (run / "model.pt").is_file()


def test_training_images_grow_over_the_epochs_in_steps_of_16() -> None:
    settings = plain(compose([*TINY, "dataset.image_size=64", "trainer.train_size=[24,64]", "trainer.epochs=5"]))
    module = Classification(settings, CLASSES, PreprocessSpec(image_size=64))
    assert [module._train_size(epoch) for epoch in range(5)] == [24, 24, 40, 40, 64]


def test_without_validation_images_the_artifact_is_held_to_training_images(monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = tiny("unvalidated", "split.validation=0.0", "trainer.epochs=1")
    document = json.loads((run / "export.json").read_text())
    trained = json.loads((run / "train.json").read_text())["images"]
    assert document["images"] == trained["train"] > 0 == trained["validation"]
    assert document["different_top1"] == 0 and not document["int8"]["offered"]
    load = torchscript.load

    def broken(path: Path, device: str = "cpu") -> torchscript.Artifact:
        loaded = load(path, device)
        with torch.no_grad():
            dict(loaded.module.named_parameters())["head.weight"].mul_(1.1)
        return loaded

    monkeypatch.setattr(torchscript, "load", broken)
    assert export.main(["name=unvalidated"]) == 1


def test_the_best_epoch_is_exported_and_not_the_last() -> None:
    # With such a rate after the warm-up the network forgets what it had learned.
    quickly = ("trainer.lr=3.0", "trainer.schedule=constant", "trainer.warmup=0.9", "trainer.ema=0")
    run, _ = tiny("best", "trainer.epochs=4", *quickly)
    rows = metrics(run)
    best = min(rows, key=lambda row: row["validation_loss"])
    document = json.loads((run / "train.json").read_text())
    assert document["best"]["epoch"] == best["epoch"]
    state = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    assert state["epoch"] + 1 == best["epoch"]
    head = state["state_dict"]["network.head.weight"]
    assert torch.equal(torchscript.load(run / "model.pt").module.state_dict()["head.weight"], head)


def test_as_many_epochs_are_trained_as_the_time_allows() -> None:
    run, said = tiny("hurried", "trainer.max_minutes=0.0001", "trainer.epochs=50", "trainer.schedule=cosine")
    assert len(metrics(run)) == 1 and (run / "model.pt").is_file()
    assert any("epoch   1/1" in line for line in said)
    run, _ = tiny("unhurried", "trainer.max_minutes=60", "trainer.epochs=2")
    assert len(metrics(run)) == 2


def test_a_resumed_run_keeps_its_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.pace.fitting_epochs", lambda *_: 3)
    hurried = ("trainer.max_minutes=60", "trainer.epochs=9", "trainer.schedule=cosine")
    run, said = tiny("planned", *hurried)
    assert len(metrics(run)) == 3 and metrics(run)[-1]["lr"] < 0.01
    assert any("planning 3 of 9 epochs" in line for line in said)
    told = json.loads((run / "train.json").read_text())
    assert (told["planned_epochs"], told["wanted_epochs"]) == (3, 9)

    def again(*_: Any) -> int:
        raise AssertionError("planned twice")

    monkeypatch.setattr("training.pace.fitting_epochs", again)
    (run / "train.json").unlink()  # killed after its last epoch
    tiny("planned", *hurried)
    assert len(metrics(run)) == 3


def test_as_many_epochs_are_planned_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    # Half a second a step, once they are warm, but for two that the machine was busy with something else.
    steps = (100.0, 100.0, 0.5, 90.0, 0.5, 0.5, 60.0)
    clock = itertools.accumulate(itertools.chain.from_iterable((0.0, each) for each in itertools.cycle(steps)))
    monkeypatch.setattr("training.pace.time.perf_counter", lambda: next(clock))
    spec = PreprocessSpec(image_size=16)
    config = plain(compose([*TINY, "trainer.epochs=1000", "trainer.max_minutes=10"]))
    # 80 images in batches of 8: ten steps of half a second each
    assert fitting_epochs(config, CLASSES, spec, 80) == pytest.approx(600 * PLANNED / 5)
    assert fitting_epochs({**config, "trainer": {**config["trainer"], "epochs": 7}}, CLASSES, spec, 80) == 7
    assert fitting_epochs(config, CLASSES, spec, 80_000) == pytest.approx(600 * PLANNED / 5000)


@pytest.mark.parametrize("planned", [0.5, 1.5])
def test_parts_of_epochs_are_trained_where_whole_ones_do_not_fit(
    planned: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.pace.fitting_epochs", lambda *_: planned)
    name, epochs = f"part-{planned}", int(planned + 0.5)
    run, said = tiny(name, "trainer.max_minutes=60", "trainer.epochs=9", "trainer.schedule=cosine")
    whole, _ = tiny(f"whole-{epochs}", f"trainer.epochs={epochs}", "trainer.schedule=cosine")
    assert any(f"planning {planned} of 9 epochs" in line for line in said)
    told = json.loads((run / "train.json").read_text())
    assert (told["epochs"], told["planned_epochs"], told["wanted_epochs"]) == (planned, planned, 9)
    assert len(metrics(run)) == epochs
    assert metrics(run)[-1]["lr"] == pytest.approx(metrics(whole)[-1]["lr"], abs=1e-3)
    steps = [torch.load(each / "checkpoints/last.ckpt", weights_only=False)["global_step"] for each in (run, whole)]
    assert steps[0] == int(steps[1] / epochs * planned / epochs) * epochs


@pytest.mark.parametrize("kind", ["onecycle", "cosine"])
def test_training_that_is_slow_for_a_while_ends_with_its_schedule(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.pace.fitting_epochs", lambda *_: 5)
    # Of half a minute two thirds pass with 20 of 65 batches, and then the machine is fast.
    clock = itertools.accumulate(itertools.chain(itertools.repeat(1.0, 25), itertools.repeat(0.01)))
    monkeypatch.setattr("training.checkpoints.time.perf_counter", lambda: next(clock))
    schedule = (f"trainer.schedule={kind}", "trainer.batch_size=4", "trainer.max_minutes=0.5", "trainer.epochs=50")
    run, said = tiny(f"slow-{kind}", *schedule)
    assert any("stopping:" in line for line in said) and metrics(run)[-1]["lr"] < compose(TINY).trainer.lr / 50
    assert json.loads((run / "train.json").read_text())["epochs"] < 4


def test_training_that_is_slower_than_planned_ends_in_time_with_a_low_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.pace.fitting_epochs", lambda *_: 50)
    seconds = itertools.count()
    monkeypatch.setattr("training.checkpoints.time.perf_counter", lambda: float(next(seconds)))
    schedule = ("trainer.schedule=cosine", "trainer.warmup=0.1", "trainer.batch_size=4")
    run, said = tiny("slow", "trainer.max_minutes=0.5", "trainer.epochs=50", *schedule)
    assert any("stopping: trainer.max_minutes=0.5 are over" in line for line in said) and (run / "model.pt").is_file()
    told = json.loads((run / "train.json").read_text())
    assert sum(told["seconds_by_epoch"]) == pytest.approx(30, abs=5)
    assert told["epochs"] < len(metrics(run)) < 50
    peak = compose(TINY).trainer.lr
    assert metrics(run)[0]["lr"] > peak / 2 and metrics(run)[-1]["lr"] < peak / 50
    (run / "train.json").unlink()  # killed after its last batch
    tiny("slow", "trainer.max_minutes=0.5", "trainer.epochs=50", *schedule)
    assert json.loads((run / "train.json").read_text())["epochs"] == told["epochs"]


def test_frozen_features_stay_until_they_are_unfrozen() -> None:
    source, _ = tiny("source", "trainer.epochs=1")
    start = f"network.weights={source}/checkpoints/best.ckpt"
    first = torchscript.load(source / "model.pt").module.state_dict()
    frozen, _ = tiny("frozen", start, "network.freeze=features")
    thawed, _ = tiny("thawed", start, "network.freeze=features", "network.unfreeze_epoch=1", "trainer.epochs=2")
    for run, same in ((frozen, True), (thawed, False)):
        last = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        kept = [torch.equal(first[name], last[f"network.{name}"]) for name in first if name.startswith("body.")]
        assert all(kept) is same
        assert not torch.equal(first["head.weight"], last["network.head.weight"])


def test_a_loss_that_is_not_finite_says_what_to_lower(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "name=wild", "trainer.lr=1e30", "trainer.schedule=constant", "trainer.warmup=0"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: the loss is") and "lower trainer.lr" in error and error.count("\n") == 1
    assert not Path("runs/wild/model.pt").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["store=nothing"], "data/processed/nothing: no prepared data set"),
        (["dataset.image_size=32"], "prepared with dataset.image_size=16"),
        (["dataset.interpolation=bicubic"], "prepared with dataset.interpolation=bilinear"),
        (["trainer.epochs=0"], "trainer.epochs is 0"),
        (["trainer.batch_size=many"], "trainer.batch_size is 'many'"),
        (["trainer.lr=null"], "trainer.lr is None"),
        (["trainer.max_minutes=0"], "trainer.max_minutes is 0"),
        (["trainer.max_minutes=inf"], "trainer.max_minutes is inf"),
        (["trainer.train_size=64"], "trainer.train_size is 64"),
        (["trainer.optimizer=adam"], "sgd or adamw"),
        (["trainer.schedule=step"], "onecycle, cosine or constant"),
        (["trainer.warmup=1.5"], "trainer.warmup"),
        (["trainer.ema=2"], "trainer.ema"),
        (["trainer.precision=fp64"], "one of auto, fp32, bf16"),
        (["trainer.precision=fp16"], "whose gradients would need to be scaled: write auto"),
        (["trainer.device=tpu"], "auto, cpu or cuda"),
        (["trainer.train_size=[8,64]"], "8 <= start <= end <= 16"),
        (["split.folds=1"], "split.folds"),
        (["tracking.kind=paper"], "csv, tensorboard or wandb"),
    ],
)
def test_mistakes_are_one_line(overrides: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "name=mistaken", *overrides]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_a_transformer_refuses_growing_images() -> None:
    network = ("network=vit", "network.embed_dim=12", "network.depth=1", "trainer.train_size=[8,16]")
    overrides = [item for item in TINY if not item.startswith("network")]
    with pytest.raises(ConfigurationError, match="any size"):
        train(compose([*overrides, "name=grown", *network]), lambda _: None)


def test_encoded_shards_train_as_decoded_images_do() -> None:
    from training.data.prepare import main as prepare

    assert prepare([*TINY, "raw=raw", "name=sharded", "store=sharded", "dataset.store=encoded"]) == 0
    assert not Path("data/processed/sharded/images.npy").exists()
    run = train(compose([*TINY, "name=sharded", "store=sharded", "dataset.store=encoded"]), lambda _: None)
    document = json.loads((run / "train.json").read_text())
    assert document["best"]["validation_accuracy"] >= 0.8
    assert json.loads((run / "export.json").read_text())["images"] == document["images"]["validation"] > 0


def test_tensorboard_shows_the_metrics_of_the_csv_file() -> None:
    from tensorboardX.proto.event_pb2 import Event

    run, _ = tiny("board", "tracking=tensorboard", "trainer.epochs=2")
    (file,) = (run / "tensorboard").glob("events.out.tfevents.*")
    events = [Event.FromString(payload) for _, payload in tfrecord.read(file)]
    logged = [value.simple_value for event in events for value in event.summary.value if value.tag == "validation_loss"]
    assert logged == pytest.approx([row["validation_loss"] for row in metrics(run)], rel=1e-5)


def test_weights_and_biases_work_offline_and_two_runs_of_one_process_are_two(monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("first", "second"):
        run, _ = tiny(name, "tracking=wandb", "trainer.epochs=1")
        assert wandb.run is None, "the run must be finished: another one would write into it"
        (file,) = (run / "wandb").glob("offline-run-*/*.wandb")
        assert b"validation_accuracy" in file.read_bytes() and len(metrics(run)) == 1


def settings(**changes: Any) -> dict[str, Any]:
    return {**plain(compose())["trainer"], **changes}


def test_vectors_do_not_decay() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    decaying, free = make_optimizer(network, settings(weight_decay=0.1)).param_groups
    assert decaying["weight_decay"] == 0.1 and [weight.ndim for weight in decaying["params"]] == [4]
    assert free["weight_decay"] == 0.0 and [weight.ndim for weight in free["params"]] == [1, 1, 1]


@pytest.mark.parametrize(("schedule", "last"), [("onecycle", 0.0), ("cosine", 0.0), ("constant", 1.0)])
def test_schedules_rise_and_end(schedule: str, last: float) -> None:
    trainer = settings(schedule=schedule, warmup=0.2, lr=1.0)
    optimizer = make_optimizer(torch.nn.Linear(2, 2), trainer)
    stepper = make_schedule(optimizer, trainer, 100)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        stepper.step() if len(rates) < 100 else None
    assert rates[0] < 0.1 and max(rates) == pytest.approx(1.0, abs=0.01) and rates[19] > 0.9
    assert rates[-1] == pytest.approx(last, abs=0.01)


def test_averaged_weights_follow_slowly_and_are_those_validated() -> None:
    config = plain(compose([*TINY, "trainer.ema=0.9"]))
    module = Classification(config, CLASSES, PreprocessSpec(image_size=16))
    assert module.average is not None and module.best_network is module.average.module
    module.on_train_batch_end()
    averaged: Any = module.average.module
    before = averaged.head.weight.clone()
    with torch.no_grad():
        module.network.head.weight.add_(1.0)
    module.on_train_batch_end()
    moved = (averaged.head.weight - before).mean()
    assert 0.05 < float(moved) < 0.95  # the decay is still low: (1 + n) / (10 + n)


def test_steps_are_counted_on_the_cpu() -> None:
    config = plain(compose([*TINY, "trainer.ema=0.9"]))
    module = Classification(config, CLASSES, PreprocessSpec(image_size=16))
    module.to("meta")
    assert module.average is not None and module.average.n_averaged.device.type == "cpu"
    assert {each.device.type for each in module.average.module.parameters()} == {"meta"}


def test_a_batch_in_bf16_stays_so_until_it_is_normalised() -> None:
    settings = plain(
        compose([*TINY, "augmentation=[{op: RandomAffine, degrees: 10}, {op: ColorJitter, contrast: 0.2}]"])
    )
    module = Classification(settings, CLASSES, PreprocessSpec(image_size=16))
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    (augmentation,) = module.augmentations.values()
    operations: Any = augmentation.operations
    given: list[torch.dtype] = []
    for operation in operations:
        operation.change.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0].dtype))
    for dtype in (torch.float32, torch.bfloat16):
        given.clear()
        changed, _ = module.augment(images, torch.zeros(4, dtype=torch.int64), dtype)
        assert given == [torch.float32, dtype], "places in float32, colours in what was asked for"
        assert changed.dtype == dtype and 0 <= float(changed.min()) <= float(changed.max()) <= 1
        assert module.preprocess.normalize(changed).dtype == torch.float32
