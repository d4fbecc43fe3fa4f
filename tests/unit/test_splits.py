"""Splits never leak a patient, keep the classes' shares, and training refuses what cannot be judged."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_folders import cut, tree

from medimg.data.dataset import Dataset, Sample, Split
from medimg.data.index import PixelFacts
from medimg.data.preparation import ready_for_training
from medimg.data.splits import split
from medimg.errors import AuditError, DatasetError
from medimg.progress import Event

quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def dataset_of(
    rows: Iterable[tuple[int | tuple[int | None, ...], str | None]], classes: int = 2, task: str = "binary"
) -> Dataset:
    """Returns a dataset without files: a row has labels and a group."""
    samples = tuple(
        Sample(f"{number:016x}", Path(f"/none/{number:05d}.png"), labels, None, group)
        for number, (labels, group) in enumerate(rows)
    )
    names = tuple(f"class {number}" for number in range(classes))
    return Dataset(samples, names, task, names[-1] if task == "binary" else None)  # type: ignore[arg-type]


def labelled(counts: Iterable[int], size: int = 1) -> Dataset:
    """Returns a dataset with so many images of each class, in groups of one size within a class."""
    counts = list(counts)
    rows = [(label, f"{label}-{number // size}") for label, count in enumerate(counts) for number in range(count)]
    return dataset_of(rows, len(counts), "binary" if len(counts) == 2 else "multiclass")


@st.composite
def datasets(draw: st.DrawFn) -> Dataset:
    """Any dataset: two to four exclusive classes or labels with gaps, patients of any number of images, or none."""
    classes = draw(st.integers(2, 4))
    group = st.one_of(st.none(), st.integers(0, 25).map(str))
    if draw(st.booleans()):
        labels = st.tuples(*[st.sampled_from([0, 1, None])] * classes)
        return dataset_of(draw(st.lists(st.tuples(labels, group), min_size=1, max_size=80)), classes, "multilabel")
    rows = draw(st.lists(st.tuples(st.integers(0, classes - 1), group), min_size=1, max_size=80))
    return dataset_of(rows, classes, "binary" if classes == 2 else "multiclass")


def splits_of(dataset: Dataset) -> dict[str, Split | None]:
    """Returns the split of each id."""
    return {sample.id: sample.split for sample in dataset.samples}


# -- laws of split ---------------------------------------------------------------------------------------------------


@quick
@given(datasets(), st.floats(0, 0.4), st.floats(0, 0.4), st.integers(0, 5))
def test_no_group_is_ever_in_two_splits(dataset: Dataset, val: float, test: float, seed: int) -> None:
    """Each sample keeps all but its split and gets exactly one; or there are too few groups, and that is said."""
    try:
        divided = dataset.split(val, test, seed)
    except DatasetError as error:
        assert "would be empty" in str(error)
        return
    assert divided.groups_in_two_splits() == {}
    assert [replace(sample, split=None) for sample in divided.samples] == list(dataset.samples)
    assert set(divided.splits) == {"train", *(["val"] if val else []), *(["test"] if test else [])}
    assert sum(divided.splits.values()) == len(dataset)


@quick
@given(datasets(), st.integers(0, 3), st.randoms())
def test_a_split_depends_on_the_seed_and_not_on_the_order(dataset: Dataset, seed: int, shuffler: random.Random) -> None:
    """Two machines list files differently and must agree."""
    shuffled = list(dataset.samples)
    shuffler.shuffle(shuffled)
    try:
        first = dataset.split(seed=seed)
    except DatasetError:
        return
    assert splits_of(first) == splits_of(dataset.split(seed=seed))
    assert splits_of(first) == splits_of(replace(dataset, samples=tuple(shuffled)).split(seed=seed))


@quick
@given(
    st.lists(st.integers(20, 120), min_size=2, max_size=4),
    st.floats(0.1, 0.3),
    st.floats(0.1, 0.3),
    st.integers(0, 3),
)
def test_shares_are_those_asked_for_in_each_class(counts: list[int], val: float, test: float, seed: int) -> None:
    """To within two images where groups are single images."""
    divided = labelled(counts).split(val, test, seed)
    for name, share in (("val", val), ("test", test), ("train", 1 - val - test)):
        for found, count in zip(divided.counts(name).values(), counts, strict=True):
            assert abs(found - share * count) <= 2


def test_patients_of_every_size_are_in_every_split() -> None:
    """Those with many images are the sicker ones: a test split of single visits would be an easier one."""
    draw = random.Random(0)
    sizes = [min(30, int(draw.paretovariate(1.1))) for _ in range(1000)]
    rows = [(draw.random() < 0.3, f"{number}") for number, size in enumerate(sizes) for _ in range(size)]
    divided = dataset_of([(int(ill), group) for ill, group in rows]).split()
    for name, share in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
        of = Counter(sample.group for sample in divided.of(name))
        assert sum(of.values()) == pytest.approx(share * len(rows), rel=0.02)
        assert len(of) == pytest.approx(share * 1000, rel=0.1)
        assert max(of.values()) >= 20
        ill = divided.counts(name)["class 1"] / len(divided.of(name))
        assert ill == pytest.approx(divided.counts("train")["class 1"] / len(divided.of("train")), abs=0.01)


def test_another_seed_gives_another_split() -> None:
    """Else repeats would say nothing of the draw."""
    dataset = labelled([50, 50])
    assert len({tuple(splits_of(dataset.split(seed=seed)).values()) for seed in range(5)}) == 5


def test_a_rare_label_is_shared_out_too() -> None:
    """Ten images of a label in a thousand: each split gets its share of them."""
    rows = [((1, int(number % 100 == 0)), str(number)) for number in range(1000)]
    divided = dataset_of(rows, 2, "multilabel").split(0.2, 0.2)
    assert [divided.counts(name)["class 1"] for name in ("train", "val", "test")] == [6, 2, 2]


def test_a_kept_test_split_is_not_touched() -> None:
    """Whatever the shares and the seed."""
    dataset = labelled([40, 40]).split(0.2, 0.2)
    again = dataset.split(val=0.5, test=None, seed=7)
    assert again.of("test") == dataset.of("test")
    assert again.splits == {"train": 32, "val": 32, "test": 16}
    with pytest.raises(DatasetError, match=r"test=None keeps the test split, but there is none. Pass test=0.15"):
        labelled([4, 4]).split(test=None)


def test_a_kept_test_split_must_not_share_patients() -> None:
    """What is divided would leak into it."""
    dataset = labelled([20, 20], size=2)
    first, *others = dataset.samples
    dataset = replace(dataset, samples=(replace(first, split="test"), *others))
    with pytest.raises(
        DatasetError, match=r"1 group of the test split with images outside it too: '0-0'. Call .split\(\)"
    ):
        dataset.split(test=None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"val": -0.1}, "val=-0.1: a share from 0 to 1, such as 0.15"),
        ({"test": 15}, "test=15: a share from 0 to 1, such as 0.15"),
        ({"val": float("nan")}, "val=nan: a share"),
        ({"val": 0.5, "test": 0.5}, "val=0.5 and test=0.5 leave nothing to train on"),
    ],
)
def test_shares_that_cannot_be_are_refused(arguments: dict[str, float], message: str) -> None:
    """With the value."""
    with pytest.raises(DatasetError, match=message):
        labelled([20, 20]).split(**arguments)


def test_too_few_groups_are_refused() -> None:
    """An empty split would only be found when it is scored."""
    message = "cannot divide 2 groups into train 70%, val 15%, test 15%: 'test', 'val' would be empty"
    with pytest.raises(DatasetError, match=message):
        labelled([9, 9], size=9).split()


# -- laws of subset --------------------------------------------------------------------------------------------------


@quick
@given(datasets(), st.lists(st.floats(0.001, 1), min_size=2, max_size=4), st.integers(0, 3), st.booleans())
def test_a_smaller_subset_is_inside_a_larger_one(
    dataset: Dataset, fractions: list[float], seed: int, whole: bool
) -> None:
    """Whole groups; no class is lost; the other splits stay whole; all of it is all of it."""
    if not whole:
        try:
            dataset = dataset.split()
        except DatasetError:
            return
    split: Split | None = None if whole else "train"
    last: set[str] = set()
    for fraction in sorted(fractions):
        part = dataset.subset(fraction, seed, split)
        ids = {sample.id for sample in part.samples}
        assert last <= ids
        last = ids
        groups = {sample.group for sample in part.of(split)} - {None}
        assert [s for s in dataset.of(split) if s.group in groups] == [s for s in part.of(split) if s.group]
        assert {name for name, count in part.counts(split).items() if count} == {
            name for name, count in dataset.counts(split).items() if count
        }
        assert [s for s in part.samples if s.split != split] == [s for s in dataset.samples if s.split != split]
    assert dataset.subset(1, seed, split) == dataset


@quick
@given(st.lists(st.integers(30, 200), min_size=2, max_size=4), st.floats(0.1, 1), st.integers(0, 3))
def test_a_subset_has_the_classes_shares(counts: list[int], fraction: float, seed: int) -> None:
    """To within two images."""
    part = labelled(counts).subset(fraction, seed, None)
    assert abs(len(part) - fraction * sum(counts)) <= 1
    for found, count in zip(part.counts(None).values(), counts, strict=True):
        assert abs(found - fraction * count) <= 2


@quick
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 30), st.integers(0, 40)), min_size=12, max_size=60))
def test_groups_that_share_a_picture_are_in_one_split(rows: list[tuple[int, int, int]]) -> None:
    """However many they are and however they hang together."""
    dataset = dataset_of([(label, str(group)) for label, group, _ in rows], 2, "binary")
    pixels = {sample.id: f"picture {picture}" for sample, (_, _, picture) in zip(dataset.samples, rows, strict=True)}
    try:
        divided = split(dataset, val=0.2, test=0.2, seed=0, pixels=pixels)
    except DatasetError:
        return  # they all hang together
    assert divided.groups_in_two_splits() == {}
    where: dict[str, set[object]] = {}
    for sample in divided.samples:
        where.setdefault(pixels[sample.id], set()).add(sample.split)
    assert all(len(splits) == 1 for splits in where.values())
    assert [sample.id for sample in divided.samples] == [sample.id for sample in dataset.samples]


def test_rare_combinations_of_labels_are_in_subsets_as_often_as_others() -> None:
    """Each image has a combination of its own: a tenth is still a tenth."""
    rows = [(tuple(int(bit) for bit in f"{number:08b}"), str(number)) for number in range(256)]
    part = dataset_of(rows, 8, "multilabel").subset(0.25, 0, None)
    assert len(part) == 64
    assert all(20 <= count <= 44 for count in part.counts(None).values())


def test_a_subset_of_nothing_is_refused() -> None:
    """A fraction that cannot be, or a split that is not there."""
    for fraction in (0, -1, 1.5, float("nan")):
        with pytest.raises(DatasetError, match=f"fraction={fraction}: above 0, at most 1"):
            labelled([4, 4]).subset(fraction)
    with pytest.raises(DatasetError, match=r"there is no train split. Splits: none; call .split\(\) first"):
        labelled([4, 4]).subset(0.5)


# -- what training insists on ----------------------------------------------------------------------------------------


def readable(dataset: Dataset) -> dict[str, PixelFacts]:
    """Returns the facts of images that can all be read."""
    return {sample.id: PixelFacts(sample.id, 8, 8, 1) for sample in dataset.samples}


def prepared(dataset: Dataset, *allow: str) -> tuple[Dataset, str]:
    """Returns the dataset that is trained on, and what is told of it: notices, then errors and warnings."""
    ready = ready_for_training(dataset, seed=0, allow=allow)
    told = [finding.message for finding in (*ready.audit.errors, *ready.audit.warnings)]
    return ready.dataset, "\n".join([*ready.notices, *told])


def refused(dataset: Dataset, *allow: str) -> AuditError:
    """Returns the failed check."""
    with pytest.raises(AuditError) as caught:
        ready_for_training(dataset, seed=0, allow=allow)
    return caught.value


def folder(root: Path, **counts: int) -> Dataset:
    """Returns a dataset of small files; `train_a=3` makes three images of class a in train."""
    tree(root, {name.replace("_", "/"): count for name, count in counts.items()})
    return Dataset.from_folder(root, positive="b")


def test_a_dataset_without_splits_is_divided(tmp_path: Path) -> None:
    """And the notice says how."""
    ready, notices = prepared(folder(tmp_path / "x", a=70, b=80))
    assert {name: round(count / 150, 2) for name, count in ready.splits.items()} == pytest.approx(
        {"train": 0.7, "val": 0.15, "test": 0.15}, abs=0.01
    )
    sizes = ", ".join(f"{name} {count}" for name, count in ready.splits.items())
    assert f"no splits given: divided by group into {sizes} (seed 0)" in notices
    assert "small validation split (" in notices
    assert "no patient key: if a patient has several images, pass group=" in notices


def test_a_tiny_validation_split_is_cut_anew_out_of_train(tmp_path: Path) -> None:
    """The public chest set has 16 images in it. Test is not touched, and `allow` keeps the split."""
    dataset = folder(tmp_path / "x", train_a=60, train_b=90, val_a=8, val_b=8, test_a=5, test_b=5)
    ready, notices = prepared(dataset)
    assert ready.of("test") == dataset.of("test")
    assert min(ready.counts("val").values()) >= 10
    assert (
        "the validation split of 16 images is too small to choose a threshold on: "
        f"{len(ready.of('val'))} images were cut out of train by group (seed 0)"
    ) in notices
    kept, notices = prepared(dataset, "tiny-validation")
    assert kept == dataset
    assert "validation has only 8 of 'a', 8 of 'b', and 10 of each class are needed. Add images (allowed)" in notices


def test_a_missing_validation_split_is_cut_out_of_train(tmp_path: Path) -> None:
    """Also with `allow`: something must choose the threshold."""
    dataset = folder(tmp_path / "x", train_a=60, train_b=90, test_a=5, test_b=5)
    for allow in ((), ("tiny-validation",)):
        ready, notices = prepared(dataset, *allow)
        assert min(ready.counts("val").values()) >= 10
        assert "there is no validation split: " in notices


def test_a_good_validation_split_is_kept(tmp_path: Path) -> None:
    """Nothing is done to a dataset that is as it should be."""
    dataset = folder(tmp_path / "x", train_a=30, train_b=30, val_a=50, val_b=50, test_a=2, test_b=2)
    ready, notices = prepared(dataset)
    assert ready == dataset
    assert notices == "no patient key: if a patient has several images, pass group= so that none is in two splits"


def test_too_few_images_to_validate_are_refused(tmp_path: Path) -> None:
    """With what there would be and what is needed."""
    error = refused(folder(tmp_path / "x", a=12, b=40))
    assert error.check == "tiny-validation"
    assert str(error) == (
        "too few images to choose a threshold on: validation has only 3 of 'a', and 10 of each class are needed. Add "
        "images\nIf you mean it: backend.train(…, allow=['tiny-validation'])"
    )
    ready, notices = prepared(folder(tmp_path / "x", a=12, b=40), "tiny-validation")
    assert ready.splits["val"] > 0
    assert "validation has only 2 of 'a', 6 of 'b', and 10 of each class are needed. Add images (allowed)" in notices


def test_a_patient_in_two_splits_stops_training(tmp_path: Path) -> None:
    """Unless it is allowed; what travels names no patient."""
    tree(tmp_path, {f"{split}/{name}": 12 for split in ("train", "val", "test") for name in ("normal", "ill")})
    dataset = Dataset.from_folder(tmp_path, group=r"(p\d+)")
    error = refused(dataset)
    assert error.check == "group-leakage"
    assert str(error) == (
        "12 groups (patients) in more than one split: the score would be too good. Divide anew by group: dataset = "
        "dataset.split():\n"
        + "".join(f"  'p{number}' in train and val and test\n" for number in (0, 1, 10, 11, 2, 3, 4, 5, 6, 7))
        + "  and 2 more: dataset.audit().examples\n"
        "If you mean it: backend.train(…, allow=['group-leakage'])"
    )
    ready, notices = prepared(dataset, "group-leakage")
    assert ready == dataset
    assert "12 groups (patients) in more than one split: the score would be too good." in notices
    assert "dataset = dataset.split() (allowed)" in notices
    assert "p0" not in notices
    assert prepared(dataset.split(0.2, 0.2), "tiny-validation")[0].groups_in_two_splits() == {}


def test_a_patient_of_a_validation_split_that_is_cut_anew_is_no_leak(tmp_path: Path) -> None:
    """The split that shares a patient with train is given up anyway."""
    tree(tmp_path, {"train/normal": 60, "train/ill": 60, "val/normal": 1, "val/ill": 1})
    dataset = Dataset.from_folder(tmp_path, group=r"/\w+/(p\d+)")
    assert set(dataset.groups_in_two_splits()) == {"p0"}
    assert prepared(dataset)[0].groups_in_two_splits() == {}


def test_a_class_that_train_lacks_is_refused(tmp_path: Path) -> None:
    """A table can put a class into test alone."""
    images = tree(tmp_path / "images", {"": 6})
    splits = ["train", "train", "train", "test", "test", "test"]
    rows = [f"p{n},{label},{split}" for n, (label, split) in enumerate(zip("aabcab", splits, strict=True))]
    (tmp_path / "t.csv").write_text("\n".join(["file,label,split", *rows]))
    dataset = Dataset.from_csv(tmp_path / "t.csv", images=images, path="file", labels="label", split="split")
    assert "  ! train has no image of 'c'" in dataset.summary()
    with pytest.raises(DatasetError, match=r"train has no image of 'c' \(test has 1\): what is not in train cannot be"):
        ready_for_training(dataset, seed=0, allow=())


def test_a_dataset_without_train_or_with_gaps_is_refused() -> None:
    """Half-made splits are a mistake in somebody's table."""
    dataset = labelled([20, 20])
    first, *others = dataset.samples
    some = replace(dataset, samples=(replace(first, split="train"), *others))
    test = replace(dataset, samples=tuple(replace(sample, split="test") for sample in dataset.samples))
    for wrong, message in ((some, "some images have a split and some have none"), (test, "no images to train on")):
        with pytest.raises(DatasetError, match=message):
            ready_for_training(wrong, allow=(), facts=readable(wrong))


