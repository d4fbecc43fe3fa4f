"""The same training in several places, side by side: what it will cost, and what it took where it was done."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from medimg.backends import available_backends
from medimg.backends import backend as open_backend
from medimg.backends.base import Backend
from medimg.backends.cost import Cost
from medimg.backends.estimate import CostEstimate
from medimg.backends.job import Job
from medimg.backends.rates import money
from medimg.config import Resources, ServeConfig, TrainConfig
from medimg.data.dataset import Dataset
from medimg.errors import ConfigError, MedimgError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from medimg.evaluation.plot import Plot

__all__ = ["CostComparison", "Place", "compare_costs"]

Where = Backend | str
"""A backend, or the name of one."""

_REJECTED = 0.01  # the share of unreadable images up to which a training goes on: so many fewer are the same work
_SENDING, _WAITING, _TRAINING, _AFTER = "sending", "waiting", "training", "evaluating and saving"
GROUPS = (_SENDING, _WAITING, _TRAINING, _AFTER)
_GROUP_OF = {
    **dict.fromkeys(("reading", "auditing", "packing", "bundling", "uploading", "emptying"), _SENDING),
    **dict.fromkeys(("queueing", "provisioning", "preparing", "downloading", "interrupted"), _WAITING),
    **dict.fromkeys(("exporting", "evaluating", "saving"), _AFTER),
}


def _group(stage: str) -> str:
    return _GROUP_OF.get(stage, _TRAINING)


@dataclass(frozen=True, slots=True)
class Place:
    """One backend of a comparison.

    Attributes:
        backend: Its name.
        machine: That trains; "" where the backend has only one.
        estimate: What training there will cost; None: it could not be asked, see `reason`.
        reason: Why it could not be asked; "" where it could.
        job: The latest finished training of the same work there; "": there is none.
        timings: Its seconds by stage, as `Job.timings` without the epochs.
        epochs: Its seconds of each epoch.
        cost: What it did cost; None: nothing is billed, or there is no job.
        auroc: Its AUROC on test (else validation); None: there is none.
    """

    backend: str
    machine: str = ""
    estimate: CostEstimate | None = None
    reason: str = ""
    job: str = ""
    timings: Mapping[str, float] = field(default_factory=dict)
    epochs: tuple[float, ...] = ()
    cost: Cost | None = None
    auroc: float | None = None

    @property
    def seconds(self) -> float:
        """From the call to the end of the job."""
        return sum(self.timings.values())

    @property
    def grouped(self) -> dict[str, float]:
        """Seconds by group of stages: sending, waiting, training, evaluating and saving."""
        spent = dict.fromkeys(GROUPS, 0.0)
        for stage, seconds in self.timings.items():
            spent[_group(stage)] += seconds
        return spent

    @property
    def epoch_seconds(self) -> float | None:
        """The median epoch's; None: there is no job."""
        return statistics.median(self.epochs) if self.epochs else None

    @property
    def cells(self) -> tuple[str, ...]:
        """A row of the table, in words."""
        estimate = self.estimate.summary if self.estimate is not None else self.reason or "unknown"
        if not self.job:
            return (self.backend, self.machine, estimate, "–", "–", "–", "–", "–")
        billed = "nothing is billed" if self.cost is None else "unknown"
        if self.cost is not None and self.cost.amount is not None:
            billed = money(self.cost.amount, self.cost.rate.currency)
        epoch = "–" if self.epoch_seconds is None else f"{self.epoch_seconds:,.2f} s"
        auroc = "–" if self.auroc is None else f"{self.auroc:.3f}"
        return (self.backend, self.machine, estimate, self.job, f"{self.seconds:,.1f} s", epoch, billed, auroc)


_HEAD = ("", "machine", "estimate", "finished job", "took", "an epoch", "did cost", "AUROC")


