"""Two models on the same cases: which is better, by how much, and whether the cases can tell."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from medimg.config import Task
from medimg.errors import DatasetError
from medimg.evaluation.intervals import (
    FEWEST_PATIENTS,
    Interval,
    bootstrap_weights,
    delong,
    delong_paired,
    numbered,
    percentiles,
    student,
)
from medimg.evaluation.paired import QUANTITIES, McNemar, Quantity, Side, caution, mcnemar
from medimg.home import atomic_write
from medimg.inference.predictions import Predictions

if TYPE_CHECKING:
    from medimg.artifact import ModelFolder
    from medimg.data.dataset import Dataset

__all__ = ["ClassComparison", "Comparison", "Difference", "compare", "compare_models"]

Thresholds = Mapping[str, float]
Values = npt.NDArray[np.float64]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Difference(_Frozen):
    """One figure of both models.

    Attributes:
        quantity: Which; of several classes "auroc", "sensitivity" and "specificity" are means over them.
        first: The first model's.
        second: The second model's.
        difference: The second less the first.
        interval: 95%, of the difference; None where all resamples give the same.
        p: Two-sided, that there is no difference; None with `interval`, but 1 where the difference is 0.
    """

    quantity: Quantity
    first: float
    second: float
    difference: float
    interval: Interval | None
    p: float | None

    @property
    def better(self) -> Literal["first", "second"] | None:
        """The model that is better beyond chance; None where that could not be shown."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return None
        rises = self.difference > 0
        # The Brier score is an error: less is better.
        return "second" if rises != (self.quantity == "brier") else "first"


class ClassComparison(_Frozen):
    """One class against all others.

    Attributes:
        name: The class.
        differences: Its figures; those that cannot be estimated are left out.
        delong: AUROC by DeLong's test; None where a patient has several images, which it takes for several patients.
        mcnemar: Of its decisions.
    """

    name: str
    differences: tuple[Difference, ...]
    delong: Difference | None
    mcnemar: McNemar


class Comparison(_Frozen):
    """Two models on the same cases.

    Attributes:
        names: Of the first and of the second model.
        task: "binary", "multiclass" or "multilabel".
        split: The split, or None.
        images: How many.
        patients: How many; None where the patient of some image is not known and it was taken for one of its own.
        resamples: Of the bootstrap.
        differences: Over all classes; those that cannot be estimated are left out.
        per_class: One entry a target: the positive class (binary), or every class.
        mcnemar: Of all decisions.
        notices: What a reader should know.
    """

    names: tuple[str, str]
    task: Task
    split: str | None
    images: int
    patients: int | None
    resamples: int
    differences: tuple[Difference, ...]
    per_class: tuple[ClassComparison, ...]
    mcnemar: McNemar
    notices: tuple[str, ...]

    def __getitem__(self, quantity: Quantity) -> Difference:
        for one in self.differences:
            if one.quantity == quantity:
                return one
        known = ", ".join(one.quantity for one in self.differences)
        raise DatasetError(f"{quantity!r} could not be estimated or is none of the figures. There are: {known}")

    def to_json(self, path: str | Path) -> Path:
        """Writes all figures and returns the path."""
        atomic_write(Path(path), self.model_dump_json(indent=2) + "\n")
        return Path(path)

    def to_html(self, path: str | Path) -> Path:
        """Writes one self-contained page that opens offline and prints, and returns its path."""
        from medimg.evaluation import comparison_page

        atomic_write(Path(path), comparison_page.page(self))
        return Path(path)

    def __repr__(self) -> str:
        from medimg.evaluation import comparison_page

        return comparison_page.as_text(self)

    __str__ = __repr__

    def _repr_html_(self) -> str:
        from medimg.evaluation import comparison_page

        return comparison_page.fragment(self)


