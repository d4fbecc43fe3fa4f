"""Predictions are a table keyed by sample id."""

import subprocess
import sys
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medimg.data.dataset import Dataset
from medimg.errors import DatasetError
from medimg.inference.predictions import Predictions

BINARY = Predictions(
    classes=("NORMAL", "PNEUMONIA"),
    task="binary",
    positive="PNEUMONIA",
    ids=("a", "b", "c"),
    probabilities=np.array([[0.9, 0.1], [1 / 3, 2 / 3], [0.5, 0.5]]),
    groups=("p1", "p1", None),
    split="val",
)
MULTILABEL = Predictions(
    classes=("Mass", "Edema"),
    task="multilabel",
    ids=("a", "b"),
    probabilities=np.array([[0.9, 0.8], [0.2, 0.1]]),
    labels=((1, None), (0, 1)),
)


@given(st.permutations(["a", "b", "c"]))
def test_labels_join_by_id_in_any_order(order: list[str]) -> None:
    """The order in which labels come changes nothing: a join by position would."""
    labels = {"a": 0, "b": 1, "c": 0}
    joined = BINARY.join({name: labels[name] for name in order})
    assert joined.labels == (0, 1, 0)
    assert joined["b"].truth == "PNEUMONIA"
    assert BINARY.labels is None


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"a": 0, "b": 1}, "no label for 'c'"),
        ({"a": 0, "b": 1, "c": 0, "d": 1}, "a label but no prediction for 'd'"),
        ([("a", 0), ("b", 1), ("c", 0), ("b", 0)], "more than one label for 'b'"),
        ({"a": 0, "b": 1, "C": 0}, "no label for 'c'; a label but no prediction for 'C'"),
    ],
)
def test_ids_that_do_not_match_are_refused_by_name(labels: object, message: str) -> None:
    """A join is exact: nothing is dropped, filled or guessed."""
    with pytest.raises(DatasetError, match=message):
        BINARY.join(labels)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": ("a", "b", "a")}, "occur once; repeated: 'a'"),
        ({"ids": ("a", "b")}, r"\(3, 2\); 2 samples"),
        ({"ids": (), "probabilities": np.zeros((0, 2))}, "at least one sample"),
        ({"probabilities": np.array([[0.9, 0.1], [0.5, 0.5], [np.nan, 0.5]])}, "not numbers, for 'c'"),
        ({"probabilities": np.array([[0.9, 0.1], [1.5, -0.5], [0.5, 0.5]])}, "outside 0 to 1.* for 'b'"),
        ({"probabilities": np.array([[0.9, 0.9], [0.5, 0.5], [0.5, 0.5]])}, "do not sum to 1 for 'a'"),
        ({"labels": (0, 1)}, "2 labels for 3 samples"),
        ({"columns": {"view": ("PA", "AP")}}, "2 values of the column 'view' for 3 samples"),
        ({"columns": {"age": ("61", 58, "47")}}, "column 'age' must hold text; it does not for 'b'"),
        ({"labels": (0, 1, 2)}, "label of 'c' is 2.* from 0 to 1"),
        ({"labels": (0, 1, None)}, "label of 'c' is None"),
        ({"labels": (0, 1, (0, 1))}, "label of 'c'"),
        ({"positive": None}, "names the positive one"),
        ({"positive": "COVID"}, "names the positive one"),
        ({"task": "multiclass"}, "only a binary task"),
        ({"classes": ("A", "A"), "positive": "A"}, "different names; repeated: 'A'"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change: dict[str, object], message: str) -> None:
    """A table that exists is one that can be trusted."""
    with pytest.raises(DatasetError, match=message):
        replace(BINARY, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("labels", [((1, 0), (0, 2)), ((1, 0), (0,)), (1, 0)])
def test_multilabel_labels_are_one_value_a_class(labels: object) -> None:
    """Two, too few, or an index where a row belongs: all are refused."""
    with pytest.raises(DatasetError, match="2 values of 1, 0 or None"):
        replace(MULTILABEL, labels=labels)  # type: ignore[arg-type]


def test_the_table_is_frozen_and_apart_from_its_source() -> None:
    """Neither the array nor the fields can be changed, and the caller's array stays writable."""
    source = np.array([[0.9, 0.8], [0.2, 0.1]])
    table = replace(MULTILABEL, probabilities=source)
    source[0, 0] = 0.0
    assert table["a"].probabilities == {"Mass": 0.9, "Edema": 0.8}
    with pytest.raises(ValueError, match="read-only"):
        table.probabilities[0, 0] = 0.5
    with pytest.raises(FrozenInstanceError):
        table.split = "test"  # type: ignore[misc]


def test_a_sample_is_found_by_id_only() -> None:
    """An unknown id is an error that shows what ids look like; a position is no id."""
    assert "b" in BINARY and list(BINARY) == ["a", "b", "c"] and len(BINARY) == 3
    assert BINARY["b"].group == "p1" and BINARY["b"].truth is None
    assert MULTILABEL["a"].truth == {"Mass": True, "Edema": None}
    for wrong in ("z", 0):
        with pytest.raises(DatasetError, match="'a', 'b', 'c'"):
            BINARY[wrong]  # type: ignore[index]


def test_some_samples_are_chosen_by_id_with_all_that_is_known_of_them() -> None:
    """In the order in which they are named; an id that is not there, or twice, is refused."""
    table = replace(BINARY.join({"a": 0, "b": 1, "c": 0}), columns={"view": ("PA", "AP", "")})
    part = table.select(["c", "b"])
    assert (part.ids, part.labels, part.groups, part.split) == (("c", "b"), (0, 1), (None, "p1"), "val")
    assert part.columns == {"view": ("", "AP")}
    assert part["b"] == table["b"]
    assert table.select(table.ids) == table
    for wrong, message in ((["z"], "no prediction for 'z'"), (["a", "a"], "repeated: 'a'"), ([], "at least one")):
        with pytest.raises(DatasetError, match=message):
            table.select(wrong)


def test_named_columns_stay_with_their_samples() -> None:
    """Labels that are joined later change no column, and tables of other columns are not equal."""
    table = replace(BINARY, columns={"view": ["PA", "AP", "PA"]})
    assert table.columns == {"view": ("PA", "AP", "PA")}
    assert table.join({"c": 0, "b": 1, "a": 0}).columns == table.columns
    assert table != BINARY
    assert replace(table, columns={}) == BINARY


def test_unknown_labels_are_masked_in_the_truth() -> None:
    """Unknown is NaN, neither 0 nor 1; a binary task is measured on its positive class alone."""
    np.testing.assert_array_equal(MULTILABEL.truth, [[1, np.nan], [0, 1]])
    joined = BINARY.join({"a": 0, "b": 1, "c": 0})
    np.testing.assert_array_equal(joined.truth, [[0], [1], [0]])
    np.testing.assert_array_equal(joined.scores, [[0.1], [2 / 3], [0.5]])
    with pytest.raises(DatasetError, match="no labels"):
        _ = BINARY.truth


def test_a_probability_equal_to_its_threshold_is_positive() -> None:
    """The rule is written down once and every decision follows it."""
    np.testing.assert_array_equal(BINARY.decide({"PNEUMONIA": 0.5}), [[False], [True], [True]])
    with pytest.raises(DatasetError, match="no threshold for 'PNEUMONIA'"):
        BINARY.decide({})
    three = Predictions(classes=tuple("xyz"), task="multiclass", ids=("a",), probabilities=np.array([[0.4, 0.4, 0.2]]))
    np.testing.assert_array_equal(three.decide({}), [[True, False, False]])
    with pytest.raises(DatasetError, match="takes no thresholds"):
        three.decide({"x": 0.5})


AWKWARD = ("a,b", 'quo"te', "línea\nnew", "<script>", "p:x", "label")


@pytest.mark.parametrize(
    "table",
    [
        BINARY,
        BINARY.join({"a": 0, "b": 1, "c": 0}),
        MULTILABEL,
        replace(MULTILABEL, labels=None),
        replace(MULTILABEL, labels=((None, None), (None, None))),
        Predictions(
            classes=AWKWARD,
            task="multiclass",
            ids=AWKWARD,
            probabilities=np.random.default_rng(0).dirichlet(np.ones(6), 6),
            labels=(0, 1, 2, 3, 4, 5),
            groups=AWKWARD,
        ),
        replace(BINARY, columns={"view, site": ("PA", "", "AP\r\n1"), "p:x": ("1", "2", "3"), "label": AWKWARD[:3]}),
    ],
)
def test_a_table_survives_its_csv_to_the_last_bit(table: Predictions, tmp_path) -> None:
    """Task, classes, positive class, unknown labels, named columns and all digits of the probabilities come back."""
    assert Predictions.from_csv(table.to_csv(tmp_path / "new" / "t.csv")) == table


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("id,", "sample,", "no column id"),
        ("0.1\n", "much\n", "column 'p:PNEUMONIA'.*much"),
        ("\nb,", "\na,", "repeated: 'a'"),
        ("PNEUMONIA,PNEUMONIA", "PNEUMONIA,COVID", "label of 'b' is 'COVID'"),
        ("\nb,val", "\nb,test", "must hold one value; it holds test, val"),
        ("\nb,", "\nb,,", "row 3: 9 cells for 8 columns"),
        ("binary", "ternary", "the task is 'ternary'"),
        ("p:", "q:", "p:<class>"),
    ],
)
def test_a_damaged_csv_is_refused_with_its_place(old: str, new: str, message: str, tmp_path) -> None:
    """What is wrong, and where, is in the message."""
    path = BINARY.join({"a": 0, "b": 1, "c": 0}).to_csv(tmp_path / "t.csv")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(DatasetError, match=message):
        Predictions.from_csv(path)