@dataclass(frozen=True, slots=True, repr=False)
class CostComparison:
    """Several backends side by side; print it, or show it in a notebook.

    Attributes:
        places: One a backend, in the order that was asked for.
        title: What is compared.
    """

    places: tuple[Place, ...]
    title: str = ""

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that any of the finished jobs had, in their order."""
        found = dict.fromkeys(stage for place in self.places for stage in place.timings)
        return tuple(sorted(found, key=lambda stage: GROUPS.index(_group(stage))))

    def to_json(self) -> list[dict[str, Any]]:
        """Returns a row a backend, as plain data: for a table of your own."""
        return [
            {
                "backend": place.backend,
                "machine": place.machine,
                "estimate": None if place.estimate is None else place.estimate.total,
                "currency": None if place.estimate is None else place.estimate.currency,
                "reason": place.reason,
                "job": place.job or None,
                "seconds": place.seconds if place.job else None,
                "timings": dict(place.timings),
                "epoch_seconds": list(place.epochs),
                "cost": None if place.cost is None else place.cost.amount,
                "auroc": place.auroc,
            }
            for place in self.places
        ]

    def figure(self) -> Plot:
        """Returns the comparison as a picture: where the time went, and what it costs."""
        from medimg.backends.compare_figure import draw

        return draw(self)

    def _rows(self) -> Iterator[tuple[str, ...]]:
        for stage in self.stages:
            yield (stage, *(f"{place.timings[stage]:,.1f}" if stage in place.timings else "–" for place in self._done))

    @property
    def _done(self) -> Sequence[Place]:
        return [place for place in self.places if place.job]

    def __rich__(self) -> RenderableType:
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(*_HEAD, box=box.SIMPLE_HEAD, pad_edge=False)
        for column in table.columns[4:]:
            column.justify = "right"
        for place in self.places:
            table.add_row(*map(Text, place.cells))
        shown: list[RenderableType] = [Text(self.title, style="bold"), table]
        if self._done:
            spent = Table("seconds", *(place.backend for place in self._done), box=box.SIMPLE_HEAD, pad_edge=False)
            for column in spent.columns[1:]:
                column.justify = "right"
            for row in self._rows():
                spent.add_row(*row)
            shown.append(spent)
        return Group(*shown)

    def __repr__(self) -> str:
        import io

        from rich.console import Console

        stream = io.StringIO()
        Console(file=stream, width=160, color_system=None).print(self)
        return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())

    def _repr_html_(self) -> str:
        def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
            top = "".join(f"<th style='text-align:left'>{escape(name)}</th>" for name in head)
            body = "".join(
                "<tr>" + "".join(f"<td style='text-align:left'>{escape(cell)}</td>" for cell in row) + "</tr>"
                for row in rows
            )
            return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"

        shown = f"<p><b>{escape(self.title)}</b></p>" + table(_HEAD, [place.cells for place in self.places])
        if self._done:
            head = ("seconds", *(place.backend for place in self._done))
            shown += table(head, list(self._rows()))
        return f"<div>{shown}<div style='max-width:900px'>{self.figure().svg().decode()}</div></div>"


def compare_costs(
    dataset: Dataset,
    config: TrainConfig | None = None,
    backends: Sequence[Where | tuple[Where, Resources]] = ("local",),
    *,
    serve: ServeConfig | None = None,
    hours: float | None = None,
) -> CostComparison:
    """Returns what a training costs on several backends, and what it took where it was done; starts nothing.

    A finished training counts as done where machine, network, image size, epochs and the number of images are the same.

    Args:
        dataset: The images.
        config: How to train; None: the defaults.
        backends: Backends, names of them, or pairs of either with its `Resources`: so two machines of one cloud are
            compared.
        serve: How to serve; None: not at all.
        hours: That the training takes, if you know; None: as `Backend.estimate` finds out.

    Raises:
        ConfigError: No backend, or none of such a name.
    """
    config = config or TrainConfig()
    if not backends:
        raise ConfigError("nothing to compare. Pass backends=['local', 'sagemaker', 'azureml']")
    pairs = [each if isinstance(each, tuple) else (each, Resources()) for each in backends]
    places = tuple(_place(where, dataset, config, resources, serve, hours) for where, resources in pairs)
    return CostComparison(places, f"{len(dataset):,} images of {config.image_size} px, {config.model}")


def _place(
    where: Where,
    dataset: Dataset,
    config: TrainConfig,
    resources: Resources,
    serve: ServeConfig | None,
    hours: float | None,
) -> Place:
    if isinstance(where, Backend):
        backend = where
    else:
        try:
            backend = open_backend(where)
        except MedimgError as error:
            if where not in {known.name for known in available_backends()}:
                raise
            return Place(where, resources.instance or "", reason=str(error))
    machine = backend._with_defaults(resources, None)[0].instance or ""
    try:
        estimate = backend.estimate(dataset, config, resources, serve=serve, hours=hours)
        job = _finished(backend, dataset, config, machine)
        if job is None:
            return Place(backend.name, machine, estimate)
        timings = job.timings
        epochs = {stage: seconds for stage, seconds in timings.items() if stage.startswith("epoch ")}
        return Place(
            backend.name,
            machine,
            estimate,
            job=job.id,
            timings={stage: seconds for stage, seconds in timings.items() if stage not in epochs},
            epochs=tuple(epochs.values()),
            cost=job.cost,
            auroc=job.metrics.get("auroc"),
        )
    except ConfigError:
        raise  # the caller's mistake
    except MedimgError as error:
        # One cloud that cannot be asked does not keep the others from being compared.
        return Place(backend.name, machine, reason=str(error))


def _finished(backend: Backend, dataset: Dataset, config: TrainConfig, machine: str) -> Job | None:
    """Returns the latest completed training of the same work on that machine; None: there is none."""
    wanted = {
        "model": config.model, "image_size": config.image_size, "epochs": config.epochs + config.fine_tune_epochs,
        "views": config.views,
    }  # fmt: skip
    fewest = len(dataset) * (1 - _REJECTED)

    def same(details: Mapping[str, Any]) -> bool:
        work = details.get("workload", {})
        images = int(work.get("images", 0))
        return wanted.items() <= work.items() and fewest <= images <= len(dataset) and _machine(details) == machine

    done = [job for job in backend._list("job") if job.status == "completed" and same(job.details)]
    return Job(backend, max(done, key=lambda resource: resource.created).id) if done else None


def _machine(details: Mapping[str, Any]) -> str:
    return str(details.get("instance") or "")