def compare(
    first: Predictions,
    second: Predictions,
    *,
    thresholds: tuple[Thresholds, Thresholds],
    names: tuple[str, str] = ("A", "B"),
    resamples: int = 2000,
    seed: int = 0,
    notices: Sequence[str] = (),
) -> Comparison:
    """Returns how two models differ on the same cases, joined by sample id.

    The standard error of a difference is that over resamples of patients, the same for both models, so that what makes
    a case hard for both cancels out (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 6); that
    of a rate is a little more, where few cases tell the models apart: `medimg.evaluation.paired.caution`. Interval and
    p follow by Student's t on patients less one. Where each patient has one image, DeLong's test is given beside it.

    Args:
        first: Labelled predictions of one model.
        second: Those of the other on the same samples, in any order.
        thresholds: Of each model, as frozen on its validation; empty for a multiclass task.
        names: What to call the models.
        resamples: Of the bootstrap.
        seed: Of the resamples.
        notices: What a reader should know beforehand.

    Raises:
        DatasetError: The tables have other samples, labels, patients or classes, or no labels; the message says which.
    """
    first, second = _aligned(first, second, names)
    patient = numbered(first.groups, first.ids)
    count = int(patient.max()) + 1
    decided = [table.decide(chosen) for table, chosen in zip((first, second), thresholds, strict=True)]
    sides = [Side(table, mine, patient, count) for table, mine in zip((first, second), decided, strict=True)]
    estimates = np.stack([side.figures(np.ones((count, 1)))[..., 0] for side in sides])
    draws = [
        np.stack([side.figures(weights) for side in sides]) for weights in bootstrap_weights(patient, resamples, seed)
    ]
    drawn = np.concatenate(draws, axis=-1) if count >= FEWEST_PATIENTS else None
    estimable = np.asarray(~np.isnan(estimates[:, :, :-1]).any(axis=0))
    added = caution(first.truth, patient, estimable)

    def differences(column: int) -> tuple[Difference, ...]:
        mine = None if drawn is None else drawn[:, :, column]
        return tuple(_differences(estimates[:, :, column], mine, added[:, column], count))

    def of_class(column: int, name: str) -> ClassComparison:
        known = ~np.isnan(first.truth[:, column])
        right = [(mine == (first.truth == 1))[known, column, None] for mine in decided]
        alone = count == len(first) and not np.isnan(estimates[:, 0, column]).any()
        return ClassComparison(
            name=name,
            differences=differences(column),
            delong=_delong(first, second, column, known) if alone else None,
            mcnemar=mcnemar(right[0], right[1], patient[known]),
        )

    found = []
    unknown = len(first) if first.groups is None else first.groups.count(None)
    if unknown:
        whose = "each image" if unknown == len(first) else f"each of {unknown:,} images without one"
        found.append(
            f"No patient key: {whose} was taken for a patient of its own. If patients have several images, the "
            "intervals are too narrow."
        )
    if drawn is None:
        found.append(f"Fewer than {FEWEST_PATIENTS} patients: no intervals.")
    return Comparison(
        names=names,
        task=first.task,
        split=first.split,
        images=len(first),
        patients=None if unknown else count,
        resamples=resamples,
        differences=differences(-1),
        per_class=tuple(of_class(column, name) for column, name in enumerate(first.targets)),
        mcnemar=mcnemar(sides[0].right, sides[1].right, patient),
        notices=(*notices, *found),
    )


