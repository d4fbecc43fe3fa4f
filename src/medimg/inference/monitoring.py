"""Whether a model is still asked what it was validated on: the images it is sent now against those of validation.

The trainer writes a `Reference` beside the model: how the images of validation look (`medimg.inference.appearance`),
and what the model said of them. A `Window` holds the same of the images answered last, and says where the two differ by
more than chance. It knows no labels, so it cannot tell whether the model is right: only that nobody has shown it is.

Distributions are compared by the population stability index, rates by Newcombe's interval (`medimg.inference.change`).
All measures of one look together give a false alarm in at most `FALSE_ALARMS` of looks (Bonferroni): looks follow each
other by the hundred, though they see nearly the same images. Needs the standard library only.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from statistics import fmean
from typing import TYPE_CHECKING, Any, Self

from medimg.errors import ModelFolderError
from medimg.inference.change import design_effect, index_limit, rate_difference, stability_index
from medimg.inference.wording import of_distribution, of_rate

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FALSE_ALARMS", "FILE", "LEAST", "WINDOW", "Histogram", "Rate", "Reference", "Seen", "Window", "unknown"]

FILE = "monitoring.json"  # in a model folder
WINDOW = 500  # images that are compared with validation's
LEAST = 50  # images before anything is said
FALSE_ALARMS = 1e-4  # share of looks at all measures

_STAYS = 0.8  # of its limit: an alarm ends under it, so that it does not come and go with single images
_BINS = 10
_LEAST_IN_BIN = 10  # images of validation
_MOST_CLASSES = 20
_DIGITS = 4


@dataclass(frozen=True, slots=True)
class Seen:
    """What is kept of one answered image: nothing that shows whose it is.

    Attributes:
        probabilities: Class to probability, rounded to four decimals.
        positives: The classes that were called positive.
        uncertain: As in `Prediction`.
        statistics: Of its pixels: see `medimg.inference.appearance`; {} where they are not known.
        id: A salted id: the same image sent again counts once. "" counts each time.
        time: When it was answered, in seconds since 1970.
    """

    probabilities: Mapping[str, float]
    positives: tuple[str, ...]
    uncertain: bool
    statistics: Mapping[str, float]
    id: str = ""
    time: float = 0.0

    @classmethod
    def of(cls, answer: Mapping[str, Any], statistics: Mapping[str, float], *, id: str = "", time: float = 0.0) -> Self:
        """Returns what is kept of an answer, as `Prediction.to_json` has it."""
        rounded = {name: round(float(value), _DIGITS) for name, value in answer["probabilities"].items()}
        return cls(rounded, tuple(answer["positives"]), bool(answer.get("uncertain")), statistics, id, time)

    def values(self, classes: Sequence[str]) -> dict[str, float]:
        """Returns what has a distribution, by the name of its measure."""
        found = dict(self.statistics)
        for name in classes:
            if name in self.probabilities:
                found[f"probability of {name}"] = self.probabilities[name]
        certain = [max(value, 1 - value) for value in self.probabilities.values()]
        return {**found, "confidence": round(fmean(certain), _DIGITS)} if certain else found

    def facts(self, classes: Sequence[str]) -> dict[str, bool]:
        """Returns what has a rate, by the name of its measure."""
        return {**{f"positives of {name}": name in self.positives for name in classes}, "uncertain": self.uncertain}


@dataclass(frozen=True, slots=True)
class Histogram:
    """How a number is distributed on validation.

    Attributes:
        edges: Where a bin ends and the next begins, rising; the outer bins are open.
        counts: Images in each bin, one more than edges.
        mean: Of the numbers.
        together: By what factor images of one patient being alike makes chance larger: see `design_effect`.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    mean: float
    together: float = 1.0

    @classmethod
    def of(cls, values: Sequence[float], groups: Sequence[str]) -> Self:
        """Returns the histogram of numbers in bins of about equal mass, at least ten images each.

        Args:
            values: One an image.
            groups: Whose image each is.
        """
        ranked = sorted(values)
        bins = max(2, min(_BINS, len(ranked) // _LEAST_IN_BIN))
        edges = sorted({ranked[len(ranked) * place // bins] for place in range(1, bins)} - {ranked[0]})
        if not edges:  # nearly all are the same: what is not must have a bin of its own
            edges = [ranked[0], math.nextafter(ranked[0], math.inf)]
        places = [bisect_right(edges, value) for value in values]
        counts = tuple(places.count(place) for place in range(len(edges) + 1))
        mean = round(fmean(ranked), 6)
        return cls(tuple(edges), counts, mean, design_effect(places, groups))

    def bin(self, value: float) -> int:
        """Returns the place of a number's bin."""
        return bisect_right(self.edges, value)


@dataclass(frozen=True, slots=True)
class Rate:
    """How often something is true on validation.

    Attributes:
        count: Of how many images.
        together: As in `Histogram`.
    """

    count: int
    together: float = 1.0


@dataclass(frozen=True)
class Reference:
    """What monitoring compares with: the images of validation, without any one of them.

    Attributes:
        images: How many they were.
        classes: Whose probabilities and positives are measured: the positive one of a binary task, else those most
            often positive, 20 at most.
        histograms: Measure to its distribution.
        rates: Measure to how often it is true.
    """

    images: int
    classes: tuple[str, ...]
    histograms: Mapping[str, Histogram]
    rates: Mapping[str, Rate]

    @classmethod
    def of(
        cls, seen: Sequence[Seen], *, positive: str | None = None, groups: Sequence[str | None] | None = None
    ) -> Self:
        """Returns the reference of images.

        Args:
            seen: All of validation, at least one.
            positive: The positive class of a binary task.
            groups: Whose image each is; None: nobody knows, and each counts for itself.
        """
        whose = [group or f"image {place}" for place, group in enumerate(groups or [None] * len(seen))]
        names = list(seen[0].probabilities) if positive is None else [positive]
        often = {name: sum(name in one.positives for one in seen) for name in names}
        most = sorted(names, key=lambda name: -often[name])[:_MOST_CLASSES]
        classes = tuple(name for name in names if name in most)
        values = [one.values(classes) for one in seen]
        facts = [one.facts(classes) for one in seen]
        return cls(
            images=len(seen),
            classes=classes,
            histograms={name: Histogram.of([one[name] for one in values], whose) for name in values[0]},
            rates={
                name: Rate(sum(one[name] for one in facts), design_effect([one[name] for one in facts], whose))
                for name in facts[0]
            },
        )

    def to_json(self) -> dict[str, Any]:
        """Returns what is written into the model folder."""
        histograms = {name: asdict(one) for name, one in self.histograms.items()}
        rates = {name: asdict(one) for name, one in self.rates.items()}
        return {"format": 1, "images": self.images, "classes": self.classes, "histograms": histograms, "rates": rates}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Returns the reference that `to_json` wrote.

        Raises:
            ModelFolderError: It is of another version of medimg.
        """
        try:
            if data["format"] != 1:
                raise ValueError(f"format {data['format']}")
            histograms = {
                str(name): Histogram(tuple(one.pop("edges")), tuple(one.pop("counts")), **one)
                for name, one in ((name, dict(one)) for name, one in data["histograms"].items())
            }
            rates = {str(name): Rate(**one) for name, one in data["rates"].items()}
            return cls(int(data["images"]), tuple(map(str, data["classes"])), histograms, rates)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelFolderError(f"{FILE} is of another version of medimg: {error!r}") from None

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Returns the reference in a model folder; None where another version of medimg trained the model."""
        try:
            return cls.from_json(json.loads((folder / FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError, ModelFolderError):
            return None  # it answers all the same


def unknown(images: int = 0) -> dict[str, Any]:
    """Returns the health of a model that has no reference."""
    return {
        "status": "unknown", "images": images, "since": "", "alarm_since": "", "measures": [],
        "message": "This model has nothing that its images could be compared with: another version of medimg trained "
        "it. Train it again (`medimg train`) and deploy that model.",
    }  # fmt: skip


@dataclass(slots=True)
class _Kept:
    """One image in a window: its bins and numbers by measure, and its facts."""

    seen: Seen
    bins: dict[str, int]
    values: dict[str, float]
    facts: dict[str, bool]


class Window:
    """The images answered last. They are counted when somebody asks, so that an answer waits for next to nothing.

    Args:
        reference: What they are compared with.
        size: How many are held.
    """

    def __init__(self, reference: Reference, size: int = WINDOW) -> None:
        self.reference = reference
        self.size = size
        self._kept: deque[_Kept] = deque()
        self._new: deque[Seen] = deque()  # not counted yet
        self._ids: set[str] = set()
        self._bins = {name: [0] * len(one.counts) for name, one in reference.histograms.items()}
        self._sums = dict.fromkeys(reference.histograms, 0.0)
        self._facts = dict.fromkeys(reference.rates, 0)
        self._alarms: frozenset[str] = frozenset()  # measures that were one at the last look
        self._alarm_since = ""

    def __len__(self) -> int:
        return len(self._kept) + len(self._new)

    def add(self, seen: Seen) -> bool:
        """Takes an image in; the oldest goes. Returns False where the window holds it already."""
        if seen.id and seen.id in self._ids:
            return False
        self._ids.add(seen.id)
        self._new.append(seen)
        if len(self) > self.size:
            self._ids.discard(self._drop_oldest().id)
        return True

    def _drop_oldest(self) -> Seen:
        if not self._kept:
            return self._new.popleft()
        oldest = self._kept.popleft()
        self._count(oldest, -1)
        return oldest.seen

    def _take_in(self) -> None:
        histograms, rates, classes = self.reference.histograms, self.reference.rates, self.reference.classes
        while self._new:
            seen = self._new.popleft()
            values = {name: value for name, value in seen.values(classes).items() if name in histograms}
            facts = {name: holds for name, holds in seen.facts(classes).items() if name in rates}
            kept = _Kept(seen, {name: histograms[name].bin(value) for name, value in values.items()}, values, facts)
            self._kept.append(kept)
            self._count(kept, 1)

    def _count(self, kept: _Kept, step: int) -> None:
        for name, place in kept.bins.items():
            self._bins[name][place] += step
            self._sums[name] += step * kept.values[name]
        for name, holds in kept.facts.items():
            self._facts[name] += step * holds

    def health(self) -> dict[str, Any]:
        """Returns what GET /health answers.

        `status` is "too-few", "ok" or "alarm"; each of `measures` has its value, the limit above which it is an alarm,
        and the shares of the images in its bins (of a rate: of those it is true of) in `reference` and `now`. An alarm
        stays until its value is under 0.8 of the limit; `alarm_since` is the time of the image at which it was seen.
        """
        self._take_in()
        images = len(self._kept)
        since = _text(self._kept[0].seen.time) if images else ""
        told: dict[str, Any] = {"images": images, "since": since}
        if images < LEAST:
            message = f"{images} of the {LEAST} images that a comparison with validation needs have been answered."
            return {"status": "too-few", **told, "alarm_since": "", "measures": [], "message": message}
        measured = {name: sum(counts) for name, counts in self._bins.items() if sum(counts) >= LEAST}
        level = FALSE_ALARMS / (len(measured) + len(self._facts))
        measures = [self._distribution(name, n, level) for name, n in measured.items()]
        measures += [self._rate(name, count, images, level) for name, count in self._facts.items()]
        alarms = [one for one in measures if one["alarm"]]
        self._alarms = frozenset(one["name"] for one in alarms)
        if alarms:
            self._alarm_since = self._alarm_since or _text(self._kept[-1].seen.time)
            first = max(alarms, key=lambda one: one["value"] / one["limit"])["message"]
            more = f" {len(alarms)} of {len(measures)} measures differ from validation." if len(alarms) > 1 else ""
            message = f"{first}{more} Nobody has shown that the model is right on such images."
        else:
            self._alarm_since = ""
            message = f"The last {images:,} images are like those of validation, as far as can be measured."
        told |= {"alarm_since": self._alarm_since, "measures": measures, "message": message}
        return {"status": "alarm" if alarms else "ok", **told}

    def _is_alarm(self, name: str, value: float, limit: float) -> bool:
        return value > limit * (_STAYS if name in self._alarms else 1)

    def _distribution(self, name: str, images: int, level: float) -> dict[str, Any]:
        histogram = self.reference.histograms[name]
        then, now = histogram.counts, self._bins[name]
        value = stability_index(now, then)
        limit = index_limit(images / histogram.together, sum(then) / histogram.together, len(then), level)
        mean = self._sums[name] / images
        alarm = self._is_alarm(name, value, limit)
        return {
            "name": name,
            "value": round(value, 4),
            "limit": round(limit, 4),
            "alarm": alarm,
            "message": of_distribution(name, mean, histogram.mean, now, then, alarm=alarm),
            "reference": _shares(then),
            "now": _shares(now),
        }

    def _rate(self, name: str, count: int, images: int, level: float) -> dict[str, Any]:
        rate, before = self.reference.rates[name], self.reference.images
        then = rate.count
        value, limit = rate_difference(count, images, then, before, level, together=rate.together)
        alarm = self._is_alarm(name, value, limit)
        return {
            "name": name,
            "value": round(value, 4),
            "limit": round(limit, 4),
            "alarm": alarm,
            "message": of_rate(name, count / images, then / before, alarm=alarm),
            "reference": [round(then / before, 4)],
            "now": [round(count / images, 4)],
        }


def _text(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="seconds")


def _shares(counts: Iterable[int]) -> list[float]:
    listed = list(counts)
    return [round(count / sum(listed), 4) for count in listed]
