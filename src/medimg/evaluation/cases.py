"""Cases to look at: where a model is most certain and right, most certain and wrong, and least certain.

`report/cases.json` in a model folder holds one row a case: salted id, truth, decision, probabilities, and two pictures
of at most 160 pixels a side, the image as it was packed and the same with its Grad-CAM over it. They are pictures of
patients: whoever gets the model folder gets them too, and so does a machine that serves the whole of it.
`TrainConfig.cases=0` leaves them out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import ConfigDict, TypeAdapter, ValidationError

from medimg.artifact import ModelFolder
from medimg.data.pack import Pack
from medimg.data.pixels import Pixels
from medimg.errors import ConfigError, ModelFolderError
from medimg.evaluation.explain import Explainer, Map, overlay, png
from medimg.home import atomic_write
from medimg.inference.predictions import Predictions

__all__ = ["Case", "Choice", "Kind", "choose_cases", "load_cases", "make_cases", "save_cases"]

Kind = Literal["right", "wrong", "uncertain"]
"""Decided rightly with most certainty, wrongly with most certainty, or with least certainty."""

_FILE = "cases.json"
_KINDS: tuple[Kind, ...] = ("right", "wrong", "uncertain")
_MOST_PIXELS = 160  # a side: 18 cases then take a megabyte


@dataclass(frozen=True, slots=True)
class Choice:
    """An image that is worth a look.

    Attributes:
        id: Of the sample.
        kind: Why.
        target: The class in question, which the map explains: of a binary task the positive one, of others the decided
            one, for multilabel the label.
    """

    id: str
    kind: Kind
    target: str


@dataclass(frozen=True, slots=True)
class Case:
    """An image with what the model says of it and where it found that.

    Attributes:
        id: Of the sample.
        truth: Its class; for multilabel the label in question, or "no " and the label.
        label: What was decided, in the same words.
        probabilities: Class to probability.
        kind: Why it is shown.
        target: The class that the overlay explains.
        image: PNG, grey or RGB.
        overlay: PNG of the same size, with Grad-CAM over the image.
    """

    id: str
    truth: str
    label: str
    probabilities: Mapping[str, float]
    kind: Kind
    target: str
    image: bytes
    overlay: bytes


def choose_cases(predictions: Predictions, thresholds: Mapping[str, float], *, most: int) -> tuple[Choice, ...]:
    """Returns the cases to look at: right, then wrong, then uncertain; the same for the same predictions.

    Certainty is the distance from the threshold as a share of the way to 0 or 1; for multiclass, how far the most
    probable class is before the second. Classes take turns, found and missed, so that the common one does not fill the
    sheet. No patient is shown twice.

    Args:
        predictions: With labels; of images whose truth is not known none is chosen.
        thresholds: Target to its frozen threshold; empty for multiclass.
        most: Cases of each kind.
    """
    decided = predictions.decide(thresholds)
    certainty = _certainty(predictions, thresholds, decided)
    # Kind to turn (a class, found or not) to (order, row, target).
    piles: dict[Kind, dict[tuple[str, bool], list[tuple[float, int, str]]]] = {kind: {} for kind in _KINDS}
    # Of exclusive classes the decided one is in question; of labels each whose truth is known.
    asked = decided if predictions.task == "multiclass" else ~np.isnan(predictions.truth)
    for row, column in np.argwhere(asked).tolist():
        positive, present = bool(decided[row, column]), predictions.truth[row, column] == 1
        sure, target = float(certainty[row, column]), predictions.targets[column]
        if positive or present or predictions.task == "binary":  # an absent label that nobody claimed is no case
            kind: Kind = "right" if positive == present else "wrong"
            piles[kind].setdefault((target, positive), []).append((-sure, row, target))
        # Where the decision hangs by a hair, it does not matter to which side it fell.
        piles["uncertain"].setdefault((target, True), []).append((sure, row, target))
    seen: set[str] = set()
    return tuple(
        Choice(predictions.ids[row], kind, target)
        for kind in _KINDS
        for row, target in itertools.islice(_turns(predictions, piles[kind], seen), most)
    )


def make_cases(
    model: ModelFolder, pack: Pack, predictions: Predictions, thresholds: Mapping[str, float]
) -> tuple[Case, ...]:
    """Returns the cases of labelled predictions with their pictures: `TrainConfig.cases` of each kind.

    Args:
        model: The model, which may not be sealed yet.
        pack: Where the images are.
        predictions: Of images of that pack, by sample id.
        thresholds: Target to its frozen threshold; empty for multiclass.

    Raises:
        ConfigError: The pictures could not be made, whatever the reason: figures stand without them. Most often the
            network cannot be explained: see `medimg.evaluation.explain.grad_cam`.
    """
    try:
        return _made(model, pack, predictions, thresholds)
    except ConfigError:
        raise
    except Exception as error:
        # A layer of the user's own may raise anything; its text may hold paths, so that only its kind is told.
        raise ConfigError(
            f"the pictures could not be made ({type(error).__name__}). model.explain(image) shows the whole error"
        ) from error


def _made(
    model: ModelFolder, pack: Pack, predictions: Predictions, thresholds: Mapping[str, float]
) -> tuple[Case, ...]:
    chosen = choose_cases(predictions, thresholds, most=model.record.config.cases)
    if not chosen:
        return ()
    positions = {sample.id: row for row, sample in enumerate(pack.samples)}
    images = [
        image[..., 0] if image.shape[-1] == 1 else image
        for image in pack.images([positions[choice.id] for choice in chosen])
    ]
    targets = [choice.target for choice in chosen]
    maps = _on_one_scale(Explainer(model).evidence(images, targets), targets)
    row_of = {id: row for row, id in enumerate(predictions.ids)}
    decided = predictions.decide(thresholds)
    made = []
    for choice, image, strength in zip(chosen, images, maps, strict=True):
        row = row_of[choice.id]
        positive = bool(decided[row, predictions.targets.index(choice.target)])
        truth, label = _words(predictions, choice.target, row, positive)
        probabilities = dict(zip(predictions.classes, predictions.probabilities[row].tolist(), strict=True))
        pictures = _png(image), _png(overlay(image, strength))
        made.append(Case(choice.id, truth, label, probabilities, choice.kind, choice.target, *pictures))
    return tuple(made)


_FORMAT = TypeAdapter(tuple[Case, ...], config=ConfigDict(ser_json_bytes="base64", val_json_bytes="base64"))


def save_cases(folder: str | Path, cases: tuple[Case, ...]) -> Path:
    """Writes the cases into a report's folder, as one file with the pictures in it, and returns its path.

    Without cases no file is left there: the pictures of an earlier report are not this one's.
    """
    file = Path(folder) / _FILE
    if not cases:
        file.unlink(missing_ok=True)
        return file
    atomic_write(file, _FORMAT.dump_json(cases, indent=1))
    return file


def load_cases(folder: str | Path) -> tuple[Case, ...]:
    """Returns the cases in a report's folder; none where none were written.

    Raises:
        ModelFolderError: The file is not what `save_cases` wrote.
    """
    try:
        return _FORMAT.validate_json((Path(folder) / _FILE).read_bytes())
    except FileNotFoundError:
        return ()
    except (OSError, ValidationError) as error:
        raise ModelFolderError(f"{folder}/{_FILE} cannot be read by this medimg: {error}") from error


def _certainty(
    predictions: Predictions, thresholds: Mapping[str, float], decided: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Returns how far each sample is from another decision: float64 (n, targets) in 0..1."""
    scores = predictions.scores
    if predictions.task == "multiclass":
        ordered = np.sort(scores, axis=1)
        return np.repeat((ordered[:, -1] - ordered[:, -2])[:, None], scores.shape[1], axis=1)
    limits = np.array([thresholds[name] for name in predictions.targets])
    room = np.where(decided, 1 - limits, limits)
    away = np.abs(scores - limits)
    share: npt.NDArray[np.float64] = np.divide(away, room, out=np.zeros_like(away), where=room > 0)
    return share


