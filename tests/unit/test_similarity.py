"""Pictures that look like one: the fast search finds what comparing all pairs finds."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from medimg.data.audit import similarity
from medimg.data.audit.findings import rank
from medimg.data.audit.similarity import SIMILAR, most_alike, signatures

Thumbnails = npt.NDArray[np.uint8]
SPLITS = ("train", "val", "test")


def pictures(count: int, seed: int) -> npt.NDArray[np.float64]:
    """Returns pictures that share a ground, as radiographs do, each with clouds of its own: (n, 32, 32)."""
    rng = np.random.default_rng(seed)
    ground = np.hypot(*np.mgrid[-1:1:32j, -1:1:32j]) * 80
    clouds = [
        np.asarray(Image.fromarray(rng.normal(0, 40, (6, 6)).astype(np.float32)).resize((32, 32), 3))
        for _ in range(count)
    ]
    return 60 + ground + np.stack(clouds)


def copies(films: npt.NDArray[np.float64], most: float, seed: int) -> npt.NDArray[np.float64]:
    """Returns the pictures with other contrast, and up to `most` of the next picture, which makes some no copies."""
    rng = np.random.default_rng(seed)
    share = most * rng.uniform(0, 1, (len(films), 1, 1))
    return ((1 - share) * films + share * np.roll(films, 1, axis=0)) * rng.uniform(0.7, 1.1, (len(films), 1, 1))


def narrow(films: npt.NDArray[np.float64]) -> Thumbnails:
    """Returns thumbnails as the index keeps them."""
    return np.clip(films, 0, 255).astype(np.uint8)


def all_pairs(thumbnails: Thumbnails, splits: list[str], pixels: npt.NDArray[np.int64]) -> dict[int, tuple[int, float]]:
    """Returns for each picture with a copy in a split that is kept rather, the most alike, by comparing all pairs."""
    marks = signatures(thumbnails).astype(np.float64)
    found: dict[int, tuple[int, float]] = {}
    of = {split: np.flatnonzero(np.array(splits) == split) for split in sorted(set(splits), key=rank)}
    for kept, left_out in combinations(of.values(), 2):
        for row in left_out.tolist():
            alike = marks[kept] @ marks[row]
            alike[pixels[kept] == pixels[row]] = 0
            best = int(alike.argmax())
            if alike[best] > max(SIMILAR, found.get(row, (0, 0.0))[1]):
                found[row] = int(kept[best]), float(alike[best])
    return found


@pytest.mark.parametrize("kind", ["few copies", "frames of films", "blank among them"])
def test_the_fast_search_finds_what_comparing_all_pairs_finds(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether copies are rare, or most pictures are alike, or there is nothing to compare in some."""
    monkeypatch.setattr(similarity, "_ROWS", 8)  # so many parts as 100,000 pictures have
    films = pictures(600, seed=1)
    if kind == "frames of films":
        films = np.repeat(films[:30], 20, axis=0)
    films = np.concatenate([films, copies(films[:300], most=0.4, seed=2)])
    if kind == "blank among them":
        films[::7] = 90
    thumbnails = narrow(films + np.random.default_rng(3).normal(0, 2, films.shape) * (films != 90))
    splits = np.random.default_rng(4).choice(SPLITS, len(films), p=[0.6, 0.2, 0.2]).tolist()
    pixels = np.arange(len(films))
    pixels[-100:] = pixels[200:300]  # what is there pixel for pixel is told of elsewhere
    best, found = most_alike(lambda rows: thumbnails[rows], splits, pixels)
    expected = all_pairs(thumbnails, splits, pixels)
    assert len(expected) > 20
    assert np.flatnonzero(best >= 0).tolist() == sorted(expected)
    marks = signatures(thumbnails)
    for row, (_, alike) in expected.items():
        assert found[row] == pytest.approx(alike, abs=1e-5)
        assert marks[row] @ marks[best[row]] == pytest.approx(alike, abs=1e-5)


def test_of_equally_similar_pictures_the_first_is_told() -> None:
    """Equal thumbnails of files that differ: the answer must not depend on the order of a search."""
    films = pictures(40, seed=5)
    thumbnails = narrow(np.concatenate([films, films[:1], films[:1]]))
    splits = ["test"] * 41 + ["train"]
    best, found = most_alike(lambda rows: thumbnails[rows], splits, np.arange(42))
    assert best[41] == 0
    assert found[41] == pytest.approx(1, abs=1e-5)
