"""Reporting checklists, filled in as far as a machine can; the rest is for the people who made the study.

Item numbers are those of the papers; the wording is ours and short. Read the papers before submitting one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medimg.evaluation.summary import policy

if TYPE_CHECKING:
    from medimg.evaluation.report import Report

__all__ = ["CLAIM", "TRIPOD", "Checklist", "Item", "fill"]


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a checklist.

    Attributes:
        number: As in the paper.
        words: What it asks for, in our words.
        topic: Which of our answers fits it; "" where only the authors can answer.
    """

    number: str
    words: str
    topic: str = ""


@dataclass(frozen=True, slots=True)
class Checklist:
    """A checklist.

    Attributes:
        name: Of the checklist.
        source: The paper.
        items: In the paper's order.
    """

    name: str
    source: str
    items: tuple[Item, ...]


TRIPOD = Checklist(
    "TRIPOD+AI",
    "Collins et al., BMJ 385 (2024) e078378",
    (
        Item("1", "title"), Item("2", "abstract"), Item("3a", "healthcare context and rationale"),
        Item("3b", "target population, purpose and users"), Item("3c", "known health inequalities"),
        Item("4", "objectives"), Item("5a", "sources of the data"), Item("5b", "dates of the data"),
        Item("6a", "setting and centres"), Item("6b", "eligibility"), Item("6c", "treatments"),
        Item("7", "preparation and quality checks of the data", "preparation"),
        Item("8a", "definition of the outcome"), Item("8b", "who assessed the outcome"),
        Item("8c", "blinding of the outcome"), Item("9a", "choice of predictors"),
        Item("9b", "definition of predictors"), Item("9c", "who assessed predictors"),
        Item("10", "how the study size was arrived at"), Item("11", "missing data", "missing"),
        Item("12a", "how the data were used and partitioned", "partitions"),
        Item("12b", "how predictors were handled", "preprocessing"),
        Item("12c", "type of model and how it was built", "model"),
        Item("12d", "heterogeneity across clusters"), Item("12e", "measures and plots of performance", "measures"),
        Item("12f", "model updating"), Item("12g", "how predictions were calculated", "predictions"),
        Item("13", "class imbalance", "imbalance"), Item("14", "approaches to fairness"),
        Item("15", "output of the model and thresholds", "output"),
        Item("16", "differences between training and evaluation data", "shift"), Item("17", "ethical approval"),
        Item("18a", "funding"), Item("18b", "conflicts of interest"), Item("18c", "protocol"),
        Item("18d", "registration"), Item("18e", "data sharing"), Item("18f", "code sharing"),
        Item("19", "patient and public involvement"), Item("20a", "flow of participants, with and without the outcome"),
        Item("20b", "characteristics of participants"), Item("20c", "comparison with the development data"),
        Item("21", "participants and outcomes in each analysis", "counts"),
        Item("22", "the full model", "specification"), Item("23a", "performance with intervals", "performance"),
        Item("23b", "heterogeneity of performance"), Item("24", "results of model updating"),
        Item("25", "interpretation"), Item("26", "limitations", "limitations"),
        Item("27a", "poor or missing input data"), Item("27b", "what is required of users"),
        Item("27c", "next steps"),
    ),
)  # fmt: skip

CLAIM = Checklist(
    "CLAIM 2024",
    "Tejani et al., Radiology: Artificial Intelligence 6 (2024) e240300",
    (
        Item("1", "title, with the category of technology"), Item("2", "abstract"), Item("3", "background and role"),
        Item("4", "aims and hypotheses"), Item("5", "prospective or retrospective"), Item("6", "study goal"),
        Item("7", "data sources"), Item("8", "inclusion and exclusion"),
        Item("9", "preprocessing of the data", "preprocessing"), Item("10", "selection of data subsets"),
        Item("11", "de-identification"), Item("12", "missing data", "missing"), Item("13", "image acquisition"),
        Item("14", "definition of the reference standard"), Item("15", "rationale of the reference standard"),
        Item("16", "source of the annotations"), Item("17", "annotation of the test set"),
        Item("18", "variability between and within readers"),
        Item("19", "how data were assigned to partitions", "partitions"),
        Item("20", "level at which partitions are disjoint", "disjoint"), Item("21", "intended sample size"),
        Item("22", "description of the model", "specification"), Item("23", "software", "software"),
        Item("24", "initial parameters", "start"), Item("25", "training", "model"),
        Item("26", "how the final model was selected", "selection"), Item("27", "ensembles", "ensemble"),
        Item("28", "measures of performance", "measures"), Item("29", "measures of uncertainty", "intervals"),
        Item("30", "robustness and sensitivity analysis"), Item("31", "explainability", "explain"),
        Item("32", "evaluation on internal data", "internal"), Item("33", "testing on external data"),
        Item("34", "trial registration"), Item("35", "patients included and excluded", "counts"),
        Item("36", "characteristics of patients in each partition"),
        Item("37", "performance and its uncertainty", "performance"),
        Item("38", "diagnostic performance and its precision", "performance"),
        Item("39", "analysis of wrong results", "failures"), Item("40", "limitations", "limitations"),
        Item("41", "implications for practice"), Item("42", "protocol"),
        Item("43", "availability of software and data"), Item("44", "funding"),
    ),
)  # fmt: skip


