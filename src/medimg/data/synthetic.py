"""Phantoms: generated pictures that look a little like chest radiographs, with a finding that can be learnt.

They stand in where no data are at hand: in examples, tests and the golden inputs of a model. Nothing in them comes from
a patient, and a classifier of phantoms says nothing about patients. The finding is a soft, round opacity in a lung;
exposure, position and anatomy vary more than it adds, so that neither mean nor brightest pixel gives the class away.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin

from medimg.data.pixels import Pixels
from medimg.errors import ConfigError, DatasetError
from medimg.home import atomic_folder

__all__ = ["CLASSES", "golden_files", "phantom", "write_phantoms"]

CLASSES = ("CLEAR", "NODULE")

_Film = npt.NDArray[np.floating[Any]]
_NOTE = "Synthetic phantom made by medimg. Not a patient."


@dataclass(frozen=True)
class _Anatomy:
    """One made-up patient. Lengths are in half widths of the film, from its centre; x grows to the right, y down.

    Attributes:
        lung: Half width and half height of a lung.
        gap: Distance of a lung's centre from the midline.
        heart: Half width and half height of the heart's shadow.
        diaphragm: Height of the right and the left dome.
        ribs: Number of ribs that cross a lung.
        slope: How far ribs fall from the spine to the side.
        tissue: How much of the light the chest wall takes.
        nodule: x, y, radius and opacity of the finding; None: clear.
    """

    lung: tuple[float, float]
    gap: float
    heart: tuple[float, float]
    diaphragm: tuple[float, float]
    ribs: int
    slope: float
    tissue: float
    nodule: tuple[float, float, float, float] | None


def phantom(rng: np.random.Generator, *, finding: bool, size: int = 128) -> tuple[Pixels, tuple[int, int, int] | None]:
    """Returns one phantom and where its finding is.

    Args:
        rng: Where all variation comes from; the same state gives the same phantom.
        finding: Whether to plant a nodule.
        size: Side in pixels.

    Returns:
        uint8 of shape (size, size), and row, column and radius of the nodule in pixels, or None.
    """
    if size < 16:
        raise ConfigError(f"size={size}: a phantom has at least 16 pixels a side")
    film, place = _film(_anatomy(rng, finding), rng, size)
    return _narrow(film), place


def write_phantoms(
    root: Path | str,
    *,
    patients: int = 120,
    images_per_patient: tuple[int, int] = (1, 2),
    size: int = 128,
    seed: int = 0,
    splits: bool = True,
) -> Path:
    """Writes a dataset of phantoms and returns its folder: `train|val|test/CLEAR|NODULE/patient0007-1.png`.

    Half of the patients have a nodule, at the same place in each of their images. No patient is in two splits; val has
    a fifth of the patients of each class, or 12 where that is no more than a third.

    Args:
        root: A folder that does not exist yet, or is empty.
        patients: At least 6.
        images_per_patient: Fewest and most images of a patient.
        size: Side of an image in pixels.
        seed: The same seed writes the same pixels.
        splits: False leaves out the split folders.

    Raises:
        ConfigError: A number that cannot be.
        DatasetError: The folder holds something already.
    """
    root = Path(root)
    fewest, most = images_per_patient
    if patients < 6:
        raise ConfigError(f"patients={patients}: at least 6, one of each class in each split")
    if not 1 <= fewest <= most:
        raise ConfigError(f"images_per_patient={images_per_patient}: the fewest and the most, at least 1")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DatasetError(f"{root} is not an empty folder. Choose a new one, or delete it first")
    note = PngImagePlugin.PngInfo()
    note.add_text("Comment", _NOTE)
    with atomic_folder(root) as folder:
        for patient, (finding, split) in enumerate(_roster(patients, seed)):
            # A generator of its own for each patient: how many images one has changes no other's.
            rng = np.random.default_rng([seed, patient])
            anatomy = _anatomy(rng, finding)
            place = folder / split / CLASSES[finding] if splits else folder / CLASSES[finding]
            place.mkdir(parents=True, exist_ok=True)
            for number in range(1, int(rng.integers(fewest, most + 1)) + 1):
                film, _ = _film(anatomy, rng, size)
                Image.fromarray(_narrow(film)).save(place / f"patient{patient:04}-{number}.png", pnginfo=note)
    return root


def golden_files() -> dict[str, bytes]:
    """Returns small encoded phantoms of the kinds that decoders disagree about, by file name.

    A grey JPEG, a coloured PNG, a JPEG that EXIF turns by 90°, a 16-bit PNG and a PNG with transparency. They are the
    same on every call, and each is smaller than 40 kB.
    """
    rng = np.random.default_rng(20_240_229)
    films = [_film(_anatomy(rng, finding), rng, 96)[0] for finding in (True, False, True, False, True)]
    grey, plain, turned, wide, ground = films
    exif = Image.Exif()
    exif[0x0112] = 6
    # As a camera held upright stores it: the sensor's rows are the picture's columns, the EXIF tag turns them back.
    lying = np.rot90(turned[:, 12:84], 1)
    colour = np.stack([plain**0.8, plain, plain**1.3], axis=2)
    fading = np.tile(np.linspace(0.5, 1, 96, dtype=np.float32), (96, 1))
    alpha = np.dstack([ground, ground, ground, fading])
    return {
        "grey.jpeg": _encode(_narrow(grey), "JPEG", quality=90),
        "colour.png": _encode(_narrow(colour), "PNG"),
        "turned.jpeg": _encode(_narrow(lying), "JPEG", quality=90, exif=exif),
        "wide.png": _encode(np.round(wide * 65535).astype(np.uint16), "PNG"),
        "alpha.png": _encode(_narrow(alpha), "PNG"),
    }


def _roster(patients: int, seed: int) -> list[tuple[bool, str]]:
    """Returns each patient's class and split, shuffled: numbers tell neither."""
    rng = np.random.default_rng([seed, 2**32 - 1])
    roster = []
    for finding in (False, True):
        count = (patients + 1 - finding) // 2
        val, test = max(count // 5, min(12, count // 3)), max(1, count // 5)
        splits = ["val"] * val + ["test"] * test + ["train"] * (count - val - test)
        roster += [(finding, split) for split in splits]
    return [roster[index] for index in rng.permutation(patients)]


def _anatomy(rng: np.random.Generator, finding: bool) -> _Anatomy:
    lung = (float(rng.uniform(0.33, 0.38)), float(rng.uniform(0.62, 0.74)))
    gap = float(rng.uniform(0.43, 0.48))
    nodule = None
    if finding:
        # Within the lung's ellipse, and on the heart's side above the heart.
        angle, reach = float(rng.uniform(0, 2 * np.pi)), 0.6 * float(rng.uniform(0, 1)) ** 0.5
        side = float(rng.choice([-1, 1]))
        y = lung[1] * reach * float(np.sin(angle)) - 0.12
        x = side * gap + lung[0] * reach * float(np.cos(angle))
        if side > 0:
            y = -abs(y + 0.12) - 0.05
        nodule = (x, y, float(rng.uniform(0.14, 0.2)), float(rng.uniform(0.3, 0.44)))
    return _Anatomy(
        lung=lung,
        gap=gap,
        heart=(float(rng.uniform(0.26, 0.34)), float(rng.uniform(0.3, 0.4))),
        diaphragm=(float(rng.uniform(0.42, 0.52)), float(rng.uniform(0.48, 0.58))),
        ribs=int(rng.integers(7, 10)),
        slope=float(rng.uniform(0.15, 0.4)),
        tissue=float(rng.uniform(0.6, 0.72)),
        nodule=nodule,
    )


def _film(anatomy: _Anatomy, rng: np.random.Generator, size: int) -> tuple[_Film, tuple[int, int, int] | None]:
    """Returns one exposure, 0 to 1, and the finding's row, column and radius in pixels."""
    turn, zoom = np.deg2rad(rng.normal(0, 2.5)), rng.uniform(0.94, 1.06)
    shift_x, shift_y = rng.normal(0, 0.03, 2)
    sine, cosine = np.sin(turn) * zoom, np.cos(turn) * zoom
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32) * (2 / (size - 1)) - 1
    x = cosine * (columns - shift_x) + sine * (rows - shift_y)
    y = cosine * (rows - shift_y) - sine * (columns - shift_x)

    lungs = _lungs(anatomy, x, y)
    density = anatomy.tissue * _inside(0.96 - np.hypot(x * 0.96, np.maximum(-y - 0.45, 0)), 0.04)
    density -= 0.42 * lungs
    density += 0.14 * np.exp(-((x / 0.13) ** 2)) + _ribs(anatomy, x, y) * (0.35 + 0.65 * lungs)
    # Vessels: cloudy, denser towards the hila. Each film has its own, as each breath has.
    density += lungs * (0.035 * _clouds(rng, size, 10) + 0.06 * _clouds(rng, size, 28)) * np.exp(-((x / 0.75) ** 2))
    density += 0.07 * _clouds(rng, size, 4) * anatomy.tissue
    place = None
    if anatomy.nodule is not None:
        at_x, at_y, radius, opacity = anatomy.nodule
        density += opacity * np.exp(-((((x - at_x) ** 2 + (y - at_y) ** 2) / radius**2) ** 2))
        column = (cosine * at_x - sine * at_y) / zoom**2 + shift_x
        row = (cosine * at_y + sine * at_x) / zoom**2 + shift_y
        half = (size - 1) / 2
        place = (round((row + 1) * half), round((column + 1) * half), max(1, round(radius / zoom * half)))

    exposed = np.clip(rng.uniform(0.8, 1.2) * density + rng.uniform(-0.06, 0.12), 0, None) ** rng.uniform(0.75, 1.35)
    noise = rng.normal(0, rng.uniform(0.012, 0.035), (size, size))
    return np.clip(exposed + noise, 0, 1).astype(np.float32), place