def compare_models(
    first: ModelFolder,
    second: ModelFolder,
    dataset: Dataset | None = None,
    *,
    split: str = "test",
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Returns how two models differ on the same images, each at its own frozen thresholds.

    Args:
        first: One model.
        second: The other.
        dataset: Both are scored on its images, and each counts a look at test; None: the predictions that training
            stored in the model folders are compared, which must be of the same images.
        split: "test", or "val", whose figures are optimistic.
        resamples: Of the bootstrap.
        seed: Of the resamples.

    Raises:
        DatasetError: The models have other classes, or were scored on other images.
    """
    from medimg.evaluation.score import score

    names = _names(first, second)
    kinds = [(model.record.task, model.record.classes, model.record.positive) for model in (first, second)]
    if kinds[0] != kinds[1]:  # before either has looked at test
        told = " and ".join(f"{name} {kind}" for name, kind in zip(names, kinds, strict=True))
        raise DatasetError(f"the models have other tasks, classes or positive classes: {told}")
    tables, notices = [], []
    for model, name in zip((first, second), names, strict=True):
        if dataset is None:
            tables.append(_stored(model, name, split))
        else:
            scored = score(model, dataset, split=split)
            tables.append(scored.predictions)
            notices += [f"{name}: {notice}" for notice in scored.notices]
    if split == "test":
        looks = " and ".join(
            f"{model.test_looks:,} with {name}" for model, name in zip((first, second), names, strict=True)
        )
        notices.append(
            f"Looks at test so far: {looks}. A model picked for its figures on test is fitted to it: choose on "
            "validation, and look at test once."
        )
    return compare(
        *tables,
        thresholds=(first.record.thresholds, second.record.thresholds),
        names=names,
        resamples=resamples,
        seed=seed,
        notices=notices,
    )


def _names(first: ModelFolder, second: ModelFolder) -> tuple[str, str]:
    """Returns what to call two models: their jobs, with the digests where those are the same."""
    one, other = (model.record.job or model.record.config.model for model in (first, second))
    if one == other:
        return f"{one} ({first.digest[:8]})", f"{other} ({second.digest[:8]})"
    return one, other


def _stored(model: ModelFolder, name: str, split: str) -> Predictions:
    file = model.path / "report" / f"predictions-{split}.csv"
    if not file.is_file():
        there = ", ".join(
            sorted(one.stem.removeprefix("predictions-") for one in file.parent.glob("predictions-*.csv"))
        )
        raise DatasetError(
            f"{name} has no stored predictions of {split}, only of {there}. Pass a dataset to score both models on"
        )
    return Predictions.from_csv(file)


def _aligned(first: Predictions, second: Predictions, names: tuple[str, str]) -> tuple[Predictions, Predictions]:
    """Returns the tables with the same samples in the same order."""
    a, b = names
    for what in ("task", "classes", "positive"):
        mine, other = getattr(first, what), getattr(second, what)
        if mine != other:
            raise DatasetError(f"the models cannot be compared: the {what} of {a} is {mine!r}, of {b} {other!r}")
    only = [[name for name in one.ids if name not in other] for one, other in ((first, second), (second, first))]
    if only[0] or only[1]:
        raise DatasetError(
            f"the models were not asked of the same cases: {len(only[0]):,} only of {a}, {len(only[1]):,} only of {b}, "
            f"{len(first) - len(only[0]):,} of both. Score both on one dataset: compare_models(a, b, dataset)"
        )
    first, second = _keyed(first), _keyed(second.select(first.ids))
    if first.labels is None or second.labels is None:
        raise DatasetError("these predictions have no labels; add them with predictions.join({id: label, …})")
    for what in ("labels", "groups"):
        mine, other = getattr(first, what), getattr(second, what)
        differing = [name for name, one, two in zip(first.ids, mine or (), other or (), strict=False) if one != two]
        if differing:
            raise DatasetError(
                f"the {what} of {len(differing):,} samples differ between {a} and {b}, such as {differing[0]!r}: they "
                "must come from one dataset"
            )
    if first.groups is None and second.groups is not None:
        first = replace(first, groups=second.groups)
    return first, second


def _keyed(table: Predictions) -> Predictions:
    """Returns the table, without patients where none is known: a pack has a column of them all the same."""
    return replace(table, groups=None) if set(table.groups or ()) == {None} else table


def _differences(estimates: Values, drawn: Values | None, added: Values, patients: int) -> Iterator[Difference]:
    """Yields a difference for each quantity that both models have.

    Args:
        estimates: float64 (2, 5).
        drawn: float64 (2, 5, resamples), or None where there are too few patients.
        added: To the variance, float64 (5,).
        patients: How many.
    """
    for place, quantity in enumerate(QUANTITIES):
        first, second = estimates[:, place].tolist()
        if math.isnan(first) or math.isnan(second):
            continue
        error = None
        if drawn is not None and percentiles(change := drawn[1, place] - drawn[0, place]) is not None:
            error = math.sqrt(float(np.nanvar(change, ddof=1)) + float(added[place]))
        yield _difference(quantity, first, second, error, patients - 1)


def _difference(quantity: Quantity, first: float, second: float, error: float | None, freedom: float) -> Difference:
    """Returns a difference with its interval by Student's t, given its standard error, or None for no claim."""
    from scipy.special import stdtr

    change = second - first
    interval, p = None, 1.0 if change == 0 else None
    if error:
        half = student(freedom) * error
        interval, p = (change - half, change + half), 2 * float(stdtr(freedom, -abs(change) / error))
    return Difference(quantity=quantity, first=first, second=second, difference=change, interval=interval, p=p)


def _delong(first: Predictions, second: Predictions, column: int, known: npt.NDArray[np.bool_]) -> Difference | None:
    truth = first.truth[known, column] == 1
    scores = [table.scores[known, column] for table in (first, second)]
    if min(int(truth.sum()), int((~truth).sum())) < 2:
        return None
    one, other = (delong(truth, mine)[0] for mine in scores)
    _, variance = delong_paired(truth, *scores)
    return _difference("auroc", one, other, math.sqrt(variance), math.inf)