def test_labels_may_be_absent_from_small_splits() -> None:
    """A rare label cannot be in all; it is said and no error."""
    rows = [((int(number % 2), int(number == 0)), str(number)) for number in range(200)]
    dataset = dataset_of(rows, 2, "multilabel")
    audit = ready_for_training(dataset, allow=(), facts=readable(dataset)).audit
    assert any("val has no image of 'class 1'" in finding.message for finding in audit.warnings)


# -- images that cannot be read --------------------------------------------------------------------------------------


def test_a_few_broken_images_are_left_out_and_named_to_the_user_alone(tmp_path: Path) -> None:
    """One in two hundred: training goes on. What travels says how many and why, and names no file."""
    dataset = folder(tmp_path / "x", a=100, b=100)
    cut(tmp_path / "x/a/p7.png")
    events: list[Event] = []
    ready = ready_for_training(dataset, seed=0, allow=(), report=events.append)
    assert len(ready.dataset) == 199
    told = [event.message for event in events if event.kind == "warning"]
    assert (
        "1 of 200 images cannot be read (0.5%): 1 truncated:\n"
        f"  {tmp_path}/x/a/p7.png: ends before its pixels do. Copy or download it again [truncated]"
    ) in told
    assert ready.notices[0] == "1 image that cannot be read left out"
    travels = "".join([*ready.notices, *(finding.message for finding in ready.audit.findings)])
    assert "1 of 200 images cannot be read (0.5%): 1 truncated" in travels
    assert "p7" not in travels


