"""Progress lines, metrics.csv and checkpoints of a run, and its end when its minutes are over."""

import csv
import io
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from torch.optim.lr_scheduler import LRScheduler

from handlers.atomic import replacing, write_text
from handlers.run_folder import RunFolder
from training.saving import save

COLUMNS = ("epoch", "lr", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy")

SECONDS_BETWEEN_LINES = 20.0  # within an epoch


class Checkpoints(Checkpoint):
    """Writes `metrics.csv`, `checkpoints/last.ckpt` and `checkpoints/best.ckpt` into the folder of a run, each epoch.

    The best checkpoint has the lowest validation loss: on the few dozen validation images of a small data set, accuracy
    moves in steps so large that the luckiest epoch would win, not the best. A fitted head that training starts from
    stays the best until an epoch is at least as accurate. Every file is replaced at once, so that a
    killed process leaves the one before it. `images` is the number of training images of an epoch; `max_minutes` limits
    the total training time of all starts: where training is slower than planned, the schedule of the learning rate
    follows the time, so that the rate has fallen when training ends, in the middle of an epoch if need be.
    """

    def __init__(
        self,
        run: Path,
        images: int,
        max_minutes: float | None,
        say: Callable[[str], None],
        after_epoch: Callable[[Mapping[str, float]], None] | None = None,
    ) -> None:
        self.files = RunFolder(run)
        self.images = images
        self.max_minutes = max_minutes
        self.say = say
        self.after_epoch = after_epoch
        self.rows: list[dict[str, float]] = []
        self.seconds: list[float] = []
        self.is_over = False  # the time
        self.cut = 0.0  # the part of the last epoch that was left out then
        self.best: dict[str, float] | None = None
        self._started = self._reported = 0.0

    def state_dict(self) -> dict[str, Any]:
        time_left = {"is_over": self.is_over, "cut": self.cut}
        return {"rows": self.rows, "seconds": self.seconds, "best": self.best, **time_left}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows, self.seconds, self.best = state_dict["rows"], state_dict["seconds"], state_dict["best"]
        # Older checkpoints have neither.
        self.is_over, self.cut = state_dict.get("is_over", False), state_dict.get("cut", 0.0)

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        trainer.should_stop = self.is_over  # it is resumed after that

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._started = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *arguments: Any) -> None:
        now = time.perf_counter()
        if now - max(self._started, self._reported) >= SECONDS_BETWEEN_LINES:
            self._reported = now
            batch, batches = int(arguments[-1]) + 1, int(trainer.num_training_batches)
            self.say(f"epoch {trainer.current_epoch + 1:>3}/{trainer.max_epochs}  batch {batch:,} of {batches:,}")
        if self.max_minutes is not None:
            self._keep_time(trainer, sum(self.seconds) + now - self._started, int(arguments[-1]) + 1)

    def _keep_time(self, trainer: L.Trainer, seconds: float, batch: int) -> None:
        """Move the schedule on to the part of the time that is over, and end training with the time."""
        assert self.max_minutes is not None
        schedule = trainer.lr_scheduler_configs[0].scheduler
        steps = int(trainer.estimated_stepping_batches)
        assert isinstance(schedule, LRScheduler)
        place = max(schedule.last_epoch, int(seconds / (60 * self.max_minutes) * steps))
        schedule.last_epoch = min(place, steps - 1)  # beyond its steps a schedule has no rate
        if place >= steps - 1 and place > trainer.global_step and not self.is_over:
            self.say(f"stopping: trainer.max_minutes={self.max_minutes:g} are over")
            self.is_over, self.cut = True, 1 - batch / int(trainer.num_training_batches)
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        row = {"epoch": trainer.current_epoch + 1, "lr": float(trainer.optimizers[0].param_groups[-1]["lr"])}
        row |= {name: metrics.get(name, float("nan")) for name in COLUMNS[2:]}
        self.rows.append(row)
        self.seconds.append(time.perf_counter() - self._started)
        self.files.checkpoints.mkdir(parents=True, exist_ok=True)
        if self._is_best(row):
            self.best = row
            self._save(trainer, self.files.best_checkpoint, weights_only=True)
        self._save(trainer, self.files.last_checkpoint, weights_only=False)
        if trainer.is_global_zero:
            write_text(self.files.epoch_metrics, self._table())
        self._report(trainer, row)
        if self.after_epoch is not None:
            self.after_epoch(row)

    def start_from(self, module: L.LightningModule, metrics: Mapping[str, float], *, writes: bool = True) -> None:
        """Keep the network as it is before the first epoch, with the metrics of its validation, as the best so far.

        Of several processes one `writes`.
        """
        nothing = dict.fromkeys(COLUMNS[1:], float("nan"))
        self.best = {"epoch": 0, **nothing, **metrics}
        self.files.checkpoints.mkdir(parents=True, exist_ok=True)
        # Without validation images the trainer has not seen the module, and could not save it.
        for path in (self.files.first_checkpoint, self.files.best_checkpoint) if writes else ():
            save({"state_dict": module.state_dict()}, path)

    def _is_best(self, row: dict[str, float]) -> bool:
        if self.best is None:
            return True
        if self.best["epoch"] == 0 and not math.isnan(self.best["validation_accuracy"]):
            # A head that was fitted without label smoothing has a high loss, however good it is.
            return row["validation_accuracy"] >= self.best["validation_accuracy"]
        # NaN without validation images: then the last epoch counts.
        return math.isnan(self.best["validation_loss"]) or row["validation_loss"] < self.best["validation_loss"]

    def _save(self, trainer: L.Trainer, path: Path, *, weights_only: bool) -> None:
        if not trainer.is_global_zero:
            trainer.save_checkpoint(path, weights_only=weights_only)  # takes part in it, and writes nothing
            return
        with replacing(path) as part:
            trainer.save_checkpoint(part, weights_only=weights_only)

    def _table(self) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            writer.writerow({name: format(row[name], ".8g") for name in COLUMNS})
        return text.getvalue()

    def _report(self, trainer: L.Trainer, row: dict[str, float]) -> None:
        epochs = int(trainer.max_epochs or 0)
        pace = sum(self.seconds) / len(self.seconds)
        rate = (1 - self.cut) * self.images / self.seconds[-1]
        seconds_to_go = round(pace * (epochs - len(self.seconds)))
        self.say(
            f"epoch {row['epoch']:>3.0f}/{epochs}  loss {row['train_loss']:.3f}  "
            f"validation loss {row['validation_loss']:.3f}  accuracy {100 * row['validation_accuracy']:6.2f} %  "
            f"{rate:5.0f} images/s  {seconds_to_go // 60}:{seconds_to_go % 60:02d} left"
        )
