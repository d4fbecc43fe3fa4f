"""The report says what was asked, how well it went and what to worry about, in one file."""

import re
import subprocess
import sys
import warnings
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from medimg.errors import DatasetError, ModelFolderError
from medimg.evaluation.report import Report
from medimg.evaluation.thresholds import Thresholds, choose
from medimg.inference.predictions import Predictions

HISTORY = {"loss": [0.7, 0.4, 0.3], "val_loss": [0.6, float("nan"), None], "learning_rate": [0.1, 0.1, 0.1]}
RECORD = {"model": {"name": "small_cnn"}, "data": {"name": "phantoms", "sizes": {"val": 200}}, "seed": 0}


def binary(
    split: str, classes: tuple[str, str] = ("NORMAL", "PNEUMONIA"), shift: float = 0.0, n: int = 200
) -> Predictions:
    """Returns a binary table; `shift` moves the scores of negatives up."""
    rng = np.random.default_rng(len(split))
    truth = np.arange(n) % 2
    p = 1 / (1 + np.exp(-rng.normal(np.where(truth, 2, -2 + shift), 1.5)))
    return Predictions(
        classes=classes,
        task="binary",
        positive=classes[1],
        ids=tuple(f"{split}-{row}" for row in range(n)),
        probabilities=np.stack([1 - p, p], axis=1),
        labels=tuple(truth),
        groups=tuple(f"{split}-patient-{row // 2}" for row in range(n)),
        split=split,
    )


def many(split: str, task: str, k: int) -> Predictions:
    """Returns a multiclass or multilabel table of k classes; the last multilabel one is too rare to estimate."""
    rng = np.random.default_rng(k + len(split))
    names = tuple(f"class_{index}" for index in range(k))
    ids = tuple(f"{split}-{row}" for row in range(300))
    index = rng.integers(0, k, 300)
    if task == "multiclass":
        p = rng.dirichlet(np.ones(k), 300) + np.eye(k)[index]
        return Predictions(names, "multiclass", ids, p / p.sum(axis=1, keepdims=True), labels=tuple(index), split=split)
    truth = rng.random((300, k)) < 0.3
    truth[:, -1] = np.arange(300) < 3
    labels = tuple(tuple(int(value) if rng.random() < 0.9 else None for value in row) for row in truth)
    return Predictions(
        names, "multilabel", ids, np.clip(0.3 * truth + 0.7 * rng.random((300, k)), 0, 1), labels=labels, split=split
    )


def build(*tables: Predictions, **more: object) -> Report:
    """Returns the report of tables, the first of them validation."""
    by_split = {str(table.split): table for table in tables}
    options = {"test_looks": int("test" in by_split), "history": HISTORY, "record": RECORD} | more
    return Report.build(by_split, choose(tables[0], "youden"), **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def report() -> Report:
    """Returns a binary report whose specificity falls on test."""
    return build(binary("val"), binary("test", shift=2.0), notices=["3 duplicates"])


class Page(HTMLParser):
    """Collects the tags, addresses and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes the tag and where it points."""
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]

    def handle_data(self, data: str) -> None:
        """Notes the text."""
        if self.lasttag != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        """The text, with single spaces."""
        return re.sub(r"\s+", " ", " ".join(self.words))


def test_the_headline_is_test_where_there_is_one(report: Report) -> None:
    """Validation chose the threshold, so it cannot be the headline."""
    assert report.headline == "test"
    assert report.metrics == report.splits["test"].summary()
    assert report.metrics != report.splits["val"].summary()
    assert sum(sum(row.values()) for row in report.confusion.values()) == 200
    assert build(binary("val")).headline == "val"


def test_notices_come_from_the_splits_the_thresholds_and_the_data(report: Report) -> None:
    """A fall from validation to test is found by the report itself."""
    assert any(notice.startswith("Specificity falls from") for notice in report.notices)
    assert report.notices[-1] == "3 duplicates"


def test_shared_patients_are_named_first() -> None:
    """The same patient in validation and test flatters the model."""
    shared = replace(binary("test"), groups=binary("val").groups)
    assert build(binary("val"), shared).notices[0].startswith("100 patients have images both in val and in test")


