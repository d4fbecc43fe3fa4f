"""From what a user asked for to what a job is told: checks, packing, and the job's name."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medimg import models
from medimg.backends.identity import base_name, code_digest, file_input, model_input
from medimg.config import JobSpec, Resources, TrainConfig
from medimg.data.pack import build
from medimg.data.splits import ready_for_training
from medimg.errors import DatasetError
from medimg.models.weights import resolve
from medimg.progress import Event, Report

if TYPE_CHECKING:
    from medimg.artifact import ModelFolder
    from medimg.data.dataset import Dataset, Split

__all__ = ["Submission", "prepare_prediction", "prepare_training"]


@dataclass(frozen=True)
class Submission:
    """A job that is ready to be submitted, but for its attempt.

    Attributes:
        base: The job's name without its attempt.
        pack: Folder of the packed dataset.
        facts: The other fields of the specification.
    """

    base: str
    pack: Path
    facts: dict[str, Any]

    def spec(self, attempt: int, checkpoints: str) -> JobSpec:
        """Returns the specification of an attempt."""
        return JobSpec(base=self.base, pack=self.pack.name, attempt=attempt, checkpoints=checkpoints, **self.facts)


def prepare_training(
    dataset: Dataset, config: TrainConfig, resources: Resources, name: str, allow: Collection[str], report: Report
) -> Submission:
    """Checks the configuration and the data, packs the images and names the job."""
    models.check(config)
    inputs = {}
    weights = resolve(config, progress=lambda done, total: report(Event("stage", "downloading", done, total or 0)))
    if weights is not None:
        inputs["weights"] = file_input(weights)
        # The path stays here: the job is told the content's name.
        config = config.model_copy(update={"weights": inputs["weights"]})
    dataset.index(report)
    dataset, notices = ready_for_training(dataset, seed=config.seed, allow=allow, report=report)
    for notice in notices:
        report(Event("warning", message=notice))
    return _submission("train", name, dataset, config.image_size, inputs, resources, report, config, None, notices)


def prepare_prediction(
    model: ModelFolder, dataset: Dataset, split: Split | None, resources: Resources, report: Report
) -> Submission:
    """Packs the images of a split and names the job."""
    chosen = dataset.samples if split is None else dataset.of(split)
    if not chosen:
        raise DatasetError(f"the dataset has no {split} split. Splits: {', '.join(dataset.splits) or 'none'}")
    dataset = replace(dataset, samples=tuple(chosen))
    facts = dataset.index(report)
    rejected = [sample.id for sample in chosen if facts[sample.id].rejection is not None]
    notices = tuple(f"left out: {facts[id].rejection}" for id in rejected)
    for notice in notices:
        report(Event("warning", message=notice))
    size = model.record.preprocessing.image_size
    inputs = {"model": model_input(model)}
    return _submission(
        "predict", "predict", dataset.without(rejected), size, inputs, resources, report, None, split, ()
    )


def _submission(
    kind: str, name: str, dataset: Dataset, size: int, inputs: dict[str, str], resources: Resources, report: Report,
    config: TrainConfig | None, split: str | None, notices: tuple[str, ...],
) -> Submission:  # fmt: skip
    facts = dataset.index(report)
    fingerprint = dataset.fingerprint_of(facts)
    pack = build(dataset, size, facts=facts, report=report)
    identity = {
        "kind": kind,
        "config": None if config is None else config.model_dump(mode="json"),
        "data": fingerprint,
        "pack": pack.name,  # classes, positive class and named columns are in its address
        "inputs": inputs,
        "split": split,
        "code": code_digest(),
        # A table of predictions is keyed by sample id: the same pixels under other names are another table.
        "ids": sorted(sample.id for sample in dataset.samples) if kind == "predict" else None,
    }
    told: dict[str, Any] = {
        "kind": kind, "config": config, "resources": resources, "data": fingerprint, "inputs": inputs, "split": split,
        "code": code_digest(), "notices": notices,
    }  # fmt: skip
    return Submission(base_name(name, identity), pack, told)