def test_an_empty_or_missing_csv_is_refused(tmp_path) -> None:
    """The path is in the message."""
    (tmp_path / "empty.csv").write_text("")
    for name, message in (("empty.csv", "has no predictions"), ("none.csv", "cannot be read")):
        with pytest.raises(DatasetError, match=f"{name} {message}"):
            Predictions.from_csv(tmp_path / name)


def test_the_dataframe_is_indexed_by_sample_id() -> None:
    """Labels are class names, and joins in pandas go by id too."""
    frame = BINARY.join({"a": 0, "b": 1, "c": 0}).to_dataframe()
    assert frame.index.name == "id"
    assert frame.loc["b", "label"] == "PNEUMONIA"
    assert frame.loc["b", "p:PNEUMONIA"] == 2 / 3


def test_names_are_escaped_in_a_notebook() -> None:
    """A class cannot bring markup into the page."""
    html = replace(MULTILABEL, classes=("<script>", "b&c"))._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;" in html


def test_the_table_needs_only_numpy() -> None:
    """Batch prediction runs where neither pandas nor scikit-learn nor matplotlib is installed."""
    code = (
        "import sys, medimg.inference.predictions_csv, medimg.inference.predictions, medimg.evaluation\n"
        "heavy = {'pandas', 'sklearn', 'scipy', 'matplotlib', 'tensorflow', 'keras'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


DECIDED = replace(
    BINARY, decided=(("PNEUMONIA",), (), ("PNEUMONIA",)), uncertain=(False, True, False), rejected={"x": "truncated"}
)


@pytest.mark.parametrize(
    "table",
    [
        BINARY,
        DECIDED,
        replace(DECIDED, labels=(0, 1, 0), columns={"view": ("AP", "", "PA")}),
        replace(MULTILABEL, decided=(("Mass", "Edema"), ()), uncertain=(True, False), rejected={"y": "empty"}),
        Predictions(
            ("a", "b", "c"), "multiclass", ("1",), np.array([[0.2, 0.7, 0.1]]), decided=(("b",),), uncertain=(False,)
        ),
        replace(DECIDED, ids=(), probabilities=np.empty((0, 2)), groups=None, decided=(), uncertain=()),
    ],
)
def test_decisions_and_rejections_come_back_from_csv_and_parquet(table: Predictions, tmp_path) -> None:
    """Exactly, also beside labels, named columns and unknown labels."""
    assert Predictions.from_csv(table.to_csv(tmp_path / "t.csv")) == table
    assert Predictions.from_parquet(table.to_parquet(tmp_path / "t.parquet")) == table


def test_a_decision_reads_as_the_answer_of_one_image_does() -> None:
    """A label for people, and whether it is uncertain."""
    assert DECIDED.decisions == ("PNEUMONIA", "NORMAL", "PNEUMONIA")
    assert (DECIDED["b"].decision, DECIDED["b"].uncertain) == ("NORMAL", True)
    several = replace(MULTILABEL, decided=(("Mass", "Edema"), ()), uncertain=(False, False))
    assert several.decisions == ("Mass | Edema", "none")
    assert (BINARY["a"].decision, BINARY["a"].uncertain) == (None, None)
    with pytest.raises(DatasetError, match="no decisions"):
        _ = BINARY.decisions
    assert DECIDED.select(["c", "a"]).decisions == ("PNEUMONIA", "PNEUMONIA")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"uncertain": None}, "or neither"),
        ({"decided": (("COVID",), (), ())}, "decided for 'COVID'"),
        ({"rejected": {"a": "empty"}}, "both a prediction and a rejection for 'a'"),
        ({"uncertain": (True,)}, "1 uncertain for 3 samples"),
    ],
)
def test_decisions_that_do_not_fit_are_refused(change: dict[str, object], message: str) -> None:
    """As every other part of the table."""
    with pytest.raises(DatasetError, match=message):
        replace(DECIDED, **change)  # type: ignore[arg-type]