@pytest.mark.parametrize(
    ("tables", "looks", "message"),
    [
        ({}, 0, "at least one split"),
        ({"test": binary("test")}, 0, "at least one look"),
        ({"test": binary("val")}, 1, "those of the split 'val'"),
        ({"a/b": replace(binary("val"), split=None)}, 0, "file name"),
        ({"val": binary("val"), "test": binary("test", ("NORMAL", "COVID"))}, 1, "not predictions of one model"),
        ({"val": binary("val"), "test": replace(binary("val"), split="test")}, 1, "'val-0' is in val and in test"),
    ],
)
def test_tables_that_do_not_belong_together_are_refused(
    tables: dict[str, Predictions], looks: int, message: str
) -> None:
    """A report cannot be built on an overlap or a mix-up."""
    with pytest.raises(DatasetError, match=message):
        Report.build(tables, Thresholds(values={"PNEUMONIA": 0.5}, policy=0.5), test_looks=looks)


def test_a_report_survives_its_folder(report: Report, tmp_path: Path) -> None:
    """Figures, tables, history, record and notices come back; what was not finite is None."""
    again = Report.load(report.save(tmp_path / "report"))
    for name in ("splits", "thresholds", "predictions", "history", "record", "notices", "test_looks"):
        assert getattr(again, name) == getattr(report, name)
    assert again.history["val_loss"] == (0.6, None, None)
    assert repr(again) == repr(report)
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == [
        "predictions-test.csv",
        "predictions-val.csv",
        "report.html",
        "report.json",
    ]


@pytest.mark.parametrize("damage", ["report.json", "predictions-val.csv"])
def test_a_damaged_folder_is_refused(report: Report, tmp_path: Path, damage: str) -> None:
    """Half a file is no report."""
    path = report.save(tmp_path) / damage
    path.write_bytes(path.read_bytes()[:-200])
    if damage.endswith("csv"):
        path.unlink()
    with pytest.raises(ModelFolderError, match="no report that this medimg can read"):
        Report.load(tmp_path)


CASES = [
    pytest.param(lambda: build(binary("val"), binary("test")), id="binary"),
    pytest.param(lambda: build(binary("val")), id="validation only"),
    pytest.param(lambda: build(many("val", "multiclass", 3), many("test", "multiclass", 3)), id="multiclass"),
    pytest.param(lambda: build(many("val", "multiclass", 30), history=None, record=None), id="many classes"),
    pytest.param(lambda: build(many("val", "multilabel", 3), many("test", "multilabel", 3)), id="multilabel"),
    pytest.param(lambda: build(many("val", "multilabel", 30)), id="many labels"),
    pytest.param(lambda: build(replace(binary("val"), labels=(1,) * 200)), id="one class alone"),
    pytest.param(lambda: build(binary("val", n=1)), id="one image"),
]


@pytest.mark.parametrize("make", CASES)
def test_the_page_needs_nothing_but_itself(make, tmp_path: Path) -> None:
    """Nothing is fetched from anywhere: images are data, styles are inline, there is no script."""
    path = make().to_html(tmp_path / "report.html")
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert page.addresses and all(address.startswith("data:image/svg+xml;base64,") for address in page.addresses)
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(page.tags)
    assert not re.search(r"https?://|url\(|@import", html)
    assert "Content-Security-Policy" in html and html.count("<h1>") == 1
    assert "Not a medical device" in page.text
    assert not re.search(r"\bnan\b|\$[a-z]|None\b", page.text)


def test_the_page_says_what_flatters_and_how_often_test_was_scored(report: Report) -> None:
    """Optimism and test looks are in plain words, not in a footnote."""
    from medimg.evaluation.page import page

    text = Page(page(report)).text
    assert "Asked of 200 test images of 100 patients ." in text
    assert "The threshold was chosen on the validation images, so their figures flatter the model" in text
    assert "Test was scored once" in text
    thrice = Page(page(replace(report, test_looks=3))).text
    assert "Test was scored 3 times" in thrice and "fitted to test" in thrice
    alone = Page(page(build(binary("val")))).text
    assert "These figures are optimistic" in alone and "No test images were scored" in alone