def _turns(
    predictions: Predictions, piles: Mapping[tuple[str, bool], list[tuple[float, int, str]]], seen: set[str]
) -> Iterator[tuple[int, str]]:
    """Yields row and target, the piles taking turns, of patients not in `seen`; adds them."""
    queues = [iter(sorted(pile)) for pile in sorted(piles.values(), key=min)]
    while queues:
        for queue in list(queues):
            for _, row, target in queue:
                patient = (predictions.groups[row] if predictions.groups else None) or predictions.ids[row]
                if patient not in seen:
                    seen.add(patient)
                    yield row, target
                    break
            else:
                queues.remove(queue)


def _words(predictions: Predictions, target: str, row: int, positive: bool) -> tuple[str, str]:
    """Returns truth and decision of one case in words; `positive`: whether the target was decided."""
    truth = predictions[predictions.ids[row]].truth
    if isinstance(truth, dict):
        return (target if truth[target] else f"no {target}"), (target if positive else f"no {target}")
    others = [name for name in predictions.classes if name != target]
    return str(truth), target if positive else others[0]  # not decided: only of two classes


def _on_one_scale(evidence: Map, targets: Sequence[str]) -> Map:
    """Returns maps in 0..1 that can be compared: 1 is the most that any place of any case added to that target.

    Each on its own scale, an image in which nothing was found would glow like one full of findings.
    """
    scaled = evidence.copy()
    for target in set(targets):
        own = [target == other for other in targets]
        scaled[own] /= float(evidence[own].max()) or 1.0
    return scaled


def _png(pixels: Pixels) -> bytes:
    """Returns a picture of at most `_MOST_PIXELS` a side."""
    image = Image.fromarray(pixels)
    image.thumbnail((_MOST_PIXELS, _MOST_PIXELS), Image.Resampling.LANCZOS)
    return png(np.asarray(image))
