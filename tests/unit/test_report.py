"""The report says what was asked, how well it went and what to worry about, in one file."""

import io
import json
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import yaml
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from medimg.artifact import ModelRecord, Preprocessing
from medimg.config import Finding, TrainConfig
from medimg.errors import DatasetError, ModelFolderError
from medimg.evaluation import figures
from medimg.evaluation.cases import Case
from medimg.evaluation.checklist import CLAIM, TRIPOD, fill
from medimg.evaluation.metrics import measure
from medimg.evaluation.page import page
from medimg.evaluation.report import Report
from medimg.evaluation.summary import believed, caveats, findings
from medimg.evaluation.thresholds import Thresholds, choose
from medimg.inference.predictions import Predictions
from medimg.training.card import card

AUDIT = (
    Finding(check="group-leakage", level="fine", message="No patient is in two splits."),
    Finding(check="shortcuts", level="warning", message="Size alone tells the classes apart."),
)
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


def case(kind: str) -> Case:
    """Returns an image to look at."""
    stream = io.BytesIO()
    Image.new("L", (8, 8), 99).save(stream, "PNG")
    probabilities = {"NORMAL": 0.1, "PNEUMONIA": 0.9}
    return Case("s", "NORMAL", "PNEUMONIA", probabilities, kind, "PNEUMONIA", stream.getvalue(), stream.getvalue())  # type: ignore[arg-type]


def with_columns(table: Predictions) -> Predictions:
    """Returns a table with the sex of 100 patients, and a site that has only 4 of them."""
    sex = tuple("F" if row % 4 < 2 else "M" for row in range(len(table)))
    return replace(table, columns={"sex": sex, "site": ("far",) * 8 + ("near",) * (len(table) - 8)})


@pytest.fixture(scope="module")
def report() -> Report:
    """Returns a binary report whose specificity falls on test."""
    test = with_columns(binary("test", shift=2.0))
    cases = [case("right"), case("wrong")]
    return build(binary("val"), test, notices=["3 duplicates"], audit=AUDIT, cases=cases)


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
    for name in Report.__dataclass_fields__:
        assert getattr(again, name) == getattr(report, name), name
    assert again.history["val_loss"] == (0.6, None, None)
    assert repr(again) == repr(report)
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == [
        "cases.json",
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


def test_a_report_of_an_older_medimg_is_measured_anew(report: Report, tmp_path: Path) -> None:
    """Its predictions and thresholds are all that is needed; what it told stays told."""
    report.save(tmp_path)
    new = json.loads((tmp_path / "report.json").read_text())
    kept = {name: new[name] for name in ("splits", "thresholds", "history", "record", "notices", "test_looks")}
    (tmp_path / "report.json").write_text(json.dumps({"format": "medimg-report-1", **kept}))
    (tmp_path / "cases.json").unlink()
    again = Report.load(tmp_path)
    assert again.splits == report.splits and again.subgroups == report.subgroups
    assert again.notices == report.notices
    assert again.audit == () and again.cases == ()


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(lambda: build(binary("val"), binary("test")), id="binary"),
        pytest.param(lambda: build(binary("val")), id="validation only"),
        pytest.param(lambda: build(many("val", "multiclass", 3), many("test", "multiclass", 3)), id="multiclass"),
        pytest.param(lambda: build(many("val", "multiclass", 30), history=None, record=None), id="many classes"),
        pytest.param(lambda: build(many("val", "multilabel", 3), many("test", "multilabel", 3)), id="multilabel"),
        pytest.param(lambda: build(many("val", "multilabel", 30)), id="many labels"),
        pytest.param(lambda: build(replace(binary("val"), labels=(1,) * 200)), id="one class alone"),
        pytest.param(lambda: build(binary("val", n=1)), id="one image"),
    ],
)
def made(request: pytest.FixtureRequest) -> Report:
    """Returns a report of each kind."""
    return request.param()


def test_the_page_needs_nothing_but_itself(made: Report, tmp_path: Path) -> None:
    """Nothing is fetched from anywhere: images are data, styles are inline, there is no script."""
    path = made.to_html(tmp_path / "report.html")
    html = path.read_text(encoding="utf-8")
    read = Page(html)
    assert read.addresses and all(re.match(r"#[a-z]+$|data:image/png;base64,", one) for one in read.addresses)
    assert all(f'id="{one[1:]}"' in html for one in read.addresses if one.startswith("#"))
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(read.tags)
    # The name of the language that the drawings are written in is no address: nobody fetches it.
    assert not re.search(r"https?://|url\(|@import", html.replace('xmlns="http://www.w3.org/2000/svg"', ""))
    assert "Content-Security-Policy" in html and html.count("<h1>") == 1
    assert "Not a medical device" in read.text
    assert not re.search(r"\bnan\b|\$[a-z]|None\b", read.text + html[html.index("<main") :])
    assert len(html) < 1_000_000


