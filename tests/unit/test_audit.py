"""The audit: what it tells, what it stops, what it keeps at home, and how to be rid of what it found."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from image_folders import cut, pixels, tree
from PIL import Image

from medimg.backends.submission import prepare_training
from medimg.config import Resources, TrainConfig
from medimg.data.audit.report import AuditReport
from medimg.data.audit.similarity import SIMILAR, signatures
from medimg.data.dataset import Dataset
from medimg.data.preparation import ready_for_training
from medimg.errors import AuditError, ConfigError, DatasetError
from medimg.progress import Event, silent

COUNTS = {f"{split}/{name}": count for split, count in (("train", 60), ("val", 55), ("test", 12)) for name in "ab"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of random pictures with splits; nothing is wrong but that no patients are known."""
    return tree(tmp_path / "CANARY", COUNTS)


def load(root: Path) -> Dataset:
    """Reads the folder; each file is a patient's."""
    return Dataset.from_folder(root, group=r"(.*)", positive="b")


def told(audit: AuditReport) -> dict[str, str]:
    """Returns the checks that are not fine, with their level."""
    return {finding.check: finding.level for finding in (*audit.errors, *audit.warnings)}


def copy(root: Path, source: str, target: str) -> None:
    """Copies a picture's pixels to another file, of another format."""
    Image.open(root / source).save(root / target)


# -- duplicates ------------------------------------------------------------------------------------------------------


def test_copies_are_left_out_of_train_in_one_line(root: Path) -> None:
    """The copy in test stays, whatever the file is called and however it is compressed."""
    copy(root, "test/a/p0.png", "train/a/other.bmp")
    copy(root, "val/b/p3.png", "train/b/other.tiff")
    dataset = load(root)
    audit = dataset.audit()
    assert told(audit) == {"duplicate-images": "error"}
    assert "2 pictures in more than one split, pixel for pixel (1 of train and test, 1 of train and val)" in (
        audit.errors[0].message
    )
    kept = dataset.without(audit.duplicates)
    assert len(kept) == len(dataset) - 2
    assert kept.of("test") == dataset.of("test")
    assert told(kept.audit()) == {}


def test_equal_pictures_are_kept_together_where_the_splits_are_ours(tmp_path: Path) -> None:
    """Fifty pictures are there twice, as of two patients: no copy is on the other side, and it is a warning."""
    root = tree(tmp_path / "x", {"a": 120, "b": 120})
    for number in range(50):
        copy(root, f"a/p{number}.png", f"a/twin{number}.png")
    dataset = load(root)
    ready = ready_for_training(dataset, allow=())
    assert told(ready.audit)["duplicate-images"] == "warning"
    assert "50 images with the pixels of another in the same split" in ready.audit.warnings[0].message
    again = ready_for_training(dataset.split(val=0, test=0.2), allow=("duplicate-images",)).dataset
    assert again.of("test") == dataset.split(val=0, test=0.2).of("test")
    split_by_user = dataset.split().audit()
    assert told(split_by_user)["duplicate-images"] == "error"


def test_a_large_jpeg_and_its_lossless_copies_are_one_picture(tmp_path: Path) -> None:
    """Though the index decodes the JPEG at half its size; a picture that only looks the same stays a warning."""
    root = tree(tmp_path / "x", COUNTS)
    films = {f"film{number}.jpg": f"twin{number}.png" for number in range(4)}
    for film, twin in films.items():
        large = Image.fromarray(pixels(film, (15, 16))).resize((904, 900), Image.Resampling.BICUBIC)
        large.save(root / "test/a" / film, quality=80)
        copy(root, f"test/a/{film}", f"train/a/{twin}")
    large.save(root / "val/b/other.png")
    dataset = load(root)
    audit = dataset.audit()
    assert told(audit) == {"duplicate-images": "error", "near-duplicates": "warning"}
    assert [dataset[id].path.name for id in audit.duplicates] == list(films.values())
    assert {pair.second.path.name for pair in audit.pairs} == {"other.png", "twin3.png"}
    undivided = replace(dataset, samples=tuple(replace(sample, split=None) for sample in dataset.samples))
    split = {sample.path.name: sample.split for sample in ready_for_training(undivided, allow=()).dataset.samples}
    assert [split[film] for film in films] == [split[twin] for twin in films.values()]


def test_labels_that_are_unknown_do_not_contradict(tmp_path: Path) -> None:
    """Of several labels, only a 1 against a 0 is a contradiction."""
    images = tree(tmp_path / "x", {"": 160})
    for number in (0, 1):
        copy(images, f"p{number}.png", f"twin{number}.png")
    rows = [f"p{n}.png,{int(n % 2 == 0)},{int(n % 3 == 0)}" for n in range(160)]
    rows += ["twin0.png,1,", "twin1.png,1,0"]
    (tmp_path / "t.csv").write_text("\n".join(["file,A,B", *rows]))
    dataset = Dataset.from_csv(tmp_path / "t.csv", images=images, path="file", labels=["A", "B"])
    found = next(finding for finding in dataset.audit().warnings if finding.check == "conflicting-labels")
    assert found.message.startswith("1 picture with two labels (A and none 1×)")


