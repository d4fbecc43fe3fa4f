"""What a training and an endpoint will cost, and what a job did cost."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from medimg.backends.cost import ASSUMED_MILLISECONDS, DAYS, GB, Measured, estimate, job_cost
from medimg.backends.estimate import CostEstimate, CostItem
from medimg.backends.rates import UNITS, Rate, check_prices, given_rate, money, own_machine_rates
from medimg.cli import app, options
from medimg.config import Resources, ServeConfig, TrainConfig
from medimg.data.dataset import Dataset
from medimg.errors import ConfigError

LIST = "a price list"
ASKED = "2026-11-20"
RATES = {
    "training": Rate(2.0, "hour", LIST, ASKED, of="big"),
    "upload": Rate(0.0, "GB", "the provider's FAQ", ASKED),
    "storage": Rate(0.5, "GB-month", LIST, ASKED),
    "endpoint": Rate(0.25, "hour", LIST, ASKED, of="small"),
    "compute": Rate(0.00002, "GB-second", LIST, ASKED),
    "relay": Rate(0.00001, "GB-second", LIST, ASKED),
    "requests": Rate(0.2, "million requests", LIST, ASKED),
    "gateway": Rate(1.0, "million requests", LIST, ASKED),
}


def of(
    *,
    rates: dict[str, Rate] | None = None,
    images: int = 1000,
    config: TrainConfig | None = None,
    resources: Resources | None = None,
    pack_bytes: float | None = 2 * GB,
    **options: Any,
) -> CostEstimate:
    """Returns the estimate of a training on a pack of 2 GB."""
    return estimate(
        RATES if rates is None else rates, images=images, config=config or TrainConfig(),
        resources=resources or Resources(), pack_bytes=pack_bytes, **options,
    )  # fmt: skip


def line(found: CostEstimate, start: str) -> CostItem:
    """Returns the one line that begins so."""
    (item,) = (item for item in found.items if item.what.startswith(start))
    return item


# -- prices -----------------------------------------------------------------------------------------------------------


def test_a_price_without_a_source_is_refused() -> None:
    """Never a figure that nobody stands for."""
    with pytest.raises(ConfigError, match="has no source"):
        Rate(1.0, "hour", "")


@pytest.mark.parametrize("amount", [-0.01, float("nan"), float("inf")])
def test_a_price_that_cannot_be_is_refused(amount: float) -> None:
    """A negative price would lower a total in silence."""
    with pytest.raises(ConfigError, match="cannot be"):
        Rate(amount, "hour", LIST)


@pytest.mark.parametrize(("days", "age"), [(0, ""), (1, ""), (2, " (2 days old)"), (400, " (400 days old)")])
def test_a_price_tells_its_source_its_date_and_its_age(days: int, age: str) -> None:
    """An old price is seen to be old."""
    asked = (dt.date.today() - dt.timedelta(days)).isoformat()
    assert Rate(1.0, "hour", LIST, asked).origin == f"a price list, {asked}{age}"
    assert Rate(1.0, "hour", "given by you").origin == "given by you"


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0.00"), (0.0000123, "0.000012"), (0.0055, "0.0055"), (0.1, "0.10"), (0.999, "1.00"), (1234.5, "1,234.50")],
)
def test_small_amounts_do_not_become_nothing(amount: float, text: str) -> None:
    """Two digits at least, however small."""
    assert money(amount, "USD") == f"{text} USD"


def test_a_small_price_is_shown_with_all_its_digits() -> None:
    """The price of a GB-second has six significant digits after four zeros."""
    assert Rate(0.0000166667, "GB-second", LIST).text == "0.0000166667 USD per GB-second"
    assert Rate(None, "hour", "nobody says").text == "unknown"


def test_a_price_that_the_user_gives_is_found_by_name_and_by_key() -> None:
    """A key says more than the name of a machine that trains and serves."""
    prices = {"big": 1.5, "endpoint": 3}
    trained, served = given_rate(prices, "training", "big"), given_rate(prices, "endpoint", "big")
    assert trained == Rate(1.5, "hour", "given by you", of="big")
    assert served is not None
    assert served.amount == 3
    assert given_rate(prices, "storage", "S3") is None


@pytest.mark.parametrize("amount", [-1, float("nan"), float("inf"), "0.7", True])
def test_a_given_price_that_cannot_be_is_refused(amount: Any) -> None:
    """The message says which, and in what unit it is wanted."""
    with pytest.raises(ConfigError, match=r"prices\['big'\]=.*per hour"):
        given_rate({"big": amount}, "training", "big")


def test_a_given_price_of_a_mistyped_name_is_refused() -> None:
    """Ignored in silence, it would leave the user with another price than he gave."""
    check_prices({"ml.g4dn.xlarge": 0.7}, ["training", "ml.g4dn.xlarge", ""])
    with pytest.raises(ConfigError, match=r"ml\.g4d\.xlarge.*Did you mean 'ml\.g4dn\.xlarge'"):
        check_prices({"ml.g4d.xlarge": 0.7}, ["training", "ml.g4dn.xlarge", ""])


# -- training ---------------------------------------------------------------------------------------------------------


def test_hours_that_the_user_knows_are_counted_as_they_are() -> None:
    """Two machines for three hours at 2 USD are 12 USD."""
    found = line(of(hours=3, resources=Resources(count=2)), "training")
    assert (found.quantity, found.amount, found.bound) == (6, 12, "")
    assert found.what == "training on 2 × big"
    assert "given by you" in found.note


def test_a_comparable_job_gives_the_hours_by_images_and_epochs() -> None:
    """Ten minutes of starting stay; the fifty that grow double with the images and halve with the epochs."""
    measured = Measured("chest-0123456789-1", seconds=3600, images=500, epochs=20, fixed=600)
    found = line(of(measured=measured, images=1000, config=TrainConfig(epochs=8, fine_tune_epochs=2)), "training")
    assert found.quantity == pytest.approx(1.0)
    assert found.bound == ""
    assert "chest-0123456789-1" in found.note


def test_a_smaller_job_than_the_one_that_was_measured_takes_no_longer() -> None:
    """How much of its time was starting is not known, so it is not made smaller in proportion."""
    measured = Measured("chest-0123456789-1", seconds=3600, images=10_000, epochs=10)
    found = line(of(measured=measured, images=100), "training")
    assert (found.quantity, found.bound) == (1, "at most")


def test_a_larger_job_than_the_one_that_was_measured_takes_longer_in_proportion() -> None:
    """Three times the images, three times the hours."""
    measured = Measured("chest-0123456789-1", seconds=3600, images=1000, epochs=10)
    found = line(of(measured=measured, images=3000), "training")
    assert (found.quantity, found.bound) == (3, "")


def test_hours_of_the_user_win_over_a_comparable_job() -> None:
    """Who gives a figure wants it used."""
    measured = Measured("chest-0123456789-1", seconds=36_000, images=1000, epochs=10)
    assert line(of(measured=measured, hours=0.5), "training").quantity == 0.5


def test_without_any_measure_the_limit_is_an_upper_bound_and_said_to_be_one() -> None:
    """Nobody knows how long it takes; it is not pretended."""
    found = of(resources=Resources(max_hours=4))
    assert line(found, "training").amount == 8
    assert line(found, "training").bound == "at most"
    assert "not known" in line(found, "training").note
    assert found.summary == "at most 9.00 USD"


def test_no_training_is_counted_longer_than_the_time_after_which_it_is_stopped() -> None:
    """Whatever was measured or given."""
    found = line(of(hours=30, resources=Resources(max_hours=2)), "training")
    assert found.quantity == 2
    assert "stopped after max_hours=2" in found.note


def test_spot_without_a_price_is_bounded_by_the_price_without_spot() -> None:
    """A saving that is not known before is no number."""
    rates = RATES | {"training-spot": Rate(None, "hour", "nobody says", note="up to 90 % less, in their words")}
    found = line(of(rates=rates, hours=1, resources=Resources(spot=True)), "training")
    assert (found.amount, found.bound) == (2, "at most")
    assert "up to 90 % less, in their words" in found.note


def test_spot_with_a_price_is_counted_at_it() -> None:
    """Some clouds publish it."""
    rates = RATES | {"training-spot": Rate(0.5, "hour", LIST, ASKED, of="big")}
    found = line(of(rates=rates, hours=1, resources=Resources(spot=True)), "training")
    assert (found.amount, found.bound) == (0.5, "")


# -- data -------------------------------------------------------------------------------------------------------------


def test_the_pack_is_uploaded_once_and_kept_for_thirty_days() -> None:
    """2 GB at 0.50 USD a GB-month."""
    found = of(hours=1)
    assert line(found, "upload").amount == 0
    assert line(found, "storage").amount == 1
    assert found.total == 3


def test_a_pack_that_is_not_built_yet_is_no_larger_than_its_pixels() -> None:
    """It travels compressed, so its pixels are an upper bound; grey ones have one channel."""
    grey, unsure = (of(pack_bytes=None, channels=channels, hours=1) for channels in (1, None))
    assert line(grey, "storage").quantity == pytest.approx(1000 * 224 * 224 / GB)
    assert line(unsure, "storage").quantity == pytest.approx(3000 * 224 * 224 / GB)
    assert line(unsure, "storage").bound == "at most"


# -- endpoints --------------------------------------------------------------------------------------------------------


def test_an_endpoint_tells_what_an_hour_a_day_and_a_month_cost_and_counts_the_month() -> None:
    """A forgotten endpoint is what a student's bill is made of."""
    found = of(hours=1, serve=ServeConfig())
    shown = {
        item.what.rpartition(", ")[2]: item for item in found.items if item.what.startswith("endpoint on 1 × small")
    }
    assert {what: item.amount for what, item in shown.items()} == {"an hour": 0.25, "a day": 6, "30 days": 180}
    assert [item.counted for item in shown.values()] == [False, False, True]
    assert found.total == 183
    assert "until it is deleted" in shown["30 days"].note