def test_the_page_says_what_flatters_and_how_often_test_was_scored(report: Report) -> None:
    """Optimism and test looks are in plain words, not in a footnote."""
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
    low, high = (f"{100 * bound:.1f}" for bound in report.intervals["sensitivity"])
    assert f"found {found} of 100 images with PNEUMONIA (sensitivity {found}.0%, 95% interval {low}–{high}%)" in text
    assert f"cleared {cleared} of 100 with NORMAL" in text
    assert f"missed {missed} and raised {alarms} false alarm" in text


def test_an_unchosen_threshold_is_not_called_chosen() -> None:
    """With a fixed policy nothing was chosen on validation."""
    tables = {"val": binary("val"), "test": binary("test")}
    text = repr(Report.build(tables, choose(tables["val"], 0.4), test_looks=1))
    assert "threshold of 0.400, fixed beforehand" in text
    assert "threshold was chosen" not in text


def test_the_half_that_stands_in_is_told_from_a_choice_and_from_a_fixed_threshold() -> None:
    """Nobody fixed it beforehand, and validation did not choose it: sentences, checklist and card agree."""
    val = binary("val")
    swapped = replace(val, probabilities=val.probabilities[:, ::-1])  # no threshold is better than chance
    said = {}
    for name, table, how in (("none", swapped, "youden"), ("chosen", val, "youden"), ("fixed", val, 0.4)):
        thresholds = choose(table, how)  # type: ignore[arg-type]
        made = Report.build({"val": table, "test": binary("test")}, thresholds, test_looks=1)
        said[name] = next(iter(findings(made))), fill(TRIPOD, made)["15"], card(record_of(made), made)
    sentence, item, text = said["none"]
    assert "0.500, taken because validation gave none" in sentence
    assert "Youden" not in item and "0.5, because validation gave none" in item
    assert "(0.5, because validation gave none)" in text
    assert "Youden" in said["chosen"][1] and "(Youden)" in said["chosen"][2]
    assert "fixed at 0.4 beforehand" in said["fixed"][1]
    assert "fixed at 0.4 beforehand" in said["fixed"][2] and "on validation" not in said["fixed"][2].split("| |")[0]


def test_calibration_is_not_judged_on_the_images_it_was_fitted_on() -> None:
    """Without test the page says where the probabilities come from, and never that they are right."""
    rng = np.random.default_rng(0)
    p = rng.random(400)
    table = Predictions(
        classes=("NORMAL", "PNEUMONIA"), task="binary", positive="PNEUMONIA", ids=tuple(map(str, range(400))),
        probabilities=np.stack([1 - p, p], axis=1), labels=tuple((rng.random(400) < p).astype(int)), split="val",
    )  # fmt: skip
    plain, fitted = build(table), build(table, record={"calibration": {"method": "platt"}})
    assert "No error of the probabilities could be shown" in " ".join(believed(plain))
    (sentence,) = believed(fitted)
    assert "were calibrated on these validation images" in sentence
    assert (
        "probabilities were calibrated on the validation images"
        in dict(caveats(fitted))["These figures are optimistic"]
    )
    assert "calibrated" not in str(dict(caveats(plain)))
    judged = build(table, binary("test"), record={"calibration": {"method": "platt"}})
    assert "calibrated" not in " ".join(believed(judged))


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


NAMES = ("roc", "precision_recall", "calibration", "scores", "confusion", "decision_curve", "predictive_values")


