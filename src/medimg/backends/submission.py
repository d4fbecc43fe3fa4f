"""From what a user asked for to what a job is told: checks, packing, and the job's name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medimg import models
from medimg.backends.identity import base_name, code_digest, code_input, file_input, model_input
from medimg.backends.starting_point import settled
from medimg.config import Finding, Framework, JobSpec, Resources, TrainConfig
from medimg.data.kept import KeptPixels
from medimg.data.labels import amount
from medimg.data.pack import Pack, build
from medimg.data.preparation import ready_for_training
from medimg.errors import DatasetError
from medimg.home import Use
from medimg.models.registry import is_own
from medimg.models.source_code import source_of
from medimg.models.weights import resolve
from medimg.progress import Event, Report

if TYPE_CHECKING:
    from medimg.artifact import ModelFolder
    from medimg.data.dataset import Dataset, Split

__all__ = ["Submission", "prepare_prediction", "prepare_training"]


# What a job's name does not depend on: how it is run, what was said about its data, and whose ids its manifest holds.
_UNNAMED = {
    "base", "attempt", "checkpoints", "resources", "notices", "audit", "allow", "samples", "timings", "workload",
}  # fmt: skip


@dataclass(frozen=True)
class Submission:
    """A job that is ready to be submitted; while it lives, the pack and inputs it names stay.

    Attributes:
        first: The specification of its first attempt.
        packed: The packed dataset.
        inputs: The files it needs beside.
    """

    first: JobSpec
    packed: Pack
    inputs: tuple[Use, ...]

    @property
    def base(self) -> str:
        """The job's name without its attempt."""
        return self.first.base

    @property
    def pack(self) -> Path:
        """Folder of the packed dataset."""
        return self.packed.path

    def spec(self, attempt: int, checkpoints: str, timings: Mapping[str, float]) -> JobSpec:
        """Returns the specification of an attempt."""
        return self.first.model_copy(update={"attempt": attempt, "checkpoints": checkpoints, "timings": dict(timings)})


def prepare_training(
    dataset: Dataset, config: TrainConfig, resources: Resources, name: str, allow: Collection[str], report: Report,
    framework: Framework = "tensorflow",
) -> Submission:  # fmt: skip
    """Checks the configuration and the data, packs the images and names the job."""
    if not dataset.classes:
        raise DatasetError(
            "the dataset has no labels: Dataset.from_images is for backend.predict_batch(…). To train, read it with "
            "Dataset.from_folder or Dataset.from_csv"
        )
    start = settled(config)
    config = start.config
    models.check(config)
    weights = resolve(config, progress=lambda done, total: report(Event("stage", "downloading", done, total or 0)))
    inputs = {} if weights is None else {"weights": file_input(weights)}
    if inputs and config.weights != "imagenet":
        # A user's path stays here: the job is told the content's name.
        config = config.model_copy(update={"weights": inputs["weights"].path.name})
    if is_own(config.model):
        inputs["code"] = code_input(source_of(config.model))
    with KeptPixels(config.image_size, len(dataset)) as kept:
        facts = dataset.index(report, kept)
        ready = ready_for_training(dataset, allow=allow, facts=facts, report=report)
        start.check_channels(max(facts[sample.id].channels for sample in ready.dataset.samples))
        pack = build(ready.dataset, config.image_size, facts=facts, report=report, kept=kept)
    return _submission(
        "train", name, pack, inputs, resources, config=config, notices=(*ready.notices, *start.notices),
        audit=ready.audit.findings, allow=tuple(sorted(allow)), framework=framework,
    )  # fmt: skip


def prepare_prediction(
    model: ModelFolder, dataset: Dataset, split: Split | None, resources: Resources, report: Report
) -> Submission:
    """Packs the images of a split and names the job."""
    chosen = dataset.samples if split is None else dataset.of(split)
    if not chosen:
        raise DatasetError(
            "the dataset has no images"
            if split is None
            else f"the dataset has no {split} split. Splits: {', '.join(dataset.splits) or 'none'}"
        )
    dataset = replace(dataset, samples=tuple(chosen))
    size = model.record.preprocessing.image_size
    with KeptPixels(size, len(dataset)) as kept:
        facts = dataset.index(report, kept)
        rejected = {id: fact.rejection for id, fact in facts.items() if fact.rejection is not None}
        if len(rejected) == len(chosen):
            shown = "\n".join(f"  {rejection}" for rejection in list(rejected.values())[:10])
            raise DatasetError(f"none of {amount(len(chosen), 'image')} can be read:\n{shown}")
        for rejection in rejected.values():
            report(Event("warning", message=f"left out: {rejection}"))
        pack = build(dataset.without(rejected), size, facts=facts, report=report, kept=kept)
    return _submission(
        "predict", "predict", pack, {"model": model_input(model)}, resources, split=split,
        rejected={id: rejection.code for id, rejection in rejected.items()},
    )  # fmt: skip


def _submission(
    kind: Literal["train", "predict"],
    name: str,
    pack: Pack,
    inputs: Mapping[str, Use],
    resources: Resources,
    *,
    config: TrainConfig | None = None,
    split: Split | None = None,
    rejected: Mapping[str, str] | None = None,
    notices: tuple[str, ...] = (),
    audit: tuple[Finding, ...] = (),
    allow: tuple[str, ...] = (),
    framework: Framework = "tensorflow",
) -> Submission:
    workload: dict[str, str | int] = {}
    if config is not None:
        workload = {
            "model": config.model, "image_size": config.image_size, "images": len(pack),
            "epochs": config.epochs + config.fine_tune_epochs, "views": config.views,
        }  # fmt: skip
    draft = JobSpec(
        kind=kind, base=name, checkpoints=name, config=config, resources=resources, data=pack.fingerprint,
        pack=pack.path.name, samples=pack.manifest, inputs={role: use.path.name for role, use in inputs.items()},
        split=split, rejected=dict(rejected or {}), code=code_digest(), notices=notices, audit=audit, allow=allow,
        workload=workload, framework=framework,
    )  # fmt: skip
    # A table of predictions is keyed by sample id: the same pixels under other names are another table.
    unnamed = _UNNAMED - {"samples"} if kind == "predict" else _UNNAMED
    base = base_name(name, draft.model_dump(mode="json", exclude=unnamed))
    return Submission(draft.model_copy(update={"base": base, "checkpoints": base}), pack, tuple(inputs.values()))