def test_an_endpoint_with_a_time_to_live_is_counted_until_it_deletes_itself() -> None:
    """Eight hours, not a month."""
    found = of(hours=1, serve=ServeConfig(ttl_hours=8))
    assert line(found, "endpoint on 1 × small, until it deletes itself").amount == 2
    assert found.total == 5
    assert not [item for item in found.items if item.what.endswith(f"{DAYS} days") and item.what.startswith("endpoint")]


def test_an_endpoint_that_grows_costs_at_least_its_smallest_size() -> None:
    """How often it grows is not known before."""
    found = of(hours=1, serve=ServeConfig(min_instances=2, max_instances=5))
    assert line(found, "endpoint on 2 × small, 30 days").amount == 360
    assert found.summary == "at least 363.00 USD"
    assert "up to 5 machines" in line(found, "endpoint on 2 × small, an hour").note


def test_a_function_is_paid_by_memory_and_time_of_its_predictions() -> None:
    """1,000 predictions of 50 ms in 1 GB are 50 GB-seconds, 1,000 calls and 1,000 requests."""
    found = of(hours=1, serve=ServeConfig(kind="lambda", memory_mb=1024), milliseconds=50)
    compute = found.items[3]
    assert (compute.what, compute.quantity, compute.unit) == ("1,000 predictions", pytest.approx(50), "GB-second")
    assert compute.amount == pytest.approx(0.001)
    assert compute.note == "1024 MB, 50 ms; nothing while nobody asks"
    assert line(found, "1,000 predictions: HTTP address").amount == pytest.approx(0.001)
    assert line(found, "1,000 predictions: calls").amount == pytest.approx(0.0002)


