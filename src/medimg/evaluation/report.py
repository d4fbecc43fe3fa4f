"""The report of a model: what a user holds after training, and what goes on the table of a department."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from medimg.config import Finding
from medimg.errors import DatasetError, ModelFolderError
from medimg.evaluation.cases import Case, load_cases, save_cases
from medimg.evaluation.intervals import Interval
from medimg.evaluation.metrics import Metrics, measure
from medimg.evaluation.patients import measure_patients
from medimg.evaluation.subgroups import Subgroup, gaps, subgroups
from medimg.evaluation.thresholds import Thresholds
from medimg.home import atomic_write
from medimg.inference.predictions import Predictions
from medimg.progress import Event, silent
from medimg.progress import Report as Progress

if TYPE_CHECKING:
    from medimg.evaluation.drawing import Figure

__all__ = ["Report"]

# A fall from validation to test that a changed threshold or chance alone seldom explains.
_LARGE_FALL = 0.1

_RESAMPLES = 2000
_SEED = 0  # the same predictions always give the same intervals


class _Old(BaseModel):
    """What `report.json` held in the first format that is still needed: the figures are measured anew."""

    model_config = ConfigDict(frozen=True)

    format: Literal["medimg-report-1"]
    splits: dict[str, Any]
    thresholds: Thresholds
    history: dict[str, tuple[float | None, ...]]
    record: dict[str, Any]
    notices: tuple[str, ...]
    test_looks: int


class _Content(BaseModel):
    """What `report.json` holds; the predictions and the cases lie beside it."""

    model_config = ConfigDict(frozen=True)

    format: Literal["medimg-report-2"] = "medimg-report-2"
    splits: dict[str, Metrics]
    patients: dict[str, Metrics]
    subgroups: tuple[Subgroup, ...]
    thresholds: Thresholds
    audit: tuple[Finding, ...]
    history: dict[str, tuple[float | None, ...]]
    record: dict[str, Any]
    notices: tuple[str, ...]
    test_looks: int


_ANY: TypeAdapter[_Content | _Old] = TypeAdapter(Annotated[_Content | _Old, Field(discriminator="format")])


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """How good a model is, on which images, and what to worry about.

    Attributes:
        predictions: Split to its table of predictions.
        splits: Split to its figures.
        patients: "mean" and "max" to the figures of the headline split where each patient is judged once, by the mean
            or the highest probability of their images; empty where no patient has several.
        subgroups: The figures of parts of the headline split, by each named column, at the same thresholds.
        thresholds: The thresholds that were frozen on validation.
        audit: What the checks of the data found, the fine ones too.
        cases: Images to look at, with where the model found what it says.
        history: Quantity to one value an epoch.
        record: Facts on model, configuration, data and environment: section to name to value.
        notices: What to worry about: leaks, then the headline split, the thresholds and the data.
        test_looks: How many times test has been scored in this run.
    """

    predictions: Mapping[str, Predictions]
    splits: Mapping[str, Metrics]
    patients: Mapping[str, Metrics]
    subgroups: tuple[Subgroup, ...]
    thresholds: Thresholds
    audit: tuple[Finding, ...]
    cases: tuple[Case, ...]
    history: Mapping[str, Sequence[float | None]]
    record: Mapping[str, Any]
    notices: tuple[str, ...]
    test_looks: int

    @classmethod
    def build(
        cls,
        predictions: Mapping[str, Predictions],
        thresholds: Thresholds,
        *,
        test_looks: int,
        history: Mapping[str, Sequence[float | None]] | None = None,
        record: Mapping[str, Any] | None = None,
        notices: Iterable[str] = (),
        audit: Iterable[Finding] = (),
        cases: Iterable[Case] = (),
        ordinal: bool = False,
        progress: Progress = silent,
    ) -> Report:
        """Returns the report of labelled predictions.

        Args:
            predictions: Split ("val", "test") to its predictions with labels.
            thresholds: From `medimg.evaluation.thresholds.choose`.
            test_looks: How many times test has been scored in this run, this time included; 0 without test.
            history: Quantity to one value an epoch, as Keras gives it; None for a value that was not finite.
            record: Facts as JSON values: section to name to value, such as `{"data": {"name": …}}`.
            notices: What the user was told about the data.
            audit: What the checks of the data found: `JobSpec.audit`.
            cases: Images to look at: `medimg.evaluation.cases.make_cases`.
            ordinal: Whether the classes of a multiclass task are in order, from least to most.
            progress: Told between the parts of it, which take seconds where there are many images.

        Raises:
            DatasetError: The splits do not fit together, share a sample, or have no labels.
        """
        _check(predictions, test_looks)
        values = thresholds.values
        splits: dict[str, Metrics] = {}
        for name, table in predictions.items():
            progress(Event("stage", "intervals", message=name))
            splits[name] = measure(table, values, ordinal=ordinal, resamples=_RESAMPLES, seed=_SEED)
        headline = predictions[_headline(splits)]
        progress(Event("stage", "intervals", message="patients and subgroups"))
        told = [
            *_leaks(predictions),
            *splits[_headline(splits)].notices,
            *_falls(splits),
            *(gap.notice for gap in gaps(headline, values, resamples=_RESAMPLES, seed=_SEED) if gap.notice),
            *thresholds.notices,
            *notices,
        ]
        finite = {
            name: tuple(None if value is None or not math.isfinite(value) else float(value) for value in row)
            for name, row in (history or {}).items()
        }
        return cls(
            predictions=dict(predictions),
            splits=splits,
            patients=measure_patients(headline, values, resamples=_RESAMPLES, seed=_SEED),
            subgroups=subgroups(headline, values, resamples=_RESAMPLES, seed=_SEED),
            thresholds=thresholds,
            audit=tuple(audit),
            cases=tuple(cases),
            history=finite,
            record=dict(record or {}),
            notices=tuple(dict.fromkeys(told)),
            test_looks=test_looks,
        )

    @property
    def headline(self) -> str:
        """The split whose figures count: test, else validation."""
        return _headline(self.splits)

    @property
    def metrics(self) -> dict[str, float]:
        """The headline figures by name; those that cannot be estimated are left out."""
        return self.splits[self.headline].summary()

    @property
    def intervals(self) -> dict[str, Interval]:
        """The 95% intervals of the headline figures by name, where one could be estimated: (low, high)."""
        return dict(self.splits[self.headline].intervals)

    @property
    def worries(self) -> tuple[str, ...]:
        """What to worry about: the notices, then the errors and warnings of the audit."""
        found = (one.message for level in ("error", "warning") for one in self.audit if one.level == level)
        return tuple(dict.fromkeys([*self.notices, *found]))

    @property
    def confusion(self) -> dict[str, dict[str, int]]:
        """True class to decided class to images; for multilabel, label to its four counts."""
        return self.splits[self.headline].confusion

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """Name to figure of the headline split; a notebook shows it, `save` writes it as SVG."""
        from medimg.evaluation import figures

        table, metrics, thresholds = self.predictions[self.headline], self.splits[self.headline], self.thresholds
        drawn = {
            "roc": figures.roc(table, metrics),
            "precision_recall": figures.precision_recall(table, metrics),
            "calibration": figures.calibration(table, metrics),
            "scores": figures.score_histograms(table, thresholds),
            "confusion": figures.confusion(metrics),
            "decision_curve": figures.decision_curves(table, metrics),
            "predictive_values": figures.predictive_curves(table, metrics),
            "learning": figures.learning_curves(self.history),
        }
        return {name: figure for name, figure in drawn.items() if figure.panels}

    def to_json(self, path: str | Path) -> Path:
        """Writes all but predictions and cases: figures with intervals, thresholds, audit, notices, record."""
        content = _Content.model_validate(
            {name: getattr(self, name) for name in _Content.model_fields if name != "format"}
        )
        atomic_write(Path(path), content.model_dump_json(indent=2) + "\n")
        return Path(path)

    def to_html(self, path: str | Path) -> Path:
        """Writes one self-contained page that opens offline and prints, and returns its path."""
        from medimg.evaluation import page

        atomic_write(Path(path), page.page(self))
        return Path(path)

    def save(self, folder: str | Path) -> Path:
        """Writes report.json, report.html, cases.json and one predictions-<split>.csv a split; returns the folder."""
        folder = Path(folder)
        for name, table in self.predictions.items():
            table.to_csv(folder / f"predictions-{name}.csv")
        save_cases(folder, self.cases)
        self.to_html(folder / "report.html")
        return self.to_json(folder / "report.json").parent

    @classmethod
    def load(cls, folder: str | Path) -> Report:
        """Returns a report that `save` wrote, also one of an older medimg: its figures are then measured anew.

        Raises:
            ModelFolderError: A file is missing or is not what `save` wrote.
        """
        path = Path(folder) / "report.json"
        try:
            content = _ANY.validate_json(path.read_bytes())
            tables = {name: Predictions.from_csv(path.parent / f"predictions-{name}.csv") for name in content.splits}
        except (OSError, ValidationError, DatasetError) as error:
            raise ModelFolderError(f"{folder} holds no report that this medimg can read: {error}") from error
        parts = {name: getattr(content, name) for name in type(content).model_fields if name != "format"}
        if isinstance(content, _Old):
            del parts["splits"]
            return cls.build(tables, **parts)
        return cls(predictions=tables, cases=load_cases(path.parent), **parts)

    def __repr__(self) -> str:
        from medimg.evaluation import summary

        return summary.as_text(self)

    def _repr_html_(self) -> str:
        from medimg.evaluation import page

        return page.fragment(self)


def _headline(splits: Mapping[str, object]) -> str:
    return next((name for name in ("test", "val") if name in splits), next(iter(splits)))


def _check(predictions: Mapping[str, Predictions], test_looks: int) -> None:
    if not predictions:
        raise DatasetError("a report needs the predictions of at least one split")
    if "test" in predictions and test_looks < 1:
        raise DatasetError(f"a report on test counts at least one look at it; got test_looks={test_looks}")
    first = next(iter(predictions.values()))
    seen: dict[str, str] = {}
    for name, table in predictions.items():
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise DatasetError(f"the split {name!r} cannot be part of a file name: use letters, digits, - and _")
        if table.split not in (None, name):
            raise DatasetError(f"the predictions given as {name!r} are those of the split {table.split!r}")
        if (table.classes, table.task, table.positive) != (first.classes, first.task, first.positive):
            raise DatasetError(f"{table!r} and {first!r} are not predictions of one model")
        for sample in table:
            if sample in seen:
                raise DatasetError(f"the sample {sample!r} is in {seen[sample]} and in {name}: the splits overlap")
            seen[sample] = name


def _leaks(predictions: Mapping[str, Predictions]) -> Iterable[str]:
    groups = {name: set(table.groups or ()) - {None} for name, table in predictions.items()}
    names = list(groups)
    for place, name in enumerate(names):
        for other in names[place + 1 :]:
            if shared := len(groups[name] & groups[other]):
                yield f"{shared:,} patients have images both in {name} and in {other}: the figures flatter the model."


def _falls(splits: Mapping[str, Metrics]) -> Iterable[str]:
    if "val" not in splits or "test" not in splits:
        return
    for name, word in (("auroc", "AUROC"), ("sensitivity", "Sensitivity"), ("specificity", "Specificity")):
        before, after = getattr(splits["val"], name), getattr(splits["test"], name)
        if before is not None and after is not None and before - after > _LARGE_FALL:
            yield (
                f"{word} falls from {before:.3f} on validation to {after:.3f} on test. Test images may differ from "
                "those of training (another scanner, hospital or case mix); expect the same elsewhere."
            )
