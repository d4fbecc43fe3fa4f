"""Images now against those of validation: what is measured, how far chance goes, and that a change is noticed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from medimg.artifact import ModelFolder
from medimg.data.pixels import Pixels
from medimg.errors import ModelFolderError
from medimg.inference.appearance import statistics
from medimg.inference.change import design_effect, index_limit, rate_difference, stability_index
from medimg.inference.monitoring import LEAST, Histogram, Reference, Seen, Window, unknown
from medimg.inference.wording import of_distribution

KINDS = ("CLEAR", "NODULE")


def picture(seed: int = 0, channels: int = 1) -> Pixels:
    """Returns a picture of soft clouds."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 200, (8, 8, channels))
    return np.asarray(np.kron(coarse, np.ones((8, 8, 1))) + rng.integers(0, 20, (64, 64, channels)), np.uint8)


def seen(number: int, *, brightness: float = 0.5, share: float = 0.3, spread: float = 0.1) -> Seen:
    """Returns what is kept of one image of a stream, always the same for a number."""
    rng = np.random.default_rng(number)
    score = float(rng.beta(8, 2) if rng.random() < share else rng.beta(2, 8))
    positives = ("NODULE",) if score >= 0.5 else ()
    looks = {"brightness": round(float(rng.normal(brightness, spread)), 4), "colour": 0.0}
    return Seen({"CLEAR": 1 - score, "NODULE": score}, positives, 0.45 < score < 0.55, looks, f"{number:x}", number)


@pytest.fixture(scope="module")
def reference() -> Reference:
    """Of 400 images of validation."""
    return Reference.of([seen(number) for number in range(400)], positive="NODULE")


def window(reference: Reference, images: Sequence[Seen], size: int = 500) -> Window:
    """Returns a window that has seen images."""
    made = Window(reference, size)
    for image in images:
        made.add(image)
    return made


# -- the picture ------------------------------------------------------------------------------------------------------


def test_plain_pictures_have_the_statistics_that_can_be_said_by_hand() -> None:
    """Grey without any detail; a bright left half; pure red."""
    plain = statistics(np.full((8, 8, 1), 51, np.uint8))
    assert plain == dict.fromkeys(plain, 0.0) | {"brightness": 0.2}
    half = np.zeros((8, 8, 1), np.uint8)
    half[:, :4] = 255
    found = statistics(half)
    assert (found["brightness"], found["contrast"], found["dark"], found["light"]) == (0.5, 0.5, 0.5, 0.5)
    assert (found["left_right"], found["top_bottom"], found["centre"]) == (1.0, 0.0, 0.0)
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    assert statistics(red)["colour"] == 1.0


def test_each_change_of_a_picture_moves_its_statistic() -> None:
    """Inverted, turned, mirrored, smoothed, brighter; and a picture of one pixel has numbers too."""
    image = picture()
    usual = statistics(image)
    assert statistics(255 - image)["brightness"] == pytest.approx(1 - usual["brightness"], abs=1e-4)
    assert statistics(image.transpose(1, 0, 2).copy())["stretch"] == pytest.approx(-usual["stretch"], abs=1e-4)
    assert statistics(image[:, ::-1].copy())["left_right"] == pytest.approx(-usual["left_right"], abs=1e-4)
    assert statistics(image[::-1].copy())["top_bottom"] == pytest.approx(-usual["top_bottom"], abs=1e-4)
    smooth = np.repeat(np.repeat(image[::2, ::2], 2, axis=0), 2, axis=1)
    assert statistics(smooth)["fineness"] < 0.8 * usual["fineness"]
    assert statistics(np.minimum(image, 205) + np.uint8(50))["brightness"] > usual["brightness"] + 0.15
    assert all(math.isfinite(value) for value in statistics(np.zeros((1, 1, 3), np.uint8)).values())


def test_grey_gives_the_same_numbers_in_one_channel_and_in_three() -> None:
    """A model that takes three channels is given grey three times."""
    image = picture(1)
    assert statistics(np.repeat(image, 3, axis=2)) == statistics(image)


# -- chance -----------------------------------------------------------------------------------------------------------


def test_the_limits_are_those_of_the_sources() -> None:
    """SciPy's chi-squared, and Newcombe's own example: 56 of 70 and 48 of 80 differ by 0.0524 to 0.3339."""
    for degrees in (1, 2, 5, 9, 20):
        for level in (1e-3, 1e-5, 1e-6):
            exact = stats.chi2.isf(level, degrees) * (1 / 100 + 1 / 200)
            assert index_limit(100, 200, degrees + 1, level) == pytest.approx(max(0.1, exact), rel=1e-9)
    assert index_limit(10_000, 10_000, 10, 1e-6) == 0.1
    value, limit = rate_difference(56, 70, 48, 80, 0.05)
    assert (value, value - limit) == (pytest.approx(0.2), pytest.approx(0.0524, abs=1e-4))
    assert rate_difference(48, 80, 56, 70, 0.05)[0] == pytest.approx(0.2)
    assert rate_difference(0, 50, 0, 50, 0.05)[0] == 0.0


