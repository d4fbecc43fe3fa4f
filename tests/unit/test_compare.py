"""Backends side by side: a finished job is found and taken apart, and one that cannot be asked stops nobody."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import medimg
from medimg.backends.compare import CostComparison, Place
from medimg.backends.local import LocalBackend
from medimg.backends.rates import Rate
from medimg.cli.app import app
from medimg.config import Resources, ServeConfig, TrainConfig
from medimg.errors import ConfigError, UnreachableError

CONFIG = TrainConfig(
    model="small_cnn", weights=None, image_size=64, epochs=3, batch_size=16, augment=False, early_stopping=None
)


class Rented(LocalBackend):
    """A machine that somebody bills for."""

    name = "rented"

    def _rates(
        self, resources: Resources, serve: ServeConfig | None, given: Mapping[str, float] | None
    ) -> Mapping[str, Rate]:
        price = Rate(2.0, "hour", "the landlord", of=resources.instance or "shed")
        nothing = {key: Rate(0.0, unit, "the landlord") for key, unit in (("upload", "GB"), ("storage", "GB-month"))}
        return {"training": price, **nothing}


class Gone(LocalBackend):
    """A cloud that does not answer."""

    name = "gone"

    def _list(self, kind: Any) -> Any:
        raise UnreachableError("gone did not answer")


@pytest.fixture
def dataset(phantoms: Path, trained_job: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> medimg.Dataset:
    """What the job was trained on, in the home where it is."""
    monkeypatch.setenv("MEDIMG_HOME", str(trained_job[0]))
    return medimg.Dataset.from_folder(phantoms, group=r"(patient\d+)")


def test_a_finished_job_of_the_same_work_is_found_and_taken_apart(
    dataset: medimg.Dataset, trained_job: tuple[Path, str]
) -> None:
    """Its stages add up to its time, its epochs are among them, and its AUROC is the report's."""
    compared = medimg.compare_costs(dataset, CONFIG, ["local", Rented()], hours=1.5)
    job = medimg.backend("local").job(trained_job[1])
    here, rented = compared.places
    assert here.job == rented.job == job.id
    assert here.auroc == pytest.approx(job.metrics["auroc"])
    assert len(here.epochs) == 3
    assert here.seconds == pytest.approx(sum(here.grouped.values()))
    assert here.grouped["training"] >= sum(here.epochs)
    assert here.estimate is not None and here.estimate.total == 0
    assert rented.estimate is not None and rented.estimate.total == pytest.approx(3.0)
    assert compared.stages.index("packing") < compared.stages.index("fitting") < compared.stages.index("evaluating")
    text = repr(compared)
    assert "3.00 USD" in text and job.id in text and "nothing is billed" in text


def test_other_work_is_not_taken_for_the_same(dataset: medimg.Dataset) -> None:
    """Other epochs, another network or other images are another work."""
    for config in (CONFIG.model_copy(update={"epochs": 4}), CONFIG.model_copy(update={"model": "mini_xception"})):
        assert medimg.compare_costs(dataset, config, ["local"]).places[0].job == ""
    fewer = medimg.Dataset(samples=dataset.samples[:30], classes=dataset.classes, task=dataset.task)
    assert medimg.compare_costs(fewer, CONFIG, ["local"]).places[0].job == ""


def test_a_backend_that_cannot_be_asked_says_why_and_stops_nobody(dataset: medimg.Dataset) -> None:
    """Its row has the reason, and the others have their figures."""
    gone, here = medimg.compare_costs(dataset, CONFIG, [Gone(), "local"]).places
    assert gone.reason == "gone did not answer" and gone.estimate is None
    assert here.job


def test_mistakes_of_the_caller_are_told(dataset: medimg.Dataset) -> None:
    """Nothing to compare, or a machine for a backend that is not compared."""
    with pytest.raises(ConfigError, match="nothing to compare"):
        medimg.compare_costs(dataset, CONFIG, [])
    with pytest.raises(ConfigError, match="no backend 'locl'"):
        medimg.compare_costs(dataset, CONFIG, ["locl"])


def test_two_machines_of_one_backend_are_two_rows_and_only_the_one_that_ran_is_done(
    dataset: medimg.Dataset,
) -> None:
    """A job on another machine is no measurement of this one."""
    small, none = medimg.compare_costs(
        dataset, CONFIG, [(Rented(), Resources(instance="shed-small")), (Rented(), Resources())]
    ).places
    assert (small.machine, small.job) == ("shed-small", "")
    assert none.machine == "" and none.job


def test_a_cloud_that_is_not_set_up_stops_nobody(dataset: medimg.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its row says what to set."""
    pytest.importorskip("azure.identity", reason="needs Azure's SDK: pip install 'medimg[azureml]'")
    monkeypatch.delenv("AZURE_SUBSCRIPTION_ID", raising=False)
    azure, here = medimg.compare_costs(dataset, CONFIG, ["azureml", "local"]).places
    assert "AZURE_SUBSCRIPTION_ID" in azure.reason
    assert here.job


def test_the_picture_has_a_bar_for_each_group_and_the_amounts(dataset: medimg.Dataset) -> None:
    """And a notebook gets tables and the picture; text of a backend is never markup."""
    compared = medimg.compare_costs(dataset, CONFIG, [Rented(), "local"], hours=1.5)
    time, cost = compared.figure().axes
    assert [text.get_text() for text in time.get_yticklabels()] == ["local", "rented"]
    widths = [bar.get_width() for bar in time.patches if bar.get_width()]
    assert sum(widths) == pytest.approx(2 * compared.places[0].seconds)
    assert any("3.00" in text.get_text() for text in cost.texts)
    odd = CostComparison((Place("<b>odd", reason="<script>"),), "a & b")
    page = odd._repr_html_()
    assert "<script>" not in page and "&lt;b&gt;odd" in page and "<svg" in page
    assert compared.to_json()[0]["estimate"] == pytest.approx(3.0)


def test_the_command_prints_the_table_and_writes_the_picture(
    dataset: medimg.Dataset, phantoms: Path, trained_job: tuple[Path, str], tmp_path: Path
) -> None:
    """`medimg compare`, with a machine named behind the backend."""
    target = tmp_path / "compared.png"
    told = CliRunner().invoke(
        app,
        ["compare", str(phantoms), "--group", r"(patient\d+)", "--backend", "local", "--model", "small_cnn",
         "--image-size", "64", "--epochs", "3", "--figure", str(target)],
    )  # fmt: skip
    assert told.exit_code == 0, told.output
    assert trained_job[1] in told.output
    assert target.read_bytes().startswith(b"\x89PNG")
    refused = CliRunner().invoke(app, ["compare", str(phantoms), "--figure", str(tmp_path / "compared.doc")])
    assert refused.exit_code == 2