def test_the_sentences_hold_the_counts(report: Report) -> None:
    """The plain words are the confusion matrix."""
    missed, found = report.confusion["PNEUMONIA"].values()
    cleared, alarms = report.confusion["NORMAL"].values()
    text = re.sub(r"\s+", " ", repr(report))
    assert f"found {found} of 100 images with PNEUMONIA" in text
    assert f"cleared {cleared} of 100 with NORMAL" in text
    assert f"missed {missed} and raised {alarms} false alarm" in text


def test_an_unchosen_threshold_is_not_called_chosen() -> None:
    """With a fixed policy nothing was chosen on validation."""
    tables = {"val": binary("val"), "test": binary("test")}
    text = repr(Report.build(tables, choose(tables["val"], 0.4), test_looks=1))
    assert "threshold of 0.400, fixed beforehand" in text
    assert "threshold was chosen" not in text


HOSTILE = "<script>alert(\"1\")</script>/é & 'x'"


def test_whatever_a_name_holds_is_shown_and_never_run(tmp_path: Path) -> None:
    """Names, notices and records with markup, quotes, slashes, accents and dollars stay text."""
    tables = [binary(split, ("a$b$c_", HOSTILE)) for split in ("val", "test")]
    made = build(*tables, notices=[HOSTILE], record={"model": HOSTILE, HOSTILE: {HOSTILE: [HOSTILE, {HOSTILE: 1}]}})
    made.save(tmp_path)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "script" not in page.tags
    assert page.text.count(HOSTILE) >= 7
    assert "<script" not in made._repr_html_() and "&lt;script&gt;" in made._repr_html_()
    assert Report.load(tmp_path).predictions == made.predictions


def test_long_and_odd_names_can_be_drawn(tmp_path: Path) -> None:
    """Percent signs, underscores in front, backslashes and very long names are drawn without a warning."""
    names = ("_private", "100% \\alpha$", "x" * 300)
    table = replace(many("val", "multiclass", 3), classes=names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(table).to_html(tmp_path / "report.html")


def test_figures_are_drawn_without_pyplot(report: Report, tmp_path: Path) -> None:
    """A process that draws them all has not even imported pyplot: no window, no figure left open."""
    report.save(tmp_path)
    code = (
        "import sys; from medimg.evaluation.report import Report\n"
        "made = Report.load(sys.argv[1])\n"
        "assert set(made.figures) == {'roc', 'precision_recall', 'confusion', 'scores', 'learning'}\n"
        "assert all(figure._repr_png_().startswith(b'\\x89PNG') for figure in made.figures.values())\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code, str(tmp_path)], check=True)


def test_the_same_report_gives_the_same_page(tmp_path: Path) -> None:
    """No date, no random name: two pages can be compared byte for byte."""
    one, two = (build(binary("val")).to_html(tmp_path / name).read_bytes() for name in ("1.html", "2.html"))
    assert one == two


def test_curves_of_many_images_stay_small() -> None:
    """20,000 images need no more ink than 400 points."""
    big = build(binary("val", n=20_000), history=None)
    line = big.figures["roc"].axes[0].lines[0]
    assert len(line.get_xdata()) <= 400
    assert len(big.figures["roc"].svg()) < 60_000


def test_the_ring_is_the_frozen_threshold(report: Report) -> None:
    """The point drawn on the curve is the sensitivity and specificity of the table."""
    ring = next(line for line in report.figures["roc"].axes[0].lines if line.get_marker() == "o")
    assert float(ring.get_ydata()[0]) == pytest.approx(report.metrics["sensitivity"])
    assert 1 - float(ring.get_xdata()[0]) == pytest.approx(report.metrics["specificity"])


def test_shares_are_never_rounded_to_all_or_nothing() -> None:
    """999 of 1,000 is not 100%, and 9,999 of 10,000 is not either."""
    from medimg.evaluation.summary import share

    assert [share(value) for value in (1.0, 0.0, 0.9996, 0.99996, 0.5, None)] == [
        "100.0%",
        "0.0%",
        "99.96%",
        "99.996%",
        "50.0%",
        "not estimable",
    ]