def test_the_index_of_equal_shares_is_nothing_and_grows_with_the_change() -> None:
    """Empty bins too are numbers."""
    assert stability_index([10, 10, 10], [10, 10, 10]) == 0.0
    assert 0 < stability_index([8, 10, 12], [10, 10, 10]) < stability_index([0, 0, 30], [10, 10, 10]) < 10


def test_images_of_one_patient_count_for_less() -> None:
    """Five equal images a patient are worth one; images that are their patients' only ones, all."""
    rng = np.random.default_rng(0)
    places = rng.integers(0, 10, 400).tolist()
    alone = design_effect(places, list(range(400)))
    assert 1.0 <= alone < 1.02
    five = design_effect([place for place in places for _ in range(5)], [n for n in range(400) for _ in range(5)])
    assert five == pytest.approx(5, rel=0.02)
    assert design_effect([3, 3, 3], ["a", "a", "b"]) == 1.0


# -- the reference ----------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1).map(lambda value: round(value, 4)), min_size=1, max_size=300))
def test_a_histogram_holds_each_number_once_and_has_a_bin_for_all(values: list[float]) -> None:
    """Of any numbers, also if they are all the same."""
    histogram = Histogram.of(values, [str(place) for place in range(len(values))])
    assert sum(histogram.counts) == len(values)
    assert list(histogram.edges) == sorted(set(histogram.edges))
    assert len(histogram.counts) == len(histogram.edges) + 1 >= 2
    assert all(0 <= histogram.bin(value) < len(histogram.counts) for value in (-1.0, *values, 2.0))


def test_what_never_varied_on_validation_has_a_bin_for_what_does() -> None:
    """Grey films: a first photograph in colour falls where no film fell."""
    histogram = Histogram.of([0.0] * 100, ["x"] * 100)
    assert histogram.counts == (0, 100, 0)
    assert [histogram.bin(value) for value in (-0.1, 0.0, 0.0001)] == [0, 1, 2]


def test_a_reference_is_what_it_was_after_json(reference: Reference) -> None:
    """A few kilobytes; one of another version is refused with a reason."""
    text = json.dumps(reference.to_json())
    assert Reference.from_json(json.loads(text)) == reference
    assert len(text) < 8_000
    for damaged in ({}, {**reference.to_json(), "format": 2}, {**reference.to_json(), "histograms": {"x": {}}}):
        with pytest.raises(ModelFolderError, match="another version of medimg"):
            Reference.from_json(damaged)


def test_the_classes_of_every_task_are_measured() -> None:
    """Of two classes the positive one; of several all, and of very many the twenty that are positive most often."""
    names = [f"finding {number}" for number in range(30)]
    rows = [
        Seen(dict.fromkeys(names, 0.2), tuple(names[:25][: number % 26]), False, {}, str(number))
        for number in range(60)
    ]
    many = Reference.of(rows)
    assert many.classes == tuple(names[:20])
    assert Reference.of([seen(number) for number in range(60)], positive="NODULE").classes == ("NODULE",)
    assert set(Reference.of([seen(number) for number in range(60)]).rates) == {
        "positives of CLEAR", "positives of NODULE", "uncertain",
    }  # fmt: skip


def test_the_trainer_writes_the_reference_of_its_validation_images(trained: ModelFolder) -> None:
    """Beside the network, in the digest, and among the files that a server is given."""
    reference = Reference.read(trained.path)
    assert reference is not None
    assert reference.images == trained.record.data["counts"]["val"]
    assert reference.classes == (trained.record.positive,)
    assert {"brightness", "fineness", "confidence", "probability of NODULE"} <= set(reference.histograms)
    assert "monitoring.json" in trained.serving_files("litert")
    assert (trained.path / "monitoring.json").stat().st_size < 12_000
    assert Reference.read(trained.path / "golden") is None


# -- the window -------------------------------------------------------------------------------------------------------


def test_nothing_is_said_before_there_are_enough_images(reference: Reference) -> None:
    """Up to 49; then each measure has a value, a limit and a sentence."""
    few = window(reference, [seen(1000 + number) for number in range(LEAST - 1)])
    told = few.health()
    assert (told["status"], told["images"], told["measures"]) == ("too-few", LEAST - 1, [])
    assert "49 of the 50 images" in told["message"]
    few.add(seen(5000))
    told = few.health()
    assert told["status"] == "ok"
    assert [one["name"] for one in told["measures"]] == [
        "brightness", "colour", "probability of NODULE", "confidence", "positives of NODULE", "uncertain",
    ]  # fmt: skip
    assert all(one["value"] <= one["limit"] and one["message"].endswith(".") for one in told["measures"])
    assert Window(reference).health()["since"] == ""
    assert unknown()["status"] == "unknown"