def test_what_is_assumed_of_a_prediction_is_said_to_be_assumed() -> None:
    """Memory and milliseconds that nobody gave."""
    note = of(hours=1, serve=ServeConfig(kind="serverless")).items[3].note
    assert "MB assumed" in note
    assert f"{ASSUMED_MILLISECONDS:g} ms assumed" in note


@pytest.mark.parametrize("kind", ["realtime", "serverless"])
def test_an_http_address_before_an_endpoint_is_paid_for_too(kind: Any) -> None:
    """The gateway, the call and the memory of the function that passes requests on."""
    bare = {item.what for item in of(hours=1, serve=ServeConfig(kind=kind)).items}
    more = {item.what for item in of(hours=1, serve=ServeConfig(kind=kind, http_api=True)).items} - bare
    assert more == {f"1,000 predictions: {part}" for part in ("HTTP address", "calls of the function", "relay")}


# -- what is not known ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["training", "storage", "endpoint"])
def test_one_unknown_price_makes_the_total_unknown_and_is_named(missing: str) -> None:
    """Unknown is not nothing; the part that is known is told beside."""
    rates = RATES | {missing: replace(RATES[missing], amount=None, source="nobody says")}
    found = of(rates=rates, hours=1, serve=ServeConfig(ttl_hours=4))
    assert found.total is None
    assert len(found.unknown) == 1
    assert found.known == pytest.approx(4.0 - {"training": 2, "storage": 1, "endpoint": 1}[missing])
    assert found.summary.startswith(f"unknown ({found.unknown[0]}); the known part is")


def test_an_unknown_price_comes_with_the_words_to_give_it() -> None:
    """By the name that `prices=` takes; a bound of what is unknown is no bound of the rest."""
    rates = RATES | {"training": Rate(None, "hour", "nobody says", of="big")}
    found = of(rates=rates)
    assert "What you know of it can be given: prices={'big': …}" in repr(found)
    assert found.summary.endswith("the known part is 1.00 USD")
    assert "can be given" not in repr(of(hours=1))


