"""Kermany et al. (Cell 2018): children's chest films with and without pneumonia, and retinal OCT."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

from medimg.data.dataset import Dataset
from medimg.data.labels import listing
from medimg.data.readers.folder import read_folder
from medimg.data.readers.layouts import existing_folder, not_this_set, outermost
from medimg.errors import ConfigError, DatasetError

__all__ = ["patient_of", "read_kermany"]

_CHEST = ("NORMAL", "PNEUMONIA")
_RETINA = ("CNV", "DME", "DRUSEN", "NORMAL")
_CAUSES = ("BACTERIA", "NORMAL", "VIRUS")
# Kaggle's copy numbers bacterial and viral patients apart, and so it does normal films with and without NORMAL2.
_KAGGLE = re.compile(
    r"person(?P<person>\d+)_(?P<cause>bacteria|virus)_\d+|(?P<normal>(NORMAL2-)?IM-\d+)-", re.IGNORECASE
)
# Mendeley's: "(disease)-(randomised patient ID)-(image number of this patient)"; one patient may have two diseases.
_MENDELEY = re.compile(r"(?P<cause>BACTERIA|VIRUS|NORMAL|CNV|DME|DRUSEN)-(?P<person>\d+)-\d+", re.IGNORECASE)


def read_kermany(root: Path, *, classes: Literal[2, 3] | None = None) -> Dataset:
    """Reads the set: see `Dataset.from_kermany`."""
    root = _part(existing_folder(root, "from_kermany"))
    try:
        dataset = read_folder(root, group=_known_patient)
    except DatasetError as error:
        raise not_this_set(root, "the set of Kermany et al.", str(error).rstrip("."), "from_kermany") from error
    if dataset.classes not in (_CHEST, _RETINA):
        reason = f"it has the classes {listing(dataset.classes)}, not {listing(_CHEST)} or {listing(_RETINA)}"
        raise not_this_set(root, "the set of Kermany et al.", reason, "from_kermany")
    if dataset.classes == _RETINA:
        if classes is not None:
            raise ConfigError(f"classes={classes}: the OCT set has four classes and no other. Leave it out")
        return dataset
    if classes not in (None, 2, 3):
        raise ConfigError(f"classes={classes!r}: 2 for NORMAL and PNEUMONIA, 3 for NORMAL, BACTERIA and VIRUS")
    return dataset if classes in (None, 2) else _by_cause(dataset)


def patient_of(name: str) -> str | None:
    """Returns whose film a file is, by its name, or None where it is named otherwise."""
    if found := _KAGGLE.match(name):
        return found["normal"].upper() if found["normal"] else f"{found['cause'].lower()}-{found['person']}"
    return found["person"] if (found := _MENDELEY.match(name)) else None


def _known_patient(path: str) -> str:
    patient = patient_of(path.rpartition("/")[2])
    if patient is None:
        raise DatasetError(
            f"{path!r} is not named as theirs are, such as person1_bacteria_1.jpeg, IM-0001-0001.jpeg or "
            "BACTERIA-1008087-0001.jpeg"
        )
    return patient


def _part(root: Path) -> Path:
    """Returns the chest films' own folder: Mendeley's `CellData` holds `chest_xray` beside `OCT`."""
    root = outermost(root)
    return root / "chest_xray" if (root / "OCT").is_dir() and (root / "chest_xray").is_dir() else root


def _by_cause(dataset: Dataset) -> Dataset:
    """Returns the dataset with BACTERIA and VIRUS in place of PNEUMONIA; the files' names say which."""
    samples = []
    for sample in dataset.samples:
        label = "NORMAL"
        if dataset.label_names(sample) == ("PNEUMONIA",):
            found = _KAGGLE.match(sample.path.name) or _MENDELEY.match(sample.path.name)
            label = ((found and found["cause"]) or "").upper()
        if label not in _CAUSES:
            raise DatasetError(
                f"{sample.path.name!r} is in PNEUMONIA and its name says neither bacteria nor virus. Use classes=2"
            )
        samples.append(replace(sample, labels=_CAUSES.index(label)))
    return replace(dataset, samples=tuple(samples), classes=_CAUSES, task="multiclass", positive=None)
