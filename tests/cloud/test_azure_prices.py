"""What Azure charges, asked of the emulator's list of retail prices."""

from __future__ import annotations

import datetime as dt
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("azure.identity", reason="the AzureML backend is not installed")

from medimg.backends.azureml.prices import LIST, list_of, rates
from medimg.backends.azureml.workspace import Workspace
from medimg.backends.cost import GB, estimate, job_cost
from medimg.backends.price_list import TABLE_SOURCE
from medimg.config import Resources, ServeConfig, TrainConfig
from medimg.errors import ConfigError

if TYPE_CHECKING:
    from azure_cloud.handle import AzureEmulator

GPU = Resources(instance="Standard_NC4as_T4_v3")
SPOT = Resources(instance="Standard_NC4as_T4_v3", spot=True)
SERVE = ServeConfig(instance="Standard_DS2_v2")
_PRICES = r"prices\.azure\.com"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of this test's own: prices are kept in it."""
    monkeypatch.setenv("MEDIMG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def price_list(azure: AzureEmulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[AzureEmulator]:
    """The emulator, with a workspace in each of two regions."""
    azure.apply(monkeypatch)
    azure.make_workspace("prices-west", "westeurope")
    azure.make_workspace("prices-east", "eastus")
    azure.make_workspace("prices-north", "northeurope")
    azure.mark()
    yield azure
    azure.clear_faults()


def workspace(name: str = "west") -> Workspace:
    """Returns a workspace as a new process would open it."""
    return Workspace(workspace=f"prices-{name}")


def amounts(found: Any) -> dict[str, float | None]:
    """Returns the amounts of prices, by key."""
    return {key: rate.amount for key, rate in found.items()}


def asked(azure: AzureEmulator) -> list[str]:
    """Returns the questions that the list was asked."""
    return [call["query"]["$filter"] for call in azure.calls(path=_PRICES)]


def age(region: str, days: int) -> str:
    """Makes the kept prices of a region look so many days old, and returns the day."""
    file, day = list_of(region).file, (dt.date.today() - dt.timedelta(days=days)).isoformat()
    kept = json.loads(file.read_text())
    file.write_text(json.dumps({id: fields | {"asked": day} for id, fields in kept.items()}))
    return day


def cut(azure: AzureEmulator, path: str = _PRICES) -> None:
    """Has the list not answer."""
    azure.fault(path=path, status=0, times=None)


# -- the list ---------------------------------------------------------------------------------------------------------


def test_the_price_is_that_of_linux_on_demand_in_the_workspaces_region(price_list: AzureEmulator) -> None:
    """Not that of Windows, spot, low priority, a reservation, a test subscription or another region."""
    assert amounts(rates(workspace(), GPU, SERVE)) == {
        "training": 0.61, "endpoint": 0.161, "storage": 0.022, "upload": 0,
    }  # fmt: skip
    assert amounts(rates(workspace("east"), GPU, SERVE)) == {
        "training": 0.51, "endpoint": 0.141, "storage": 0.021, "upload": 0,
    }  # fmt: skip


def test_spot_is_priced_as_low_priority(price_list: AzureEmulator) -> None:
    """Which is what Azure Machine Learning bills it as; an estimate counts it."""
    found = rates(workspace(), SPOT)
    assert (found["training-spot"].amount, found["training-spot"].of) == (
        0.122, "Standard_NC4as_T4_v3 Low Priority",
    )  # fmt: skip
    assert found["training"].amount == 0.61
    told = estimate(found, images=10, config=TrainConfig(), resources=SPOT, hours=2, pack_bytes=GB)
    assert told.total == pytest.approx(2 * 0.122 + 0.022)


def test_a_job_on_spot_is_billed_at_the_price_of_low_priority(price_list: AzureEmulator) -> None:
    """With what that saved; a machine takes as long on spot as elsewhere."""
    told = {"billable_seconds": 7200, "training_seconds": 7200, "count": 1}
    cost = job_cost({**told, "spot": True}, rates(workspace(), SPOT))
    assert cost is not None and cost.amount == pytest.approx(2 * 0.122) and cost.saved == pytest.approx(0.8)
    assert "Low Priority, spot saved 80%" in repr(cost)
    full = job_cost({**told, "spot": False}, rates(workspace(), GPU))
    assert full is not None and full.amount == pytest.approx(2 * 0.61) and full.saved is None


def test_every_price_tells_where_it_comes_from_and_when(price_list: AzureEmulator) -> None:
    """The day it was asked, and since when it holds; also of what costs nothing."""
    found = rates(workspace(), GPU)
    assert found["training"].origin == f"{LIST}, {dt.date.today()}"
    assert found["training"].note == "in force since 2026-03-01"
    assert found["training"].of == "Standard_NC4as_T4_v3"
    assert "no charge for data sent into Azure" in found["upload"].origin


def test_a_price_on_a_later_page_is_found(price_list: AzureEmulator) -> None:
    """The list answers in pages."""
    price_list.tell("prices", page=1)
    assert amounts(rates(workspace(), GPU))["training"] == 0.61
    assert any("$skip" in call["query"] for call in price_list.calls(path=_PRICES))


def _like(**changes: Any) -> dict[str, Any]:
    return {
        "currencyCode": "USD", "tierMinimumUnits": 0.0, "retailPrice": 0.99, "armRegionName": "westeurope",
        "effectiveStartDate": "2026-03-01T00:00:00Z", "meterName": "NC4as T4 v3",
        "productName": "Virtual Machines NCasT4 v3 Series", "skuName": "NC4as T4 v3",
        "serviceName": "Virtual Machines", "unitOfMeasure": "1 Hour", "type": "Consumption",
        "isPrimaryMeterRegion": True, "armSkuName": "Standard_NC4as_T4_v3", **changes,
    }  # fmt: skip


def test_a_price_that_does_not_hold_yet_is_not_taken(price_list: AzureEmulator) -> None:
    """Azure announces its changes."""
    tomorrow = (dt.date.today() + dt.timedelta(days=1)).isoformat()
    price_list.tell("prices", more=[_like(effectiveStartDate=f"{tomorrow}T00:00:00Z")])
    assert rates(workspace(), GPU)["training"].amount == 0.61


def test_several_prices_of_one_thing_are_unknown_and_named(price_list: AzureEmulator) -> None:
    """Which one holds is not guessed."""
    price_list.tell("prices", more=[_like()])
    found = rates(workspace(), GPU)["training"]
    assert found.amount is None
    assert "several prices: 0.61, 0.99 USD" in found.note


@pytest.mark.parametrize("other", [{"unitOfMeasure": "1 Minute"}, {"currencyCode": "EUR"}])
def test_a_price_in_another_unit_or_currency_is_not_taken_for_ours(
    price_list: AzureEmulator, other: dict[str, str]
) -> None:
    """A price a minute would be sixty times too low."""
    price_list.tell("prices", items=[_like(**other)])
    found = rates(workspace(), GPU)["training"]
    assert found.amount is None
    assert f"only per {other.get('unitOfMeasure', '1 Hour')} in {other.get('currencyCode', 'USD')}" in found.note


def test_what_the_list_does_not_have_is_unknown_and_not_taken_from_the_table(price_list: AzureEmulator) -> None:
    """Azure says that there is none; an old table does not know better."""
    price_list.tell("prices", items=[])
    found = rates(workspace("east"), GPU)["training"]
    assert found.amount is None
    assert found.note == "the price list names no price of it in eastus"


def test_without_an_instance_its_price_is_unknown_and_nothing_is_asked_for_it(price_list: AzureEmulator) -> None:
    """A backend names its default."""
    found = rates(workspace(), Resources(spot=True), ServeConfig())
    assert {amounts(found)[key] for key in ("training", "training-spot", "endpoint")} == {None}
    assert "no instance is named" in found["training"].source
    (question,) = asked(price_list)
    assert "'Storage'" in question


# -- what is kept -----------------------------------------------------------------------------------------------------


def test_within_a_week_nothing_is_asked_again(price_list: AzureEmulator) -> None:
    """Also by another process: the answer is in a file."""
    first = rates(workspace(), GPU)
    price_list.mark()
    assert rates(workspace(), GPU) == first
    day = age("westeurope", 6)
    assert rates(workspace(), GPU)["training"].date == day
    assert asked(price_list) == []


def test_after_a_week_the_list_is_asked_anew(price_list: AzureEmulator) -> None:
    """A changed price is seen."""
    rates(workspace(), GPU)
    age("westeurope", 7)
    price_list.tell("prices", items=[_like(retailPrice=0.8)])
    found = rates(workspace(), GPU)["training"]
    assert (found.amount, found.date) == (0.8, dt.date.today().isoformat())


@pytest.mark.parametrize("status", [0, 503])
def test_an_old_price_is_kept_and_shown_with_its_age_while_the_list_does_not_answer(
    price_list: AzureEmulator, status: int
) -> None:
    """Better than a table of years ago, and honest about its age."""
    rates(workspace(), GPU)
    day = age("westeurope", 40)
    price_list.fault(path=_PRICES, status=status, code="ServiceUnavailable", times=None)
    price_list.mark()
    found = rates(workspace(), GPU)["training"]
    assert len(asked(price_list)) <= 2, "it gives up soon"
    assert found.amount == 0.61
    assert found.origin == f"{LIST}, {day} (40 days old)"
    assert found.note.startswith("the price list could not be reached")


def test_prices_that_two_estimates_ask_at_once_are_all_kept(price_list: AzureEmulator) -> None:
    """Neither file replaces the other's."""
    wanted = ["Standard_NC4as_T4_v3", "Standard_NC8as_T4_v3"]
    threads = [threading.Thread(target=rates, args=(workspace(), Resources(instance=each))) for each in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(wanted) <= set(json.loads(list_of("westeurope").file.read_text()))


# -- when it cannot be asked ------------------------------------------------------------------------------------------


def test_without_the_list_the_table_answers_soon_and_says_that_it_is_no_live_price(price_list: AzureEmulator) -> None:
    """For the one region that it is of."""
    cut(price_list)
    started = time.monotonic()
    found = rates(workspace("east"), SPOT, ServeConfig(instance="Standard_D4s_v3"))
    assert time.monotonic() - started < 10
    assert amounts(found) == {
        "training": 0.526, "training-spot": None, "endpoint": 0.192, "storage": None, "upload": 0,
    }  # fmt: skip
    assert found["training"].origin.startswith(f"{TABLE_SOURCE}, 2026-11-20")
    assert found["training"].note == "the price list could not be reached"


def test_in_a_region_that_the_table_does_not_have_the_price_is_unknown(price_list: AzureEmulator) -> None:
    """Another region's price is told as that, and never counted."""
    cut(price_list)
    found = rates(workspace(), GPU)
    assert found["training"].amount is None
    assert "no price of Standard_NC4as_T4_v3 in westeurope" in found["training"].source
    assert f"in eastus it is 0.526 USD ({TABLE_SOURCE}, 2026-11-20)" in found["training"].note
    assert estimate(
        found, images=10, config=TrainConfig(), resources=GPU, hours=1, pack_bytes=GB
    ).total is None  # fmt: skip


def test_an_instance_that_nobody_knows_is_unknown(price_list: AzureEmulator) -> None:
    """Not nothing, and not the nearest one's price."""
    cut(price_list)
    found = rates(workspace("east"), Resources(instance="Standard_NC99_v9"))["training"]
    assert (found.amount, found.note) == (None, "the price list could not be reached")


def test_without_a_network_kept_prices_are_found_though_nobody_tells_the_region(price_list: AzureEmulator) -> None:
    """The region of a workspace is kept, too: it does not change."""
    first = rates(workspace(), GPU)
    cut(price_list, "")
    assert rates(workspace(), GPU) == first


def test_without_a_network_from_the_start_every_price_is_unknown(price_list: AzureEmulator) -> None:
    """The region is not guessed; what the table says of another is told."""
    cut(price_list, "")
    found = rates(workspace(), GPU)
    assert found["training"].amount is None
    assert "without knowing the region" in found["training"].source
    assert "medimg azure doctor" in found["training"].note and "in eastus it is 0.526 USD" in found["training"].note


def test_an_answer_that_cannot_be_read_is_not_kept(price_list: AzureEmulator) -> None:
    """The table answers until the list does."""
    price_list.tell("prices", garbage=True)
    found = rates(workspace("east"), GPU)["training"]
    assert found.amount == 0.526
    assert "cannot be read" in found.note
    price_list.clear_faults()
    assert rates(workspace("east"), GPU)["training"].amount == 0.51


def test_a_home_that_cannot_be_written_does_not_withhold_the_estimate(
    price_list: AzureEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prices are asked each time."""
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MEDIMG_HOME", str(tmp_path / "file" / "home"))
    assert rates(workspace(), GPU)["training"].amount == 0.61


# -- what the user gives ----------------------------------------------------------------------------------------------


def test_given_prices_win_and_are_not_asked_for(price_list: AzureEmulator) -> None:
    """By instance and by key; not even the region is."""
    given = {"Standard_NC4as_T4_v3": 0.5, "storage": 0.01, "training-spot": 0.1}
    found = rates(workspace(), SPOT, given=given)
    assert (found["training"].amount, found["training"].origin) == (0.5, "given by you")
    assert (found["storage"].amount, found["training-spot"].amount) == (0.01, 0.1)
    assert price_list.calls() == []


def test_a_given_price_of_something_else_is_refused(price_list: AzureEmulator) -> None:
    """A mistyped instance must not leave the user with Azure's price unnoticed."""
    with pytest.raises(ConfigError, match="Did you mean 'Standard_NC4as_T4_v3'"):
        rates(workspace(), GPU, given={"Standard_NC4as_T4_v4": 0.5})
    with pytest.raises(ConfigError, match="training-spot"):
        rates(workspace(), GPU, given={"training-spot": 0.2})