def test_what_images_have_in_common_makes_no_copies() -> None:
    """Pictures of one kind correlate by 0.9 and more; their signatures do not, but a changed copy's does."""
    rng = np.random.default_rng(0)
    common = np.add.outer(np.hanning(32), np.hanning(32)) * 90
    films = np.stack([common + rng.normal(0, 12, (32, 32)) for _ in range(60)])
    films[1] = 255 * (np.clip(films[0], 0, 255) / 255) ** 0.6 * 0.8 + 20
    thumbnails = np.clip(films, 0, 255).astype(np.uint8)
    flat = thumbnails.reshape(60, -1).astype(float)
    assert np.corrcoef(flat[2:]).min() > 0.8
    alike = np.triu(signatures(thumbnails) @ signatures(thumbnails).T, 1)
    assert [tuple(pair) for pair in np.argwhere(alike > SIMILAR)] == [(0, 1)]
    assert np.sort(alike.ravel())[-2] < 0.3


def test_blank_pictures_are_not_called_copies_of_others() -> None:
    """They have nothing of their own."""
    thumbnails = np.stack([np.zeros((32, 32)), np.full((32, 32), 255), np.tile(np.arange(32), (32, 1))]).astype(
        np.uint8
    )
    marks = signatures(thumbnails)
    assert np.isfinite(marks).all()
    assert (marks @ marks.T)[:2].max() == 0


def test_pairs_are_shown_side_by_side(root: Path, tmp_path: Path) -> None:
    """With both files' names; the page holds the same picture."""
    large = pixels("large", (64, 64))
    Image.fromarray(large).resize((256, 256), Image.Resampling.BICUBIC).save(root / "test/a/one.png")
    Image.fromarray(large).save(root / "train/a/$two$.png")
    audit = load(root).audit()
    assert told(audit) == {"near-duplicates": "warning"}
    assert [(pair.first.path.name, pair.second.path.name) for pair in audit.pairs] == [("one.png", "$two$.png")]
    titles = [axis.get_title() for axis in audit.sheet().axes]
    assert titles[0].startswith("one.png\ntest, 0.9")
    assert titles[1].startswith("$two$.png\ntrain, 0.9")
    assert audit.sheet()._repr_png_().startswith(b"\x89PNG")
    assert told(load(root).without(audit.near_duplicates).audit()) == {}
    assert "data:image/png;base64," in audit.to_html(tmp_path / "a.html").read_text()


def test_frames_of_one_scene_are_told_once_each(root: Path) -> None:
    """Six scenes of ten frames in train and two in test are 120 pairs; what counts is the 60 frames to leave out."""
    for split, count in (("train", 60), ("test", 12)):
        for number in range(count):
            scene = pixels(f"scene {number % 6}", (64, 64)).astype(float)
            frame = np.clip(scene * 0.9 + number / 4, 0, 255).astype(np.uint8)
            Image.fromarray(frame).save(root / f"{split}/a/p{number}.png")
    dataset = load(root)
    audit = dataset.audit()
    (finding,) = [one for one in audit.warnings if one.check == "near-duplicates"]
    assert finding.message.startswith("60 images with what looks like a copy in another split.")
    assert len(audit.pairs) == len(audit.examples["near-duplicates"]) == len(set(audit.near_duplicates)) == 60
    assert {pair.first.split for pair in audit.pairs} == {"test"}
    assert "near-duplicates" not in told(dataset.without(audit.near_duplicates).audit())


def test_an_image_is_left_out_though_its_best_match_stays(root: Path) -> None:
    """Of three versions, in train, validation and test, only test's stays: whichever two are the most alike."""
    large = pixels("large", (64, 64))
    grain = np.random.default_rng(0).normal(0, 6, (64, 64))
    Image.fromarray(large).save(root / "train/a/one.png")
    Image.fromarray(np.clip(large + 1.0, 0, 255).astype(np.uint8)).save(root / "val/a/two.png")
    Image.fromarray(np.clip(large + grain, 0, 255).astype(np.uint8)).save(root / "test/a/three.png")
    dataset = load(root)
    audit = dataset.audit()
    assert {pair.second.path.name for pair in audit.pairs} == {"one.png", "two.png"}
    assert told(dataset.without(audit.near_duplicates).audit()) == {}


# -- what stops, and what travels ------------------------------------------------------------------------------------


def test_each_error_stops_training_unless_it_is_allowed_by_its_name(root: Path) -> None:
    """The message names the first and the others; what was allowed is said so in what travels."""
    copy(root, "test/a/p0.png", "train/a/other.png")
    for number in range(5):
        cut(root / f"train/b/p{number}.png")
    config = TrainConfig(model="small_cnn", weights=None, image_size=16)
    allow: list[str] = []
    for check in ("rejected-images", "duplicate-images"):
        with pytest.raises(AuditError) as caught:
            prepare_training(load(root), config, Resources(), "chest", allow, silent)
        assert caught.value.check == check
        assert f"allow=[{check!r}]" in str(caught.value)
        allow.append(check)
    work = prepare_training(load(root), config, Resources(), "chest", allow, silent)
    errors = [finding for finding in work.first.audit if finding.level == "error"]
    assert [finding.check for finding in errors] == allow
    assert all(finding.message.endswith("(allowed)") for finding in errors)
    assert work.first.notices == ("5 images that cannot be read left out",)


