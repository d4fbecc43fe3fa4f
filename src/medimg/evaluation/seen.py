"""Which images a model has seen: so that it is never judged by accident on those it learnt from.

The model folder keeps a hash of the pixels of every training and validation image, at the size that the network takes.
Names cannot do that: the same images may lie elsewhere under other names, and other images under the same ones. A large
JPEG that was saved anew as PNG is not known again, for it is brought to that size in another way.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from medimg.data.pack import Pack
from medimg.data.pixels import as_mode
from medimg.errors import DatasetError
from medimg.home import atomic_write

__all__ = ["check_unseen", "pixel_digests", "write_seen"]

# Public sets hold a few identical pictures on both sides; more than this is no accident.
MOST_SEEN = 0.01
_CHUNK = 256


def pixel_digests(pack: Pack, split: str | None, channels: Literal[1, 3]) -> list[str]:
    """Returns a hash of each image of a split as the network sees it: 16 hexadecimal digits."""
    rows = pack.rows(split)
    found = []
    for start in range(0, len(rows), _CHUNK):
        for image in pack.images(rows[start : start + _CHUNK]):
            pixels = as_mode(image[..., 0] if image.shape[-1] == 1 else image, channels)
            found.append(hashlib.sha256(pixels.tobytes()).hexdigest()[:16])
    return found


def write_seen(folder: Path, pack: Pack, channels: Literal[1, 3]) -> None:
    """Writes `seen.json` into a model folder: the hashes of the images of train and of validation."""
    seen = {split: sorted(set(pixel_digests(pack, split, channels))) for split in ("train", "val")}
    atomic_write(folder / "seen.json", json.dumps(seen))


def check_unseen(folder: Path, pack: Pack, split: str, channels: Literal[1, 3]) -> tuple[str, ...]:
    """Returns a notice about a few images that the model has seen.

    Args:
        folder: The model folder.
        pack: The images to judge the model on.
        split: What they are called: "val" may hold validation images of training, nothing its train images.
        channels: As the network takes them.

    Raises:
        DatasetError: More than one in a hundred were used in training.
    """
    seen: Mapping[str, list[str]] = json.loads((folder / "seen.json").read_text())
    used = set(seen["train"]) | (set() if split == "val" else set(seen["val"]))
    found = [digest in used for digest in pixel_digests(pack, None, channels)]
    count = sum(found)
    if count > MOST_SEEN * len(found):
        raise DatasetError(
            f"{count:,} of {len(found):,} images were used to train this model or to choose its threshold: a score on "
            "them means nothing. Training divides a dataset that has no splits, or too few validation images. The "
            "score on the images held out is job.report; to judge the model anew, pass images it has not seen"
        )
    return (f"{count:,} images are the same as images of training",) if count else ()
