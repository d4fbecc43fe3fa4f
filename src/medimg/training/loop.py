"""The loop over epochs and batches: exact to the bit after any interruption."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from medimg.errors import MedimgError
from medimg.job import Interrupted
from medimg.progress import Event, Report
from medimg.training.ahead import read_ahead
from medimg.training.checkpoints import Checkpoint, Checkpoints
from medimg.training.steps import Devices
from medimg.training.weighting import Balance

if TYPE_CHECKING:
    import keras

__all__ = ["Diverged", "Phase", "Source", "Unrepeatable", "fit"]

_REPEATED = 1e-3  # random changes of images move probabilities by far more, the order of additions by far less


class Diverged(MedimgError):  # noqa: N818 - the field's word
    """The loss is no number any more, and there is no earlier epoch to fall back to."""


class Unrepeatable(MedimgError):  # noqa: N818 - what it says of the network
    """The network gives other probabilities when it is asked of the same images again."""


class Source(Protocol):
    """Where batches come from."""

    def __len__(self) -> int: ...

    def x(self, rows: np.ndarray) -> np.ndarray:
        """Returns inputs by position, float32."""
        ...

    def y(self, rows: np.ndarray) -> np.ndarray:
        """Returns encoded targets by position."""
        ...


@dataclass
class Phase:
    """One part of training: the head on features, fine-tuning, or everything from scratch.

    Attributes:
        name: "fitting" or "fine-tuning".
        model: The compiled network that trains; augmentation, if any, is its first part.
        judged: The network without augmentation, which validation is computed with.
        train: Training data.
        val: Validation data.
        task: "binary", "multiclass" or "multilabel".
        epochs: Largest number of passes.
        batch_size: Rows a step.
        patience: Epochs without a better validation loss before stopping; None: never.
        balance: Class weights.
        seed: Of the data order.
        figures: Validation figures from (targets, probabilities), beside the loss.
    """

    name: str
    model: keras.Model
    judged: keras.Model
    train: Source
    val: Source
    task: str
    epochs: int
    batch_size: int
    patience: int | None
    balance: Balance
    seed: int
    figures: Callable[[np.ndarray, np.ndarray], dict[str, float]]


@dataclass
class _State:
    """Where a phase is; what a checkpoint holds beside the variables."""

    phase: str
    epoch: int = 0
    step: int = 0
    loss: float = 0.0  # sum over this epoch's rows so far
    history: list[dict[str, Any]] = field(default_factory=list)
    best_loss: float = float("inf")
    best_epoch: int = -1
    finished: bool = False
    earlier: list[dict[str, Any]] = field(default_factory=list)  # history of the phases before this one


def fit(
    phase: Phase,
    devices: Devices,
    checkpoints: Checkpoints,
    report: Report,
    *,
    stopping: Callable[[], bool],
    earlier: list[dict[str, Any]],
    every_seconds: float,
) -> list[dict[str, Any]]:
    """Trains a phase, or what is left of it, and leaves the best weights in the network.

    Args:
        phase: What to do.
        devices: Where.
        checkpoints: Where the state is saved and found again.
        report: Told of every epoch, and of progress in between.
        stopping: Tells whether the job was asked to end.
        earlier: History of the phases before, kept in the state.
        every_seconds: A checkpoint is saved at the end of an epoch and at least this often.

    Returns:
        The history, one row an epoch, of this and the earlier phases.

    Raises:
        Interrupted: `stopping` said so; the state is saved.
        Diverged: The losses are no numbers, and there is no better epoch to keep.
        Unrepeatable: The network is random where it is judged.
    """
    with devices.scope():
        phase.model.optimizer.build(phase.model.trainable_variables)
    run = _Run(phase, devices, checkpoints, report, stopping, every_seconds, _State(phase.name, earlier=earlier))
    if not run.resume() and earlier:
        run.start_from(earlier)
    run.go()
    return run.state.earlier + run.state.history


class _Run:
    def __init__(
        self, phase: Phase, devices: Devices, checkpoints: Checkpoints, report: Report, stopping: Callable[[], bool],
        every_seconds: float, state: _State,
    ) -> None:  # fmt: skip
        self.phase, self.checkpoints, self.report, self.state = phase, checkpoints, report, state
        self.stopping, self.every_seconds = stopping, every_seconds
        self.step = devices.step(phase.model)
        self.forward = devices.forward(phase.judged)
        self.best: list[np.ndarray] = []
        self.saved = time.monotonic()
        self.steps = -(-len(phase.train) // phase.batch_size)

    def _variables(self) -> list[Any]:
        # model.variables has the seed generators of dropout and augmentation among them.
        model = self.phase.model
        return [*model.variables, *model.optimizer.variables]

    # -- state --------------------------------------------------------------------------------------------------------

    def start_from(self, earlier: list[dict[str, Any]]) -> None:
        """Makes what the phase before reached the mark to beat: fine-tuning cannot end worse than it began."""
        self.best = [np.asarray(weight) for weight in self.phase.judged.weights]
        self.state.best_loss = min(row["val_loss"] for row in earlier)

    def resume(self) -> bool:
        """Takes up the last checkpoint of this phase, if there is one."""
        found = self.checkpoints.latest()
        if found is None or found.state["phase"] != self.phase.name:
            return False
        self.state = _State(**found.state)
        for variable, value in zip(self._variables(), found.arrays["variables"], strict=True):
            variable.assign(value)
        self.best = list(found.arrays.get("best", []))
        # This attempt's log and tracking tell the whole history, not only what comes.
        for row in self.state.earlier + self.state.history:
            self._tell(row)
        if not self.state.finished:
            self.report(
                Event(
                    "log", self.phase.name, message=f"resumed at epoch {self.state.epoch + 1}, step {self.state.step}"
                )
            )
        return True

    def save(self) -> None:
        self.step.settle()
        arrays = {
            "variables": [np.asarray(variable) for variable in self._variables()],
            "best": self.best,
        }
        self.checkpoints.save(Checkpoint(vars(self.state), arrays))
        self.saved = time.monotonic()

    # -- epochs -------------------------------------------------------------------------------------------------------

    def go(self) -> None:
        phase, state = self.phase, self.state
        while not state.finished:
            started = time.time()
            row = self._validate(self._epoch(), started)
            if row is None:
                state.finished = True
            else:
                state.history.append(row)
                self._tell(row)
                if row["val_loss"] < state.best_loss:
                    state.best_loss, state.best_epoch = row["val_loss"], state.epoch
                    self.best = [np.asarray(weight) for weight in phase.judged.weights]
                state.epoch, state.step, state.loss = state.epoch + 1, 0, 0.0
                waited = state.epoch - 1 - state.best_epoch
                state.finished = state.epoch >= phase.epochs or (
                    phase.patience is not None and waited >= phase.patience
                )
            self.save()
            self._maybe_stop()
        for weight, value in zip(phase.judged.weights, self.best, strict=True):
            weight.assign(value)
        if state.earlier and state.best_epoch < 0:
            text = "no epoch was better on validation: the weights from before are kept"
            self.report(Event("warning", phase.name, message=text))

    def _tell(self, row: dict[str, Any]) -> None:
        shown = {name: value for name, value in row.items() if name not in ("phase", "epoch")}
        self.report(Event("epoch", row["phase"], row["epoch"], self.phase.epochs, values=shown))

    def _epoch(self) -> float:
        phase, state = self.phase, self.state
        # The order is a function of seed and epoch, so that it need not be saved.
        order = np.random.Generator(np.random.Philox(key=[phase.seed, state.epoch])).permutation(len(phase.train))
        reported = time.monotonic()
        self._progress()
        batches = _batches(order, phase.batch_size)[state.step :]
        with closing(read_ahead(phase.train.x, batches)) as several:
            for rows, x in zip(batches, several, strict=True):
                y, weights = phase.balance.weigh(phase.train.y(rows), phase.task)
                state.loss += self.step(x, y, weights) * len(rows)
                state.step += 1
                now = time.monotonic()
                if now - reported > 0.5:
                    self._progress()
                    reported = now
                if state.step < self.steps and (now - self.saved > self.every_seconds or self.stopping()):
                    self.save()
                    self._maybe_stop()
        self.step.settle()
        return state.loss / len(phase.train)

    def _progress(self) -> None:
        phase, state = self.phase, self.state
        done, total = state.epoch * self.steps + state.step, phase.epochs * self.steps
        note = f"epoch {state.epoch + 1}/{phase.epochs}"
        if state.step:
            note += f"  loss {state.loss / min(state.step * phase.batch_size, len(phase.train)):.4f}"
        self.report(Event("stage", phase.name, done, total, message=note))

    def _maybe_stop(self) -> None:
        if self.stopping():
            raise Interrupted(f"stopped in epoch {self.state.epoch + 1}; the state is saved")

    def _validate(self, loss: float, started: float) -> dict[str, Any] | None:
        """Returns the epoch's row, or None where the losses are no numbers and an earlier epoch is kept."""
        phase = self.phase
        rows, found = np.arange(len(phase.val)), []
        with closing(read_ahead(phase.val.x, _batches(rows, phase.batch_size))) as several:
            for images in several:
                found.append(self.forward(images))
                if len(found) == 1 and self.state.epoch == 0:
                    self._check_repeatable(images, found[0])
        y, probabilities = phase.val.y(rows), np.concatenate(found).astype(np.float64)
        val_loss = _loss(y, probabilities, phase.balance, phase.task)
        if not (np.isfinite(loss) and np.isfinite(val_loss)):
            text = (
                f"training diverged in epoch {self.state.epoch + 1} of {phase.name}: loss {loss}, val_loss {val_loss}. "
                "Lower the learning rate"
            )
            if not self.best:
                raise Diverged(text)
            self.report(Event("warning", phase.name, message=f"{text}; the best epoch before it is kept"))
            return None
        return {
            "phase": phase.name,
            "epoch": self.state.epoch + 1,
            "loss": loss,
            "val_loss": val_loss,
            **phase.figures(y, probabilities),
            "seconds": round(time.time() - started, 3),
        }

    def _check_repeatable(self, images: np.ndarray, first: np.ndarray) -> None:
        """Refuses a network that changes its images at random where it is judged, or draws dropout there."""
        again = self.forward(images)
        # Both passes of one batch are equal to the bit on a CPU; GPUs may add in another order.
        if not np.allclose(first, again, rtol=0, atol=_REPEATED, equal_nan=True):
            raise Unrepeatable(
                f"two passes over the same validation images differ by {np.abs(first - again).max():.2g}: the network "
                "is random outside training. Have its layers look at call(training=…), and leave random changes of "
                "images to TrainConfig(augment=…)"
            )


def _batches(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _loss(y: np.ndarray, probabilities: np.ndarray, balance: Balance, task: str) -> float:
    """Returns the weighted cross-entropy that training minimises, in float64."""
    truth, weights = balance.weigh(y, task)
    clipped = np.clip(probabilities, 1e-7, 1 - 1e-7)
    if task == "multiclass":
        losses = -np.log(clipped[np.arange(len(truth)), truth.astype(np.int64)])
    else:
        losses = -(truth * np.log(clipped) + (1 - truth) * np.log(1 - clipped))
    return float((losses * weights).mean())
