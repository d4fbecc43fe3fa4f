"""Many files predicted several at a time; what is in memory does not grow with the number of pixels."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medimg.errors import ImageRejected
from medimg.inference.decision import Prediction
from medimg.inference.journal import Journal, stamp
from medimg.inference.predictions import Predictions
from medimg.progress import Event, Pace, Report

if TYPE_CHECKING:
    from medimg.config import Task
    from medimg.data.dataset import Sample
    from medimg.data.decode import ImageLike

__all__ = ["Ask", "Batch", "Outcome", "outcomes", "predict_files"]

Ask = Callable[["ImageLike"], Prediction]
Outcome = Prediction | ImageRejected

_ANY_IMAGE = np.full((32, 32), 128, np.uint8)


@dataclass(frozen=True)
class Batch:
    """What was predicted of many files.

    Attributes:
        table: The predictions, with decisions and codes of rejection; without a row where no image could be read.
        reasons: Why images could not be read, by sample id.
    """

    table: Predictions
    reasons: dict[str, ImageRejected]


def outcomes(
    ask: Ask, samples: Iterable[Sample], *, at_once: int
) -> Generator[tuple[Sample, list[int], Outcome], None, None]:
    """Yields each sample with its file's stamp from before it was read and its answer, as they come.

    Close it to drop what has not begun.

    Args:
        ask: Predicts an image; called with the files' paths, in several threads.
        samples: The images.
        at_once: Threads; no more than twice as many samples are drawn ahead.
    """

    def one(sample: Sample) -> tuple[Sample, list[int], Outcome]:
        before = stamp(sample.path)
        try:
            return sample, before, ask(sample.path)
        except ImageRejected as rejection:
            return sample, before, rejection

    running: set[Future[tuple[Sample, list[int], Outcome]]] = set()
    with ThreadPoolExecutor(at_once, thread_name_prefix="predict") as pool:
        try:
            for sample in samples:
                running.add(pool.submit(one, sample))
                if len(running) >= 2 * at_once:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def predict_files(ask: Ask, samples: Sequence[Sample], *, journal: Journal, at_once: int, report: Report) -> Batch:
    """Predicts files that have no answer in the journal yet, and returns the answers of all, in the samples' order.

    Args:
        ask: As in `outcomes`. Where no image could be read, it is asked of a grey one what the classes are.
        samples: The images.
        journal: Where each answer is written down as it comes; a rejection is not, and is found anew by the next run.
        at_once: As in `outcomes`.
        report: Told of progress.

    Raises:
        StorageError: The disk is full; the journal has what was answered before.
    """
    answers = _Answers(len(samples))
    left: list[int] = []
    for row, sample in enumerate(samples):
        known = journal.find(sample.path)
        if known is None:
            left.append(row)
        else:
            answers.put(row, known)
    done = len(samples) - len(left)
    if done:
        report(Event("log", message=f"goes on after {done:,} images that were predicted before ({journal.path})"))
    pace = Pace(len(samples), done)
    row_of = {samples[row].id: row for row in left}
    report(Event("stage", "predicting", done, len(samples)))
    with closing(outcomes(ask, (samples[row] for row in left), at_once=at_once)) as found:
        for sample, before, outcome in found:
            if isinstance(outcome, Prediction):
                journal.add(sample.path, before, outcome)
            answers.put(row_of[sample.id], outcome)
            done += 1
            report(Event("stage", "predicting", done, len(samples), pace.text(done)))
    return answers.batch(samples, ask)


class _Answers:
    """The answers of many images, in a few bytes each."""

    def __init__(self, images: int) -> None:
        self._images = images
        self._first: Prediction | None = None
        self._probabilities = np.empty((0, 0))
        self._positives: list[tuple[str, ...]] = [()] * images
        self._uncertain = [False] * images
        self._rejected: dict[int, ImageRejected] = {}
        self._seen: dict[tuple[str, ...], tuple[str, ...]] = {}

    def put(self, row: int, outcome: Outcome) -> None:
        if isinstance(outcome, ImageRejected):
            self._rejected[row] = outcome
            return
        if self._first is None:
            self._first = outcome
            self._probabilities = np.empty((self._images, len(outcome.probabilities)))
        self._probabilities[row] = [outcome.probabilities[name] for name in self._first.probabilities]
        self._positives[row] = self._seen.setdefault(outcome.positives, outcome.positives)  # one object for all
        self._uncertain[row] = outcome.uncertain

    def batch(self, samples: Sequence[Sample], ask: Ask) -> Batch:
        reasons = {samples[row].id: self._rejected[row] for row in sorted(self._rejected)}
        rows = [row for row in range(self._images) if row not in self._rejected]
        first = self._first or ask(_ANY_IMAGE)
        task, positive = _task(first)
        table = Predictions(
            classes=tuple(first.probabilities),
            task=task,
            positive=positive,
            ids=tuple(samples[row].id for row in rows),
            probabilities=self._probabilities[rows] if rows else np.empty((0, len(first.probabilities))),
            decided=tuple(self._positives[row] for row in rows),
            uncertain=tuple(self._uncertain[row] for row in rows),
            rejected={id: rejection.code for id, rejection in reasons.items()},
        )
        return Batch(table, reasons)


def _task(prediction: Prediction) -> tuple[Task, str | None]:
    """Returns the task and the positive class, as an answer shows them: an endpoint says no more."""
    if not prediction.threshold:
        return "multiclass", None
    if len(prediction.threshold) == 1 and len(prediction.probabilities) == 2:
        return "binary", next(iter(prediction.threshold))
    return "multilabel", None