def _lungs(anatomy: _Anatomy, x: _Film, y: _Film) -> _Film:
    """Returns how much of each pixel is air: two lungs, less the heart, down to the diaphragm's domes."""
    width, height = anatomy.lung
    air = np.zeros_like(x)
    for side, dome in zip((-1, 1), anatomy.diaphragm, strict=True):
        # Narrower and nearer to the spine towards the apex.
        across = (x - side * (anatomy.gap + 0.08 * y)) / (width * np.clip(1.05 + 0.25 * y, 0.7, 1.15))
        ellipse = _inside(1 - np.abs(across) ** 2.4 - np.abs((y + 0.05) / height) ** 2.4, 0.12)
        above = _inside(dome + 0.5 * (x - side * (anatomy.gap - 0.05)) ** 2 - y, 0.025)
        air += ellipse * above
    # The apex of the heart points down and to the film's right, the patient's left.
    heart_x, heart_y = x - 0.13 - 0.25 * (y - 0.25), y - 0.25 - 0.35 * (x - 0.13)
    heart = 1 - (heart_x / anatomy.heart[0]) ** 2 - (heart_y / anatomy.heart[1]) ** 2
    return np.asarray(np.clip(air, 0, 1) * (1 - 0.85 * _inside(heart, 0.25)), np.float32)