def test_a_price_that_the_backend_does_not_tell_is_unknown_and_not_nothing() -> None:
    """An adapter that forgets one cannot make a training look free."""
    found = of(rates={}, hours=1, serve=ServeConfig(kind="lambda"))
    assert found.total is None
    assert len(found.unknown) == len(found.items) == 6
    assert found.known == 0


def test_one_s_own_machine_costs_nothing_and_says_why() -> None:
    """That is known, and has a source too."""
    found = of(rates=own_machine_rates(), serve=ServeConfig())
    assert found.total == 0
    assert "nobody bills for it" in repr(found)
    assert set(own_machine_rates()) == set(UNITS)


def test_one_s_own_machine_costs_what_the_user_says_it_costs() -> None:
    """Such as its electricity."""
    found = of(rates=own_machine_rates({"training": 0.06}), hours=5)
    assert found.total == pytest.approx(0.3)
    assert "given by you" in repr(found)
    with pytest.raises(ConfigError, match=r"prices\['trainig'\].*Did you mean 'training'"):
        own_machine_rates({"trainig": 0.06})


@pytest.mark.parametrize("wrong", [{"hours": 0}, {"hours": float("inf")}, {"predictions": 0}, {"milliseconds": -1}])
def test_a_number_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    """With its name and its value."""
    ((name, value),) = wrong.items()
    with pytest.raises(ConfigError, match=re.escape(f"{name}={value!r}")):
        of(**wrong)


def test_prices_in_two_currencies_are_not_added() -> None:
    """A sum of dollars and euros is no figure."""
    rates = RATES | {"storage": replace(RATES["storage"], currency="EUR")}
    with pytest.raises(ConfigError, match="EUR and USD cannot be added"):
        of(rates=rates, hours=1)


amounts = st.none() | st.floats(0, 1e6)


@settings(deadline=None)
@given(st.lists(st.tuples(amounts, st.floats(0, 1e6), st.booleans()), max_size=8))
def test_a_total_is_the_sum_of_its_counted_lines_or_unknown(lines: list[tuple[float | None, float, bool]]) -> None:
    """Whatever the lines are."""
    items = tuple(
        CostItem(f"line {number}", quantity, Rate(amount, "hour", LIST), counted=counted)
        for number, (amount, quantity, counted) in enumerate(lines)
    )
    counted = [item.amount for item in items if item.counted]
    expected = None if None in counted else sum(amount for amount in counted if amount is not None)
    found = CostEstimate(items)
    assert found.total == expected
    assert (found.total is None) == bool(found.unknown)


# -- how it is shown --------------------------------------------------------------------------------------------------


def test_text_shows_every_line_with_its_price_and_every_source_with_its_date() -> None:
    """What a terminal prints is all there is to know."""
    text = repr(of(hours=1, serve=ServeConfig(), images=4746))
    assert text.startswith("4,746 images of 224 px, mobilenet_v2, then a realtime endpoint; the first 30 days")
    for said in (
        "2 USD per hour [1]", f"[1] a price list, {ASKED}", f"[2] the provider's FAQ, {ASKED}", "180.00 USD",
        "(0.25 USD)", "Total: 183.00 USD", "In parentheses: not part of the total", "Not counted: taxes",
    ):  # fmt: skip
        assert said in text
    assert max(map(len, text.splitlines())) <= 120


def test_a_notebook_shows_the_same_and_nothing_in_it_is_markup() -> None:
    """Names come from users and price lists."""
    rates = RATES | {"training": Rate(2.0, "hour", "<b>list</b>", of="<i>big</i>", note="a & b")}
    page = of(rates=rates, hours=1, serve=ServeConfig())._repr_html_()
    assert "&lt;b&gt;list&lt;/b&gt;" in page
    assert "&lt;i&gt;big&lt;/i&gt;" in page
    assert "a &amp; b" in page
    assert "<i>" not in page
    assert "Total: 183.00 USD" in page


def test_names_with_brackets_are_no_markup_in_a_terminal() -> None:
    """Rich reads [red] as a colour."""
    rates = RATES | {"training": replace(RATES["training"], of="[red]big", note="[link=x]")}
    text = repr(of(rates=rates, hours=1))
    assert "[red]big" in text
    assert "[link=x]" in text


# -- what a job did cost ----------------------------------------------------------------------------------------------


