"""What a training or an endpoint will cost, and what a job did cost: never a figure without its source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from medimg.backends.estimate import Bound, CostEstimate, CostItem
from medimg.backends.rates import UNITS, Rate, money
from medimg.backends.resource import Resource
from medimg.config import Resources, ServeConfig, TrainConfig
from medimg.errors import ConfigError

__all__ = ["Cost", "Measured", "comparable", "estimate", "job_cost"]

DAYS = 30  # that storage and a forgotten endpoint are counted for
GB = 2**30  # bytes: how clouds count
ASSUMED_MEMORY_MB: Mapping[str, int] = {"lambda": 2048, "serverless": 2048}
ASSUMED_MILLISECONDS = 100.0  # of one prediction on demand
RELAY_MB = 512  # of the function behind an HTTP address


@dataclass(frozen=True, slots=True)
class Measured:
    """How long a comparable job took: the same network and image size, on the same instance.

    Attributes:
        job: Its id.
        seconds: That it ran.
        images: That it had.
        epochs: That it was to run at most.
        fixed: Of the seconds, those that do not grow with images and epochs: starting, importing, exporting. None: it
            is not known how many, so a smaller job is taken to last as long.
    """

    job: str
    seconds: float
    images: int
    epochs: int
    fixed: float | None = None

    def growth(self, images: int, epochs: int) -> float:
        """Returns how many times the work of this job so many images and epochs are."""
        return images / max(1, self.images) * epochs / max(1, self.epochs)

    def hours(self, images: int, epochs: int) -> float:
        """Returns the hours that so many images and epochs take at the same pace."""
        growth = self.growth(images, epochs)
        if self.fixed is None:
            return self.seconds * max(1.0, growth) / 3600
        return (self.fixed + max(0.0, self.seconds - self.fixed) * growth) / 3600


def comparable(jobs: Iterable[Resource], config: TrainConfig, resources: Resources) -> Measured | None:
    """Returns how long the latest completed job of the same network, image size, views and instance took, or None."""
    wanted = {"model": config.model, "image_size": config.image_size, "views": config.views}
    alike = []
    for job in jobs:
        same = wanted.items() <= job.details.get("workload", {}).items()
        if same and job.status == "completed" and job.details.get("instance") == resources.instance:
            alike.append(job)
    if not alike:
        return None
    latest = max(alike, key=lambda job: job.created)
    work, seconds = latest.details["workload"], latest.details.get("training_seconds")
    if not seconds:
        return None
    return Measured(latest.id, float(seconds), int(work["images"]), int(work["epochs"]))


def estimate(
    rates: Mapping[str, Rate],
    *,
    images: int,
    config: TrainConfig,
    resources: Resources,
    serve: ServeConfig | None = None,
    pack_bytes: float | None = None,
    channels: int | None = None,
    hours: float | None = None,
    measured: Measured | None = None,
    predictions: int = 1000,
    milliseconds: float | None = None,
) -> CostEstimate:
    """Returns what training on a dataset costs, and serving the model for the first 30 days.

    Args:
        rates: The backend's prices by key: see `medimg.backends.rates`. What is not among them is unknown.
        images: In the dataset.
        config: How to train.
        resources: On what.
        serve: How to serve; None: not at all.
        pack_bytes: Size of the packed dataset as it is uploaded; None: its pixels without compression.
        channels: 1 where all images are grey; None: it is not known, so 3.
        hours: That the training takes, if the user knows.
        measured: How long a comparable job took, else.
        predictions: To count where they are paid for one by one.
        milliseconds: That one prediction takes there; None: 100.

    Raises:
        ConfigError: A number that cannot be.
    """
    for name, value in (("hours", hours), ("milliseconds", milliseconds), ("predictions", predictions)):
        if value is not None and not 0 < value < float("inf"):
            raise ConfigError(f"{name}={value!r}: more than 0")
    items = [_training(rates, images, config, resources, hours, measured)]
    items += _data(rates, images, config, pack_bytes, channels)
    title = f"{images:,} images of {config.image_size} px, {config.model}"
    if serve is not None:
        items += _serving(rates, serve, predictions, milliseconds)
        title += f", then a {serve.kind} endpoint; the first {DAYS} days"
    return CostEstimate(tuple(items), title)


def _rate(rates: Mapping[str, Rate], key: str) -> Rate:
    return rates.get(key) or Rate(None, UNITS[key], f"this backend tells no price of {key}")


def _training(
    rates: Mapping[str, Rate],
    images: int,
    config: TrainConfig,
    resources: Resources,
    hours: float | None,
    measured: Measured | None,
) -> CostItem:
    rate, notes = _rate(rates, "training"), []
    bound: Bound = ""
    epochs = config.epochs + config.fine_tune_epochs
    if hours is not None:
        notes.append("the time is given by you")
    elif measured is not None:
        hours = measured.hours(images, epochs)
        if measured.fixed is None and measured.growth(images, epochs) < 1:
            bound = "at most"
            notes.append(f"the time that {measured.job} took, with more images or epochs")
        else:
            notes.append(f"the time that {measured.job} took, for {images:,} images and {epochs} epochs")
    else:
        hours, bound = resources.max_hours, "at most"
        notes.append(f"the time is not known before: the job is stopped after max_hours={resources.max_hours:g}")
    if hours > resources.max_hours:
        hours = resources.max_hours
        notes.append(f"the job is stopped after max_hours={hours:g}")
    if resources.spot:
        spot = _rate(rates, "training-spot")
        if spot.amount is None:
            bound = "at most"
            notes.append(f"at the price without spot: {spot.note or 'with spot it is not known before'}")
        else:
            rate = spot
    machine = rate.of or resources.instance or "a machine"
    what = f"training on {resources.count} × {machine}" + (", spot" if resources.spot else "")
    return CostItem(what, hours * resources.count, rate, bound, "; ".join(notes))


def _data(
    rates: Mapping[str, Rate], images: int, config: TrainConfig, pack_bytes: float | None, channels: int | None
) -> Iterator[CostItem]:
    bound: Bound = ""
    note = ""
    if pack_bytes is None:
        pack_bytes = images * config.image_size**2 * (channels or 3)
        bound, note = "at most", "the pixels without compression"
    yield CostItem("upload, once", pack_bytes / GB, _rate(rates, "upload"), bound, note)
    yield CostItem(f"storage for {DAYS} days", pack_bytes / GB, _rate(rates, "storage"), bound, note)


def _serving(
    rates: Mapping[str, Rate], serve: ServeConfig, predictions: int, milliseconds: float | None
) -> Iterator[CostItem]:
    assumed = "" if milliseconds is not None else f", {ASSUMED_MILLISECONDS:g} ms assumed"
    seconds = (milliseconds or ASSUMED_MILLISECONDS) / 1000 * predictions
    million = predictions / 1e6
    many = f"{predictions:,} predictions"
    if serve.kind == "realtime":
        yield from _machines(_rate(rates, "endpoint"), serve)
    else:
        memory_mb = serve.memory_mb or ASSUMED_MEMORY_MB[serve.kind]
        note = f"{memory_mb} MB{'' if serve.memory_mb else ' assumed'}"
        note += assumed or f", {milliseconds:g} ms"
        yield CostItem(
            many, memory_mb / 1024 * seconds, _rate(rates, "compute"), note=f"{note}; nothing while nobody asks"
        )
    if serve.kind == "lambda" or serve.http_api:
        yield CostItem(f"{many}: HTTP address", million, _rate(rates, "gateway"))
        yield CostItem(f"{many}: calls of the function", million, _rate(rates, "requests"))
    if serve.kind != "lambda" and serve.http_api:
        note = f"{RELAY_MB} MB; it waits while the endpoint computes{assumed}"
        yield CostItem(f"{many}: relay", RELAY_MB / 1024 * seconds, _rate(rates, "relay"), note=note)


def _machines(rate: Rate, serve: ServeConfig) -> Iterator[CostItem]:
    count = serve.min_instances
    scales = serve.max_instances > count
    bound: Bound = "at least" if scales else ""
    note = f"up to {serve.max_instances} machines at the highest load" if scales else ""
    what = f"endpoint on {count} × {rate.of or serve.instance or 'a machine'}"
    yield CostItem(f"{what}, an hour", count, rate, bound, note, counted=False)
    yield CostItem(f"{what}, a day", 24 * count, rate, bound, counted=False)
    month = DAYS * 24.0
    if serve.ttl_hours is None:
        note = "" if rate.amount == 0 else "it is billed until it is deleted: set ttl_hours, or delete it"
        yield CostItem(f"{what}, {DAYS} days", month * count, rate, bound, note)
    else:
        hours = min(serve.ttl_hours, month)
        note = f"it deletes itself after ttl_hours={serve.ttl_hours:g}"
        yield CostItem(f"{what}, until it deletes itself", hours * count, rate, bound, note)


@dataclass(frozen=True, slots=True, repr=False)
class Cost:
    """What a job did cost.

    Attributes:
        billable_seconds: That each machine is billed for.
        training_seconds: That it ran; None: the backend does not tell.
        count: Machines.
        rate: The price of a machine-hour, as it is known today.
        spot: Whether it ran on interruptible capacity.
        full: The price without spot, where spot has a price of its own; None: it has none, and what it saves is in the
            seconds.
    """

    billable_seconds: float
    rate: Rate
    count: int = 1
    training_seconds: float | None = None
    spot: bool = False
    full: Rate | None = None

    @property
    def amount(self) -> float | None:
        """In the currency of the price; None: the price is not known."""
        return None if self.rate.amount is None else self.billable_seconds / 3600 * self.count * self.rate.amount

    @property
    def saved(self) -> float | None:
        """The share that spot saved, 0 to 1; None: the job did not use it, or the backend does not tell."""
        if not self.spot:
            return None
        if self.full is not None:
            return 1 - self.rate.amount / self.full.amount if self.rate.amount and self.full.amount else None
        return max(0.0, 1 - self.billable_seconds / self.training_seconds) if self.training_seconds else None

    def __repr__(self) -> str:
        machine = f"{self.count} × {self.rate.of or 'a machine'}"
        amount = "unknown" if self.amount is None else money(self.amount, self.rate.currency)
        saved = "" if self.saved is None else f", spot saved {self.saved:.0%}"
        how = f"{self.billable_seconds:,.0f} s billed on {machine}{saved}"
        price = self.rate.origin if self.rate.amount is None else f"{self.rate.text}: {self.rate.origin}"
        return f"{amount} ({how}; {price})"

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>"


def job_cost(details: Mapping[str, Any], rates: Mapping[str, Rate]) -> Cost | None:
    """Returns what a job did cost; None where its backend has not told what it bills.

    Args:
        details: Of the job: `billable_seconds`, `training_seconds`, `instance`, `count`, `spot`.
        rates: Prices by key. A job on spot is billed at "training-spot" where that is known; where it is not, as at
            SageMaker, billable seconds tell the saving, and are billed at the full price.
    """
    billable = details.get("billable_seconds")
    if billable is None:
        return None
    rate, spot = _rate(rates, "training"), bool(details.get("spot"))
    low = rates.get("training-spot") if spot else None
    if low is not None and low.amount is None:
        low = None
    running = details.get("training_seconds")
    return Cost(
        float(billable),
        low or rate,
        int(details.get("count") or 1),
        None if running is None else float(running),
        spot,
        rate if low else None,
    )