def _ribs(anatomy: _Anatomy, x: _Film, y: _Film) -> _Film:
    """Returns what ribs and collar bones add."""
    out = np.abs(x)
    cage = _inside(0.85 - out, 0.03) * _inside(out - 0.1, 0.03)
    # One sawtooth along the falling line draws all ribs at once.
    along = (y + 0.8 - anatomy.slope * (out - 0.45) ** 2 * 2.2 - 0.25 * anatomy.slope * out) * anatomy.ribs / 1.5
    bands = np.exp(-(((along - np.round(along)) / 0.17) ** 2)) * _inside(0.62 - y, 0.05) * _inside(y + 0.85, 0.05)
    bones = np.exp(-(((y + 0.66 - 0.16 * (0.6 - out)) / 0.035) ** 2)) * _inside(out - 0.12, 0.03)
    return np.asarray(0.075 * bands * cage + 0.1 * bones, np.float32)


def _inside(distance: _Film, softness: float) -> _Film:
    """Returns 1 where the signed distance is inside a shape and 0 outside, with a soft edge."""
    return np.asarray(0.5 + 0.5 * np.tanh(distance / softness), np.float32)


def _clouds(rng: np.random.Generator, size: int, cells: int) -> _Film:
    """Returns smooth noise of about unit spread, with that many cells a side."""
    grid = Image.fromarray(rng.normal(0, 1, (cells, cells)).astype(np.float32))
    return np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC), np.float32)


def _narrow(film: npt.NDArray[Any]) -> Pixels:
    return np.round(film * 255).astype(np.uint8)


def _encode(pixels: npt.NDArray[Any], kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()
