"""The same model at the same thresholds on parts of the patients: by sex, age, view, site or any named column."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from medimg.evaluation.intervals import FEWEST_PATIENTS, Interval, bootstrap_weights, numbered, student, totals
from medimg.evaluation.metrics import Metrics, measure
from medimg.inference.predictions import Predictions

__all__ = ["Gap", "Subgroup", "gaps", "subgroups"]

_MOST_VALUES = 8
_MOST_BANDS = 5
_OTHER, _UNKNOWN = "other", "unknown"
_EMPTY = frozenset({"", "na", "n/a", "nan", "null"})  # as spreadsheets and data frames write an empty cell
_NUMERIC = 0.95  # of the values that are there: the least share of numbers that makes a column one of numbers

Rate = Literal["sensitivity", "specificity"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Subgroup(_Frozen):
    """The images that share a value of a named column.

    Attributes:
        column: The column.
        value: The value or the band of numbers; "other" for rare values and for text among numbers, "unknown" where
            the column is empty or says NA, N/A, nan or null.
        images: How many.
        patients: How many; None where the patient of some image is not known.
        metrics: The figures at the one set of thresholds; None under 10 patients, an image without a known one counting
            as one.
        reason: Why there are no figures, or None.
    """

    column: str
    value: str
    images: int
    patients: int | None
    metrics: Metrics | None
    reason: str | None


class Gap(_Frozen):
    """The largest difference between two subgroups of a column; where some are beyond chance, the largest of those.

    Attributes:
        column: The column.
        rate: "sensitivity" or "specificity"; with several targets their mean, over those that every subgroup has.
        better: The subgroup with the higher rate.
        worse: That with the lower one.
        better_rate: The rate there.
        worse_rate: The rate there.
        difference: The first less the second.
        interval: 95%, for all pairs of subgroups at once, since one was picked.
    """

    column: str
    rate: Rate
    better: str
    worse: str
    better_rate: float
    worse_rate: float
    difference: float
    interval: Interval

    @property
    def notice(self) -> str | None:
        """A sentence where the interval excludes 0, else None."""
        low, high = self.interval
        if low <= 0:
            return None
        return (
            f"{self.rate.capitalize()} differs by {self.column}: {self.better_rate:.3f} for {self.better} and "
            f"{self.worse_rate:.3f} for {self.worse}, a gap of {self.difference:.3f} (95% interval {low:.3f} to "
            f"{high:.3f})."
        )


def subgroups(
    predictions: Predictions, thresholds: Mapping[str, float], *, resamples: int = 0, seed: int = 0
) -> tuple[Subgroup, ...]:
    """Returns the subgroups of every named column, with their figures.

    Text is taken by value: the 8 most frequent, and "other". Where 95% of a column are numbers, of more than 8
    different values, they are taken in at most 5 bands with round edges. Under 10 patients a subgroup has no figures:
    they would say more of those patients than of the model.

    Args:
        predictions: With labels; without columns there are no subgroups.
        thresholds: Class to threshold: `Thresholds.values`, the same for all.
        resamples: Of the bootstrap behind the intervals; 0: no intervals.
        seed: Of the resamples.
    """
    patient = numbered(predictions.groups, predictions.ids)
    found = []
    for column, values in (predictions.columns or {}).items():
        for value, rows in _parts(values):
            count = len(np.unique(patient[rows]))
            known = predictions.groups is not None and None not in {predictions.groups[row] for row in rows.tolist()}
            metrics = reason = None
            if count >= FEWEST_PATIENTS:
                part = predictions.select([predictions.ids[row] for row in rows.tolist()])
                metrics = measure(part, thresholds, resamples=resamples, seed=seed)
            else:
                reason = f"fewer than {FEWEST_PATIENTS} patients"
            found.append(
                Subgroup(
                    column=column,
                    value=value,
                    images=len(rows),
                    patients=count if known else None,
                    metrics=metrics,
                    reason=reason,
                )
            )
    return tuple(found)


def gaps(
    predictions: Predictions, thresholds: Mapping[str, float], *, resamples: int = 2000, seed: int = 0
) -> tuple[Gap, ...]:
    """Returns the largest difference in sensitivity and in specificity between subgroups, for every named column.

    Compared are subgroups with 10 patients or more who have the finding (specificity: who have images without it);
    "other" and "unknown" are none. The interval comes from resamples of patients: of the difference's distance from
    its estimate in standard errors the largest over all pairs is taken, and its 95th percentile is how many standard
    errors the interval is wide on each side (single-step max-t: Westfall and Young, "Resampling-Based Multiple
    Testing", 1993, section 2.6). So it holds for whichever pair is picked.

    Args:
        predictions: With labels.
        thresholds: Class to threshold: `Thresholds.values`.
        resamples: Of the bootstrap.
        seed: Of the resamples.
    """
    columns = predictions.columns or {}
    if not columns:
        return ()
    patient = numbered(predictions.groups, predictions.ids)
    decided = predictions.decide(thresholds)
    found = []
    for column, values in columns.items():
        parts = [(value, rows) for value, rows in _parts(values) if value not in (_OTHER, _UNKNOWN)]
        rates: tuple[tuple[Rate, float], ...] = (("sensitivity", 1.0), ("specificity", 0.0))
        for rate, label in rates:
            counted = predictions.truth == label
            right = counted & (decided == (label == 1))
            gap = _gap(column, rate, parts, counted, right, patient, resamples, seed)
            if gap is not None:
                found.append(gap)
    return tuple(found)


def _gap(
    column: str,
    rate: Rate,
    parts: Sequence[tuple[str, npt.NDArray[np.int64]]],
    counted: npt.NDArray[np.bool_],
    right: npt.NDArray[np.bool_],
    patient: npt.NDArray[np.int64],
    resamples: int,
    seed: int,
) -> Gap | None:
    """Returns the gap of one column; None where no two subgroups can be compared.

    Args:
        column: Its name.
        rate: The rate.
        parts: Value and rows of each subgroup.
        counted: bool (n, targets), whether the sample counts in the rate.
        right: bool (n, targets), whether it counts and was decided right.
        patient: int64 (n,).
        resamples: Of the bootstrap.
        seed: Of the resamples.
    """
    # Patients that count, by subgroup and target: a target that one subgroup lacks would be compared with nothing.
    enough = np.array(
        [
            [
                len(np.unique(patient[rows[counted[rows, target]]])) >= FEWEST_PATIENTS
                for target in range(counted.shape[1])
            ]
            for _, rows in parts
        ]
    ).reshape(len(parts), counted.shape[1])
    groups = np.flatnonzero(enough.any(axis=1))
    targets = np.flatnonzero(enough[groups].all(axis=0)) if len(groups) > 1 else np.array([], dtype=np.int64)
    if not len(targets):
        return None
    chosen = [parts[index] for index in groups.tolist()]
    shape = (len(chosen), len(targets))
    cells, rows, hits = _cells([rows for _, rows in chosen], counted[:, targets], right[:, targets])
    count = int(patient.max()) + 1
    size = shape[0] * shape[1]
    whole, good = totals(cells, patient[rows], (size, count)), totals(cells, patient[rows], (size, count), hits)

    def rates(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        with np.errstate(invalid="ignore", divide="ignore"):
            share = (good @ weights) / (whole @ weights)
        mean: npt.NDArray[np.float64] = share.reshape(*shape, -1).mean(axis=1)
        return mean

    estimate = rates(np.ones((count, 1)))[:, 0]
    drawn = np.concatenate([rates(weights) for weights in bootstrap_weights(patient, resamples, seed)], axis=1)
    drawn = drawn[:, ~np.isnan(drawn).any(axis=0)]
    first, second = np.array(list(itertools.combinations(range(len(chosen)), 2))).T
    difference = estimate[first] - estimate[second]
    spread = drawn[first] - drawn[second] - difference[:, None]
    people = [len(np.unique(patient[members[counted[members][:, targets].any(axis=1)]])) for _, members in chosen]
    # Resampling a share of 0 or 1 only repeats it: its variance is that of two patients more, one of each kind.
    floor = np.zeros(len(chosen))
    for index, number in enumerate(people):
        if estimate[index] in (0.0, 1.0):
            share = (estimate[index] * number + 1) / (number + 2)
            floor[index] = share * (1 - share) / (number + 2)
    error = np.sqrt(spread.var(axis=1, ddof=1) + floor[first] + floor[second])
    # No error at all: patients that are all alike, such as one image of two found in each.
    scaled = np.abs(spread) / np.where(error > 0, error, 1.0)[:, None]
    # Few patients spread less in resamples than patients do.
    wider = np.array([student(min(people[one], people[other]) - 1) for one, other in zip(first, second, strict=True)])
    half = float(np.quantile(scaled.max(axis=0), 0.95)) * error * wider / student(math.inf)
    size_of = np.abs(difference)
    # The interval holds for every pair: a pair that is clear is not hidden by a wider one that may be chance.
    clear = size_of > half
    widest = int(np.where(clear, size_of, -1.0).argmax() if clear.any() else size_of.argmax())
    better, worse = sorted((int(first[widest]), int(second[widest])), key=lambda index: -estimate[index])
    gap, reach = float(size_of[widest]), float(half[widest])
    return Gap(
        column=column,
        rate=rate,
        better=chosen[better][0],
        worse=chosen[worse][0],
        better_rate=float(estimate[better]),
        worse_rate=float(estimate[worse]),
        difference=gap,
        interval=(max(-1.0, gap - reach), min(1.0, gap + reach)),
    )


def _cells(
    parts: Sequence[npt.NDArray[np.int64]], counted: npt.NDArray[np.bool_], right: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Returns for each sample and target that count: the cell (subgroup, target), the row, and whether it was right."""
    cells, found, hits = [], [], []
    for index, rows in enumerate(parts):
        row, target = np.nonzero(counted[rows])
        cells.append(index * counted.shape[1] + target)
        found.append(rows[row])
        hits.append(right[rows[row], target].astype(np.float64))
    return np.concatenate(cells).astype(np.int64), np.concatenate(found), np.concatenate(hits)


def _parts(values: Sequence[str]) -> Iterator[tuple[str, npt.NDArray[np.int64]]]:
    """Yields value and rows of each subgroup of a column, in the order in which they are shown."""
    stripped = [value.strip() for value in values]
    often = Counter(value for value in stripped if value.casefold() not in _EMPTY)
    numbers = {value: number for value in often if (number := _number(value)) is not None}
    numeric = [numbers[value] for value in stripped if value in numbers]
    if len(numeric) >= _NUMERIC * often.total() and len(set(numeric)) > _MOST_VALUES:
        edges = _edges(numeric)
        names = _bands(edges)
        name_of = dict.fromkeys(often, _OTHER)
        name_of |= {value: names[sum(number >= edge for edge in edges)] for value, number in numbers.items()}
    else:
        kept = sorted(often, key=lambda value: (-often[value], value))[:_MOST_VALUES]
        # Codes such as 2 and 10 in their order as numbers.
        names = sorted(kept, key=lambda value: (numbers.get(value, math.inf), value))
        name_of = {value: value if value in kept else _OTHER for value in often}
    of = np.array([name_of.get(value, _UNKNOWN) for value in stripped])
    for name in dict.fromkeys([*names, _OTHER, _UNKNOWN]):
        rows = np.flatnonzero(of == name)
        if len(rows):
            yield name, rows


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _edges(numbers: Sequence[float]) -> list[float]:
    """Returns the edges between bands: multiples of 1, 2 or 5 times a power of ten, as fine as the bands allow."""
    low, high = np.quantile(numbers, (0.05, 0.95)).tolist()
    if low == high:
        low, high = min(numbers), max(numbers)
    power = math.floor(math.log10(high - low)) - 1
    for step in (digit * 10.0**exponent for exponent in itertools.count(power) for digit in (1, 2, 5)):
        first, last = math.floor(low / step) + 1, math.floor(high / step)
        if last - first + 1 < _MOST_BANDS:
            break
    return [round(index * step, 12) for index in range(first, last + 1)]


def _bands(edges: Sequence[float]) -> list[str]:
    between = [f"{low:.12g} to under {high:.12g}" for low, high in itertools.pairwise(edges)]
    return [f"under {edges[0]:.12g}", *between, f"{edges[-1]:.12g} and over"]