def test_figures_and_page_need_no_matplotlib(report: Report, tmp_path: Path) -> None:
    """Every training job draws them: a process that does has not imported a plotting library."""
    report.save(tmp_path)
    code = (
        "import sys; from medimg.evaluation.report import Report\n"
        "made = Report.load(sys.argv[1])\n"
        f"assert list(made.figures) == {[*NAMES, 'learning']}\n"
        "made.save(sys.argv[1])\n"
        "assert 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code, str(tmp_path)], check=True)


def test_the_same_report_gives_the_same_page(tmp_path: Path) -> None:
    """No date, no random name: two pages can be compared byte for byte."""
    one, two = (build(binary("val")).to_html(tmp_path / name).read_bytes() for name in ("1.html", "2.html"))
    assert one == two


def test_every_figure_is_a_drawing_that_stands_alone(made: Report, tmp_path: Path) -> None:
    """Each can be saved as an SVG file that any XML reader takes, and no number in it is missing."""
    for figure in made.figures.values():
        text = figure.save(tmp_path / "figure.svg").read_text(encoding="utf-8")
        assert ET.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314 - our own
        assert not re.search(r"\bnan\b|\binf\b", text)


def test_curves_of_many_images_stay_small() -> None:
    """20,000 images need no more ink than 400 points."""
    table = binary("val", n=20_000)
    text = figures.roc(table, measure(table, {"PNEUMONIA": 0.5})).svg()
    assert 100 < max(path.count("L") for path in text.split("<path")) < 400
    assert len(text) < 20_000


def test_the_ring_is_the_frozen_threshold(report: Report) -> None:
    """The point drawn on the curve is the sensitivity and specificity of the table."""
    (panel,) = report.figures["roc"].panels
    across, up = panel.at(1 - report.metrics["specificity"], report.metrics["sensitivity"])  # type: ignore[attr-defined]
    ring = re.search(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="4.5" fill="#fff"', panel.svg())
    assert ring is not None
    assert [float(value) for value in ring.groups()] == pytest.approx([across, up], abs=0.06)


@pytest.mark.parametrize(("name", "figure"), [("roc", "auroc"), ("precision_recall", "auprc")])
def test_the_area_under_the_drawn_curve_is_the_figure(name: str, figure: str, report: Report) -> None:
    """The line itself, as it stands in the file, encloses what the key says; steps drawn the wrong way flatter."""
    (panel,) = report.figures[name].panels
    drawn = max(re.findall(r'd="M([^"]+)"', panel.svg()), key=len)
    x, y = np.array([[float(value) for value in point.split()] for point in drawn.split("L")]).T
    width, height = panel.inner  # type: ignore[attr-defined]
    area = abs(np.trapezoid(panel.top + height - y, x)) / (width * height)  # type: ignore[attr-defined]
    assert area == pytest.approx(report.metrics[figure], abs=0.002)


def test_the_figures_are_those_of_scikit_learn(report: Report) -> None:
    """What stands on the page is what another library gets from the predictions that lie beside it."""
    table = report.predictions["test"]
    truth, scores = table.truth[:, 0], table.scores[:, 0]
    text = Page(page(report)).text
    for value in (roc_auc_score(truth, scores), average_precision_score(truth, scores)):
        assert f"{value:.3f}" in text
    assert report.metrics["auroc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)


def test_the_page_has_every_part_that_a_reviewer_asks_for(report: Report) -> None:
    """Intervals, patients, subgroups, audit, images and checklists are there, suppressed figures are said."""
    read = Page(page(report))
    low, high = report.intervals["auroc"]
    assert f"95% interval {low:.3f}–{high:.3f}" in read.text
    assert "2,000 resamples of 100 patients" in read.text
    for heading in (
        "What to worry about", "In numbers", "Does it rank well?", "What does it decide?",
        "Can its probabilities be believed?", "Would acting on it help?", "By patient", "Subgroups",
        "Images to look at", "Audit of the data", "Record", "Reporting checklists",
    ):  # fmt: skip
        assert heading in read.text, heading
    assert "fewer than 10 patients" in read.text
    assert read.tags.count("img") == 4 and "Most certain, and wrong" in read.text
    assert "1 check found nothing" in read.text
    bare = Page(page(build(binary("val"), record=None, history=None)))
    assert "Audit of the data" not in bare.text and "Images to look at" not in bare.text


def test_what_the_audit_found_is_worth_worrying_about(report: Report) -> None:
    """Warnings of the audit stand with the other worries, fine checks do not."""
    assert report.worries == (*report.notices, "Size alone tells the classes apart.")
    assert "Size alone tells the classes apart." in repr(report)
    assert "No patient is in two splits." not in repr(report)


def test_patients_with_several_images_are_also_judged_once(report: Report) -> None:
    """By the mean and by the highest probability; where all have one image there is nothing to add."""
    assert set(report.patients) == {"mean", "max"}
    assert {metrics.n for metrics in report.patients.values()} == {100}
    alone = replace(binary("val"), groups=tuple(f"p{row}" for row in range(200)))
    assert build(alone).patients == {}


def test_classes_in_order_have_kappa_and_others_none(tmp_path: Path) -> None:
    """A near miss counts less only where somebody said that classes are grades."""
    tables = many("val", "multiclass", 3), many("test", "multiclass", 3)
    graded, plain = build(*tables, ordinal=True), build(*tables)
    assert graded.metrics["kappa"] == pytest.approx(1)  # every image of this table is right
    assert "Weighted kappa" in graded.to_html(tmp_path / "graded.html").read_text()
    assert "kappa" not in plain.metrics
    assert "Weighted kappa" not in plain.to_html(tmp_path / "plain.html").read_text()


def test_checklists_have_all_items_and_answer_only_what_is_known(report: Report) -> None:
    """The numbers are the papers'; an answer about training needs a record of it."""
    assert len(TRIPOD.items) == 52 and len(CLAIM.items) == 44
    assert [item.number for item in CLAIM.items] == [str(number) for number in range(1, 45)]
    numbers = [item.number for item in TRIPOD.items]
    assert sorted({int(number.rstrip("abcdefg")) for number in numbers}) == list(range(1, 28))
    assert len(set(numbers)) == 52
    answers = fill(CLAIM, report)
    assert "100 patients" in answers["35"] and answers["20"] == "No patient is in two splits."
    assert "32" in answers and "32" not in fill(CLAIM, replace(report, history={}))  # maybe another hospital's test
    assert "25" not in answers  # the record says nothing of the training
    facts = {"architecture": "tiny"}, {"epochs": 3, "image_size": 64, "seed": 1, "weights": None}
    trained = replace(report, record={"model": facts[0], "configuration": facts[1]})
    assert "tiny, Adam, 3 epochs at most, seed 1" in fill(CLAIM, trained)["25"]


def record_of(report: Report) -> ModelRecord:
    """Returns the record of the model that a report is on."""
    table = report.predictions[report.headline]
    return ModelRecord(
        classes=table.classes,
        task=table.task,
        positive=table.positive,
        preprocessing=Preprocessing(image_size=64, channels=1),
        thresholds=report.thresholds.values,
        config=TrainConfig(model="small_cnn", weights=None),
        data={"fingerprint": "f" * 64, "counts": {"train": 900, "val": 200, "test": 200}},
    )


def test_the_card_has_front_matter_for_the_hub(made: Report) -> None:
    """It is YAML with the figures in the hub's form; no licence is made up."""
    _, matter, text = card(record_of(made), made).split("---\n", 2)
    facts = yaml.safe_load(matter)
    assert facts["library_name"] == "keras" and facts["pipeline_tag"] == "image-classification"
    assert "license" not in facts
    results = facts["model-index"][0]["results"]
    assert [result["dataset"]["split"] for result in results] == [
        {"val": "validation"}.get(name, name) for name in made.splits
    ]
    for result, metrics in zip(results, made.splits.values(), strict=True):
        values = {row["type"]: row["value"] for row in result["metrics"]}
        assert values.get("roc_auc") == pytest.approx(metrics.auroc, abs=1e-6)
    for heading in ("# small_cnn", "## Intended use", "## Data", "## Performance", "## Limitations", "## Training"):
        assert heading in text
    assert not re.search(r"\bnan\b|\bNone\b", text)


def test_the_card_has_intervals_subgroups_and_the_audit(report: Report) -> None:
    """A reader of the hub sees the same as a reader of the page."""
    text = card(record_of(report), report)
    low, high = report.intervals["auroc"]
    assert f"| AUROC | {report.metrics['auroc']:.3f} ({low:.3f}–{high:.3f}) |" in text
    assert "| sex: F | 100 |" in text and "fewer than 10 patients" in text
    assert "| shortcuts | warning | Size alone tells the classes apart. |" in text
    assert all(worry in text for worry in report.worries)


def test_names_stay_words_in_the_card() -> None:
    """Line ends, tags, links, code and bars in a class's name make no structure of the card."""
    name = "B\n# Head <img src=x> [here](http://x) `code` | **a**"
    tables = [with_columns(binary(split, ("A", name))) for split in ("val", "test")]
    made = build(*tables, notices=[f"About {name}"], audit=[AUDIT[0].model_copy(update={"message": name})])
    _, matter, text = card(record_of(made), made).split("---\n", 2)
    assert yaml.safe_load(matter)["library_name"] == "keras"
    assert text.count("Head") >= 6
    assert "\n# Head" not in text and "<img" not in text
    assert not re.search(r"(?<!\\)\[here|(?<!\\)`code|(?<!\\)\*a|(?<!\\)\| \\\*", text)


def test_shares_are_never_rounded_to_all_or_nothing() -> None:
    """999 of 1,000 is not 100%, and 9,999 of 10,000 is not either."""
    from medimg.evaluation.summary import share

    assert [share(value) for value in (1.0, 0.0, 0.9996, 0.99996, 0.5, None, 1 - 1e-7, 1e-9)] == [
        "100.0%",
        "0.0%",
        "99.96%",
        "99.996%",
        "50.0%",
        "not estimable",
        "over 99.999%",
        "under 0.001%",
    ]