def fill(checklist: Checklist, report: Report) -> dict[str, str]:
    """Returns the item's number to our answer, for the items that this report can answer."""
    answers = _answers(report)
    return {item.number: answers[item.topic] for item in checklist.items if item.topic in answers}


def _answers(report: Report) -> dict[str, str]:
    """Returns topic to answer; a topic of which the report knows nothing is left out."""
    headline = report.splits[report.headline]
    multiclass, test = headline.task == "multiclass", "test" in report.splits
    performance = "“In numbers”" + ("; “Subgroups”" if report.subgroups else "")
    answers = {
        "measures": "Discrimination (AUROC, AUPRC), decisions at the frozen threshold, calibration (plot, slope, "
        "intercept, Brier, ECE), clinical utility (decision curve): “In numbers” and the figures.",
        "predictions": "By medimg, from the model folder; every probability is in predictions-"
        f"{report.headline}.csv beside this page.",
        "output": "Probabilities. "
        + (
            "The most probable class is decided."
            if multiclass
            else f"Thresholds: {policy(report.thresholds)}; frozen before "
            f"{'test' if test else 'any other data'} was scored."
        ),
        "counts": "; ".join(
            f"{name}: {one.n:,} images" + ("" if one.patients is None else f" of {one.patients:,} patients")
            for name, one in report.splits.items()
        )
        + ".",
        "performance": f"{performance}.",
        "limitations": "In part: “What to worry about”.",
        "ensemble": "One network alone.",
    }
    if headline.interval_method:
        answers["intervals"] = headline.interval_method
    if test and report.history:  # only training's own: another test split may be another hospital's
        answers["internal"] = f"Test, scored {report.test_looks:,} time{'' if report.test_looks == 1 else 's'}."
    if report.audit:
        answers["preparation"] = "Automatic checks before training: “Audit of the data”."
        if shift := [one for one in report.audit if "shift" in one.check]:
            answers["shift"] = " ".join(one.message for one in shift)
        if leaks := [one for one in report.audit if one.check == "group-leakage"]:
            answers["disjoint"] = " ".join(one.message for one in leaks)
    if headline.task == "multilabel":
        unknown = sum(one.unknown for one in headline.per_class)
        answers["missing"] = f"Unknown labels count nowhere: {unknown:,} of {unknown + headline.decisions:,}."
    if report.cases:
        answers["explain"] = "Grad-CAM: “Images to look at”."
        answers["failures"] = "The images decided wrongly with most certainty: “Images to look at”."
    return answers | _recorded(report)


def _recorded(report: Report) -> dict[str, str]:
    """Returns the answers that rest on the record of training."""
    config, model, data = (_section(report, name) for name in ("configuration", "model", "data"))
    if not config:
        return {}
    name, size = model.get("architecture", "the network"), config.get("image_size")
    counts = {split: count for split, count in data.get("counts", {}).items() if count}
    random = f"Random, seed {config.get('seed')}."
    weights = {None: random, "imagenet": "Weights of ImageNet."}.get(config.get("weights"), "Weights from a file.")
    balanced = config.get("class_weight") == "balanced"
    answers = {
        "preprocessing": f"Resized to {size} × {size} pixels (antialiased, aspect not kept); the rest: “Record”.",
        "model": f"{name}, Adam, {config.get('epochs')} epochs at most, seed {config.get('seed')}; all settings: "
        "“Record”.",
        "specification": f"{name}; the trained network is model.keras in the model folder.",
        "start": weights,
        "selection": "The epoch with the lowest validation loss.",
        "imbalance": (
            "In training every class had the same total weight, but no image more than 10."
            if balanced
            else "Every image had the same weight in training."
        ),
    }
    if calibration := _section(report, "calibration"):
        answers["imbalance"] += f" Probabilities were calibrated on validation ({calibration['method']})."
    if counts:
        parts = ", ".join(f"{count:,} {split}" for split, count in counts.items())
        untouched = ", test took no part" if "test" in counts else ""
        chose = "epoch and thresholds" if report.thresholds.chosen else "the epoch"
        answers["partitions"] = f"{parts} images; validation chose {chose}{untouched}."
    if versions := _section(report, "environment"):
        answers["software"] = ", ".join(f"{package} {version}" for package, version in versions.items())
    return answers


def _section(report: Report, name: str) -> Mapping[str, Any]:
    section = report.record.get(name)
    return section if isinstance(section, Mapping) else {}
