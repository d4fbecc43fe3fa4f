"""From a model and a pack to a judgement: thresholds on validation, then one look at test."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from medimg.artifact import ModelFolder, ModelRecord, add_look
from medimg.config import Finding
from medimg.data.pack import Pack, build
from medimg.errors import ConfigError, DatasetError
from medimg.evaluation.cases import make_cases
from medimg.evaluation.constant import check_varied
from medimg.evaluation.masking import check_centre
from medimg.evaluation.report import Report
from medimg.evaluation.seen import check_unseen
from medimg.evaluation.thresholds import choose
from medimg.inference.predictions import Predictions
from medimg.inference.predictor import Predictor
from medimg.progress import Display
from medimg.progress import Report as Progress

if TYPE_CHECKING:
    from medimg.data.dataset import Dataset

__all__ = ["Scored", "check_classes", "evaluate", "judge", "score"]


def judge(
    model: ModelFolder,
    pack: Pack,
    *,
    history: Sequence[Mapping[str, Any]],
    test_looks: int,
    audit: Iterable[Finding],
    allow: Collection[str],
    report: Progress,
) -> tuple[ModelRecord, Report]:
    """Chooses thresholds on validation and only then scores test, if there is one.

    Args:
        model: The draft folder; not sealed yet.
        pack: The data it was trained with.
        history: One row an epoch.
        test_looks: How often test has been scored with this model, this time included.
        audit: What the checks of the data found.
        allow: Checks to override.
        report: Told of progress.

    Returns:
        The record with thresholds and metrics, and the report.

    Raises:
        AuditError: "constant-predictions": the network says the same of every image of validation.
    """
    predictor = Predictor(model)
    val = predictor.predict_pack(pack, split="val", report=report)
    thresholds = choose(val, model.record.config.threshold)
    varied = check_varied(val, thresholds, allow=allow)
    tables = {"val": val}
    if len(pack.rows("test")):
        tables["test"] = predictor.predict_pack(pack, split="test", report=report)
    made = Report.build(
        tables,
        thresholds,
        test_looks=test_looks,
        history=_columns(history),
        record=_facts(model.record),
        notices=model.record.notices,
        audit=(*audit, varied, check_centre(predictor, pack, val)),
        ordinal=model.record.config.ordinal,
        progress=report,
    )
    metrics = {name: dict(figures.summary()) for name, figures in made.splits.items()}
    record = model.record.model_copy(
        update={
            "thresholds": thresholds.values,
            "uncertain": thresholds.uncertain,
            "conformal": thresholds.conformal,
            "metrics": metrics,
        }
    )
    return record, made


@dataclass(frozen=True)
class Scored:
    """A split of a dataset, scored by a model.

    Attributes:
        predictions: With labels.
        pack: The images.
        looks: How often test has been scored with this model, this time included.
        notices: What a reader should know: images that were left out, images that the model has seen.
    """

    predictions: Predictions
    pack: Pack
    looks: int
    notices: tuple[str, ...]


def evaluate(model: ModelFolder, dataset: Dataset, *, split: str) -> Report:
    """Scores a split of a dataset, or all of a dataset without splits: see `ModelFolder.evaluate`."""
    scored = score(model, dataset, split=split)
    thresholds, notices = model.report.thresholds, list(scored.notices)
    try:
        cases = make_cases(model, scored.pack, scored.predictions, thresholds.values)
    except ConfigError as error:
        cases = ()
        notices.append(f"The report shows no images: {error}")
    return Report.build(
        {split: scored.predictions}, thresholds, test_looks=scored.looks, record=_facts(model.record), notices=notices,
        cases=cases, ordinal=model.record.config.ordinal,
    )  # fmt: skip


def score(model: ModelFolder, dataset: Dataset, *, split: str) -> Scored:
    """Returns a model's predictions of a split, or of all of a dataset without splits; a look at test is counted.

    Raises:
        DatasetError: The dataset has other classes, no such split, or images that the model has learnt from.
    """
    record = model.record
    check_classes(record, dataset)
    chosen = dataset.of(split) if dataset.splits else dataset.samples
    if not chosen:
        raise DatasetError(f"the dataset has no {split} split. Splits: {', '.join(dataset.splits)}")
    samples = tuple(replace(sample, split=split) for sample in chosen)  # type: ignore[arg-type]
    part = replace(dataset, positive=record.positive, samples=samples)
    channels = record.preprocessing.channels
    with Display("evaluate") as display:
        facts = part.index(display)
        rejected = sum(facts[sample.id].rejection is not None for sample in part.samples)
        pack = build(part, record.preprocessing.image_size, facts=facts, report=display)
        notices = [f"{rejected:,} images cannot be read and were left out"] if rejected else []
        notices += check_unseen(model.path, pack, split, channels)
        table = model.predictor.predict_pack(pack, split=split, report=display)
    looks = add_look(model.path, part.fingerprint_of(facts)) if split == "test" else model.test_looks
    return Scored(table, pack, looks, tuple(notices))


def check_classes(record: ModelRecord, dataset: Dataset) -> None:
    """Checks that a dataset asks what a model answers.

    Raises:
        DatasetError: It has another task or other classes.
    """
    kind = (dataset.task, dataset.classes)
    if kind != (record.task, record.classes):
        raise DatasetError(
            f"the dataset is {dataset.task} with {', '.join(dataset.classes)}, the model {record.task} with "
            f"{', '.join(record.classes)}. They must be the same"
        )


def _columns(history: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """Returns the history by quantity, as the learning curves take it."""
    names = [name for name in (history[0] if history else {}) if name not in ("phase", "epoch", "seconds")]
    return {name: [row.get(name) for row in history] for name in names}


def _facts(record: ModelRecord) -> dict[str, Any]:
    config = record.config.model_dump(mode="json")
    model = {
        "architecture": config.pop("model"),
        "options": config.pop("model_options") or "none",
        "job": record.job,
        "created": record.created,
        "runtimes": ", ".join(record.runtimes),
    }
    data = {"classes": ", ".join(record.classes), "task": record.task, **record.data}
    facts = {"model": model, "data": data, "configuration": config, "environment": record.versions}
    if record.calibration is not None:
        facts["calibration"] = record.calibration.model_dump(mode="json")
    return facts