def test_images_like_those_of_validation_raise_no_alarm(reference: Reference) -> None:
    """Forty streams of 600 images, with a look after every thirtieth: 720 looks."""
    for stream in range(40):
        made = Window(reference)
        for number in range(600):
            made.add(seen(100_000 + 1000 * stream + number))
            if number >= LEAST and number % 30 == 0:
                assert made.health()["status"] == "ok"


@pytest.mark.parametrize(
    ("changed", "name", "words"),
    [
        (lambda number: seen(number, brightness=0.8), "brightness", "The images are brighter than those of validation"),
        (lambda number: seen(number, brightness=0.2), "brightness", "The images are darker than those of validation"),
        (lambda number: seen(number, spread=0.6), "brightness", "The mean brightness varies from image to image"),
        (lambda number: seen(number, share=0.9), "positives of NODULE", "Called NODULE:"),
    ],
    ids=["brighter", "darker", "more spread", "three times the prevalence"],
)
def test_a_change_raises_the_alarm_and_is_named(
    reference: Reference, changed: Callable[[int], Seen], name: str, words: str
) -> None:
    """At once where all is new, and among right images after a while."""
    told = window(reference, [changed(10_000 + number) for number in range(100)]).health()
    assert told["status"] == "alarm"
    (measure,) = [one for one in told["measures"] if one["name"] == name]
    assert measure["alarm"]
    assert words in measure["message"]
    assert "Nobody has shown that the model is right on such images" in told["message"]
    mixed = [seen(20_000 + number) for number in range(300)] + [changed(30_000 + number) for number in range(200)]
    assert window(reference, mixed).health()["status"] == "alarm"


def test_an_alarm_stays_until_it_is_well_under_its_limit(reference: Reference) -> None:
    """It does not come and go with single images where its value is at the limit; since when it stands is told."""
    stream = [seen(number, brightness=0.62) for number in range(200)] + [seen(9000 + number) for number in range(200)]
    made, held, statuses = window(reference, stream[:200], size=200), 0, []
    assert made.health()["alarm_since"] == "1970-01-01T00:03:19+00:00"
    for number in range(200, 400, 4):
        for one in stream[number : number + 4]:
            made.add(one)
        told, forgetful = made.health(), window(reference, stream[: number + 4], size=200).health()
        statuses.append(told["status"])
        if (told["status"], forgetful["status"]) == ("alarm", "ok"):
            held += 1
            assert any(0.8 < one["value"] / one["limit"] <= 1 and one["alarm"] for one in told["measures"])
            assert told["alarm_since"] == "1970-01-01T00:03:19+00:00"
    assert held, "some looks were between the two limits"
    assert statuses == sorted(statuses), "alarm, and then ok for good"
    assert (told["status"], told["alarm_since"]) == ("ok", "")


def test_every_measure_of_the_pixels_is_told_in_words(reference: Reference) -> None:
    """The names of the measures, such as top_bottom, are for programs: who reads a warning is no programmer."""
    for name in statistics(picture()):
        for now in ((90, 10), (50, 50), (10, 90)):
            mean = 0.5 + (now[1] - now[0]) / 1000
            told = of_distribution(name, mean, 0.5, now, (50, 50), alarm=now != (50, 50))
            spread = of_distribution(name, 0.5 - (mean - 0.5), 0.5, now, (50, 50), alarm=True)
            for sentence in (told, spread):
                assert "_" not in sentence
                assert not re.search(r"\b(dark|light|fineness|stretch|centre):? ", sentence)


def test_a_window_forgets_the_oldest_and_counts_as_if_it_were_new(reference: Reference) -> None:
    """After 700 images, half of them strange, it is what it would be with the last 200 alone."""
    stream = [seen(number, brightness=0.9) for number in range(350)] + [seen(9000 + number) for number in range(350)]
    made = window(reference, stream, size=200)
    assert len(made) == 200
    assert made.health() == window(reference, stream[-200:], size=200).health()
    assert made.health()["status"] == "ok"


def test_the_same_image_sent_again_counts_once(reference: Reference) -> None:
    """A load test with one picture is no change of the images; without an id each counts."""
    made = window(reference, [seen(number) for number in range(200)])
    before = made.health()
    assert [made.add(seen(7)) for _ in range(1000)] == [False] * 1000
    assert made.health() == before
    nameless = Seen({"CLEAR": 0.2, "NODULE": 0.8}, ("NODULE",), False, {})
    assert [made.add(nameless) for _ in range(3)] == [True] * 3


def test_where_pixels_are_not_known_answers_alone_are_measured(reference: Reference) -> None:
    """A page in front of an endpoint elsewhere sees no pixels."""
    bare = [Seen(one.probabilities, one.positives, one.uncertain, {}, one.id) for one in map(seen, range(2000, 2100))]
    told = window(reference, bare).health()
    assert told["status"] == "ok"
    names = [one["name"] for one in told["measures"]]
    assert names == ["probability of NODULE", "confidence", "positives of NODULE", "uncertain"]