def test_a_job_costs_its_billable_time_on_all_its_machines() -> None:
    """Half an hour on two machines at 2 USD."""
    cost = job_cost({"billable_seconds": 1800, "training_seconds": 1800, "count": 2, "spot": False}, RATES)
    assert cost is not None
    assert (cost.amount, cost.saved) == (2, None)
    assert repr(cost).startswith("2.00 USD (1,800 s billed on 2 × big; 2 USD per hour: a price list, 2026-11-20")


def test_a_spot_job_tells_what_spot_saved() -> None:
    """AWS's own example: 100 of 500 seconds billed saves 80 %."""
    cost = job_cost({"billable_seconds": 100, "training_seconds": 500, "spot": True}, RATES)
    assert cost is not None
    assert cost.saved == pytest.approx(0.8)
    assert cost.amount == pytest.approx(100 / 3600 * 2)
    assert "spot saved 80%" in cost._repr_html_()


def test_a_job_at_an_unknown_price_still_tells_its_time() -> None:
    """The seconds are known, the amount is not."""
    cost = job_cost({"billable_seconds": 60}, {})
    assert cost is not None
    assert cost.amount is None
    assert repr(cost).startswith("unknown (60 s billed on 1 × a machine; this backend tells no price of training")


def test_a_job_whose_backend_has_not_billed_has_no_cost_yet() -> None:
    """While it runs, and on one's own machine."""
    assert job_cost({"status": "running"}, RATES) is None
    assert job_cost({"billable_seconds": None}, RATES) is None


# -- the command ------------------------------------------------------------------------------------------------------


@dataclass
class Recorder:
    """Stands in for a backend and records what it was asked."""

    asked: dict[str, Any] = field(default_factory=dict)

    def estimate(self, dataset: Dataset, config: TrainConfig, resources: Resources, **more: Any) -> CostEstimate:
        """Records the call and returns an estimate at known prices."""
        self.asked = {"images": len(dataset), "config": config, "resources": resources, **more}
        return of(images=len(dataset), config=config, resources=resources, hours=more["hours"], serve=more["serve"])


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """The backend that the program opens."""
    recorder = Recorder()
    monkeypatch.setattr(options, "open_backend", lambda name: recorder.asked.update(backend=name) or recorder)
    return recorder


def test_the_command_asks_for_what_its_options_say_and_prints_the_estimate(phantoms: Path, recorder: Recorder) -> None:
    """Nothing is started."""
    done = CliRunner().invoke(
        app,
        ["cost", str(phantoms), "--backend", "sagemaker", "--instance", "ml.g4dn.xlarge", "--spot", "--count", "2",
         "--hours", "1.5", "--epochs", "3", "--serve", "lambda", "--memory-mb", "1024", "--price", "storage=0.02"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert recorder.asked["resources"] == Resources(instance="ml.g4dn.xlarge", count=2, spot=True)
    assert recorder.asked["serve"] == ServeConfig(kind="lambda", memory_mb=1024)
    assert recorder.asked["config"] == TrainConfig(epochs=3)
    assert (recorder.asked["hours"], recorder.asked["prices"]) == (1.5, {"storage": 0.02})
    assert "Total: at most 7.00 USD" in done.output
    assert f"{recorder.asked['images']:,} images of 224 px" in done.output


def test_the_command_without_serve_estimates_the_training_alone(phantoms: Path, recorder: Recorder) -> None:
    """And leaves prices to the backend."""
    done = CliRunner().invoke(app, ["cost", str(phantoms)])
    assert done.exit_code == 0, done.output
    assert (recorder.asked["serve"], recorder.asked["prices"], recorder.asked["hours"]) == (None, None, None)
    assert "endpoint" not in done.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--memory-mb", "1024", "--serve-instance", "x"],
            "--serve-instance, --memory-mb: of an endpoint. Add --serve",
        ),
        (["--price", "0.7"], "'0.7' is not NAME=PRICE"),
        (["--price", "ml.m5.large=cheap"], "'ml.m5.large=cheap' is not NAME=PRICE"),
        (["--serve", "edge"], "edge"),
    ],
)
def test_a_mistake_in_the_command_ends_with_2(phantoms: Path, arguments: list[str], said: str) -> None:
    """Before anything is read or asked."""
    done = CliRunner().invoke(app, ["cost", str(phantoms), *arguments])
    assert done.exit_code == 2
    assert said in re.sub(r"[\s│]+", " ", re.sub(r"\x1b\[[0-9;]*m", "", done.output))