def test_the_table_with_the_names_of_files_is_the_users_own(tmp_path) -> None:
    """Only with the dataset at hand; why a file could not be read stands beside its code."""
    for name in ("a", "b", "c", "x"):
        (tmp_path / f"{name}.png").write_bytes(b"")
    dataset = Dataset.from_images(tmp_path)
    a, b, c, x = (sample.id for sample in dataset.samples)
    table = replace(DECIDED, ids=(a, b, c), rejected={x: "truncated"})
    text = table.to_csv(tmp_path / "t.csv", dataset).read_text()
    assert str(tmp_path / "b.png") in text and str(tmp_path / "x.png") in text
    assert "truncated,The file ends before its pixels do" in text
    assert ".png" not in table.to_csv(tmp_path / "t.csv").read_text()
    frame = table.to_dataframe(dataset)
    assert frame.loc[b, "image"] == str(tmp_path / "b.png")
    assert Predictions.from_parquet(table.to_parquet(tmp_path / "t.parquet", dataset)) == table


def test_parquet_without_pyarrow_says_what_to_install(tmp_path) -> None:
    """It comes with MLflow, which a server has not."""
    code = (
        "import sys\nsys.modules['pyarrow'] = None\nimport numpy as np\n"
        "from medimg.errors import ConfigError\nfrom medimg.inference.predictions import Predictions\n"
        "table = Predictions(('a', 'b'), 'multiclass', ('1',), np.array([[0.5, 0.5]]))\n"
        "try:\n    table.to_parquet('t.parquet')\n"
        "except ConfigError as error:\n    assert 'pip install pyarrow' in str(error)\nelse:\n    raise SystemExit(1)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