def test_a_check_that_does_not_exist_cannot_be_allowed(root: Path) -> None:
    """A slip of the pen would otherwise be found out after the upload."""
    with pytest.raises(
        ConfigError, match=r"allow='group-leak' is no check that stops training\. Did you mean 'group-le"
    ):
        ready_for_training(load(root), allow=("group-leak",))


def test_findings_go_with_the_job_and_name_no_file_and_no_patient(root: Path) -> None:
    """All of them, the fine ones too; the user is told the names."""
    copy(root, "test/a/p0.png", "train/b/CANARY.png")
    cut(root / "train/b/p1.png")
    dataset = load(root)
    shared = dataset.of("val")[0].group
    samples = tuple(replace(s, group=shared) if s.path.stem == "p9" else s for s in dataset.samples)
    dataset = replace(dataset, samples=samples)
    events: list[Event] = []
    config = TrainConfig(model="small_cnn", weights=None, image_size=16)
    allow = ("rejected-images", "group-leakage", "duplicate-images")
    work = prepare_training(dataset, config, Resources(), "chest", allow, events.append)
    assert [finding.check for finding in work.first.audit] == [
        "rejected-images", "group-leakage", "duplicate-images", "near-duplicates", "conflicting-labels",
        "tiny-validation", "absent-classes", "imbalance", "file-kinds", "orientation", "shortcuts", "shift",
    ]  # fmt: skip
    text = work.first.model_dump_json()
    assert "CANARY" not in text
    assert not re.search(r"p\d+\.png", text)
    assert str(shared) not in text
    assert "CANARY.png" in "".join(event.message for event in events if event.kind == "warning")
    assert any(event.stage == "auditing" for event in events)


def test_what_was_found_does_not_name_a_job(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check whose words change makes no other training."""
    config = TrainConfig(model="small_cnn", weights=None, image_size=16)
    first = prepare_training(load(root), config, Resources(), "chest", (), silent)
    monkeypatch.setattr("medimg.data.audit.classes.LARGEST_MAJORITY", 0.3)
    second = prepare_training(load(root), config, Resources(), "chest", (), silent)
    assert first.base == second.base
    assert first.first.audit != second.first.audit


# -- how it is read --------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Refuses tags that are left open, and keeps the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remembers the tag, and refuses what would fetch something."""
        assert tag not in ("script", "link", "iframe")
        assert all((value or "").startswith("data:") for name, value in attrs if name in ("src", "href"))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Checks that it is the one that was opened last."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Keeps the text."""
        self.text += data


def test_text_page_and_json_say_the_same(root: Path, tmp_path: Path) -> None:
    """One line a check; names of files are in page and JSON only, as text and not as markup."""
    copy(root, "test/a/p0.png", "train/a/<b>x.png")
    audit = load(root).audit()
    lines = repr(audit).splitlines()
    assert lines[0] == "audit of CANARY: 255 images (train 121, val 110, test 24): 1 error, 0 warnings"
    assert [line.split()[1] for line in lines[1:]] == [finding.check for finding in audit.findings]
    assert lines[3].startswith("  ✗ duplicate-images    1 picture in more than one split")
    html = audit.to_html(tmp_path / "audit.html").read_text()
    for text in (Page(html).text, Page(audit._repr_html_()).text):
        assert all(finding.message in text for finding in audit.findings)
    assert "<b>x.png" in Page(html).text
    assert "<b>x.png" not in repr(audit) + audit._repr_html_()
    content = json.loads(audit.to_json(tmp_path / "audit.json").read_text())
    assert content["findings"][2]["level"] == "error"
    assert content["findings"][2]["examples"] == list(audit.examples["duplicate-images"])


def test_a_test_set_alone_is_taken_as_it_is(root: Path) -> None:
    """There is nothing to train and so no validation to ask for."""
    dataset = load(root)
    audit = replace(dataset, samples=dataset.of("test")).audit()
    assert dict(audit.splits) == {"test": 24}
    assert "tiny-validation" not in {finding.check for finding in audit.findings}
    assert not audit.errors


def test_what_cannot_be_trained_on_is_said(tmp_path: Path) -> None:
    """As training says it."""
    tree(tmp_path / "x", {"a": 3, "b": 3})
    for path in (tmp_path / "x").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DatasetError, match="none of 6 images can be read"):
        load(tmp_path / "x").audit()


def test_names_that_are_no_unicode_do_not_break_the_page(tmp_path: Path) -> None:
    """As files from an old disk have them."""
    root = tree(tmp_path / "x", {"a": 60, "b": 60})
    odd = Path(f"{root}/a/\udce9.png")
    try:
        odd.write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes Unicode only")
    audit = Dataset.from_folder(root, positive="b").audit()
    assert "\\udce9.png" in audit.to_html(tmp_path / "a.html").read_text()
    assert audit.to_json(tmp_path / "a.json").exists()