def test_more_than_one_in_a_hundred_broken_images_stop_training(tmp_path: Path) -> None:
    """With the list; `allow` leaves them out."""
    dataset = folder(tmp_path / "x", a=100, b=100)
    for number in range(3):
        cut(tmp_path / f"x/a/p{number}.png")
    error = refused(dataset)
    assert error.check == "rejected-images"
    assert str(error) == (
        "3 of 200 images cannot be read (1.5%): 3 truncated:\n"
        f"  {tmp_path}/x/a/p0.png: ends before its pixels do. Copy or download it again [truncated]\n"
        f"  {tmp_path}/x/a/p1.png: ends before its pixels do. Copy or download it again [truncated]\n"
        f"  {tmp_path}/x/a/p2.png: ends before its pixels do. Copy or download it again [truncated]\n"
        "If you mean it: backend.train(…, allow=['rejected-images'])"
    )
    assert len(prepared(dataset, "rejected-images")[0]) == 197


def test_a_dataset_of_broken_images_is_refused(tmp_path: Path) -> None:
    """Ten are shown; and where all are left out, nothing remains."""
    dataset = folder(tmp_path / "x", a=10, b=10)
    for path in (tmp_path / "x/a").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DatasetError, match="train has no image of 'a'"):
        ready_for_training(dataset.split(), seed=0, allow=("rejected-images",))
    for path in (tmp_path / "x/b").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DatasetError, match="none of 20 images can be read") as caught:
        ready_for_training(dataset, seed=0, allow=("rejected-images",))
    assert str(caught.value).count(" has no bytes. Copy or download it again [empty]\n") == 10
    assert str(caught.value).endswith("\n  and 10 more: dataset.audit().examples")
