"""What AWS charges, asked of a server that speaks the protocol of its price list."""

from __future__ import annotations

import copy
import datetime as dt
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("boto3", reason="the SageMaker backend is not installed")

from medimg.backends.cost import GB, estimate
from medimg.backends.price_list import TABLE_SOURCE
from medimg.backends.sagemaker.account import Account
from medimg.backends.sagemaker.prices import LIST, list_of, rates
from medimg.config import Resources, ServeConfig, TrainConfig
from medimg.errors import ConfigError

PUBLISHED = "2026-11-19T17:00:00Z"
GPU = Resources(instance="ml.g4dn.xlarge")


def product(
    service: str, usage: str, *tiers: float, region: str = "us-east-1", unit: str = "Hrs", **attributes: str
) -> tuple[str, dict[str, Any]]:
    """Returns a product as the price list has it: prices of a first tier and of those after it."""
    sku = f"{service}{usage}{region}".upper()
    dimensions = {
        f"{sku}.{tier}": {
            "unit": unit, "beginRange": str(1000 * tier), "endRange": "Inf", "description": "…",
            "pricePerUnit": {"USD": f"{price:.10f}"},
        }
        for tier, price in enumerate(tiers)
    }  # fmt: skip
    return service, {
        "product": {"sku": sku, "attributes": {"regionCode": region, "usagetype": usage, **attributes}},
        "serviceCode": service,
        "terms": {"OnDemand": {f"{sku}.T": {"sku": sku, "priceDimensions": dimensions}}},
        "publicationDate": PUBLISHED,
        "version": "1",
    }


def machines(instance: str, prefix: str, region: str, training: float, hosting: float) -> Iterator[tuple[str, Any]]:
    """Yields an instance's products: those we need, and others of the same name at other prices."""
    for use, component, price in (
        ("Train", "Training", training), ("Host", "Hosting", hosting), ("Processing", "Processing", 90.0),
        ("Notebk", "Notebook", 91.0), ("Train-Cluster", "Training", 92.0),
    ):  # fmt: skip
        yield product(
            "AmazonSageMaker", f"{prefix}-{use}:{instance}", price, region=region, instanceName=instance,
            component=component, productFamily="ML Instance",
        )  # fmt: skip


PRODUCTS = [
    *machines("ml.g4dn.xlarge", "USE1", "us-east-1", 0.71, 0.72),
    *machines("ml.g4dn.xlarge", "EUC1", "eu-central-1", 0.91, 0.92),
    *machines("ml.m5.large", "USE1", "us-east-1", 0.111, 0.112),
    *machines("ml.m5.large", "EUC1", "eu-central-1", 0.131, 0.132),
    product("AmazonS3", "TimedStorage-ByteHrs", 0.021, 0.020, unit="GB-Mo", volumeType="Standard"),
    product("AmazonS3", "Tables-TimedStorage-ByteHrs", 0.9, unit="GB-Mo", volumeType="Standard"),
    product("AmazonS3", "EUC1-TimedStorage-ByteHrs", 0.0245, unit="GB-Mo", region="eu-central-1",
            volumeType="Standard"),
    product("AWSLambda", "Lambda-GB-Second", 0.0000166, 0.000015, unit="Lambda-GB-Second", group="AWS-Lambda-Duration"),
    product("AWSLambda", "Request", 0.0000002, unit="Requests", group="AWS-Lambda-Requests"),
    product("AmazonApiGateway", "USE1-ApiGatewayHttpRequest", 0.000001, 0.0000009, unit="Requests",
            operation="ApiGatewayHttpApi"),
    product("AmazonApiGateway", "USE1-ApiGatewayRequest", 0.0000035, unit="Requests", operation="ApiGatewayRequest"),
    *(product("AmazonSageMaker", f"USE1-ServerlessInf:Mem-{size}GB", size * 0.00002, unit="sec",
              productFamily="ML Serverless") for size in (1, 2, 3, 4, 6)),
]  # fmt: skip


@dataclass
class PriceList:
    """The server's content and temper.

    Attributes:
        products: Service and product.
        page: Products an answer.
        refusal: Status and error code of every answer; None: it answers.
        garbage: Whether products are no JSON.
        unfiltered: Whether all of a service's products are told, whatever was asked.
        asked: The questions that came.
    """

    products: list[tuple[str, dict[str, Any]]] = field(default_factory=lambda: copy.deepcopy(PRODUCTS))
    page: int = 2
    refusal: tuple[int, str] | None = None
    garbage: bool = False
    unfiltered: bool = False
    asked: list[dict[str, Any]] = field(default_factory=list)

    def answer(self, target: str, question: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Returns status and content."""
        self.asked.append(question)
        if self.refusal is not None:
            return self.refusal[0], {"__type": self.refusal[1], "message": "no"}
        assert target == "AWSPriceListService.GetProducts"
        found = [
            content
            for service, content in self.products
            if service == question["ServiceCode"]
            and (
                self.unfiltered
                or all(_passes(content["product"]["attributes"], **wanted) for wanted in question["Filters"])
            )
        ]
        start = int(question.get("NextToken", 0))
        page = found[start : start + self.page]
        more = {"NextToken": str(start + self.page)} if start + self.page < len(found) else {}
        return 200, {"PriceList": ["{" if self.garbage else json.dumps(content) for content in page], **more}


def _passes(attributes: dict[str, str], *, Type: str, Field: str, Value: str) -> bool:  # noqa: N803 - AWS's names
    value = attributes.get(Field)
    if Type == "CONTAINS":
        return value is not None and Value in value
    assert Type == "TERM_MATCH"
    return value == Value


@pytest.fixture
def price_list(monkeypatch: pytest.MonkeyPatch) -> Iterator[PriceList]:
    """A price list that boto3 finds where it looks for AWS's."""
    content = PriceList()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, answer = content.answer(self.headers["X-Amz-Target"], question)
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        _environment(monkeypatch, f"http://127.0.0.1:{server.server_port}")
        yield content
        server.shutdown()
        thread.join()


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port where nobody listens."""
    _environment(monkeypatch, "http://127.0.0.1:9")


def _environment(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "AWS_ENDPOINT_URL_PRICING": address, "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)


def account(region: str = "us-east-1") -> Account:
    """Returns an account in a region."""
    return Account(region=region)


def age(region: str, days: int) -> str:
    """Makes all kept prices so many days old and returns that day."""
    asked = (dt.date.today() - dt.timedelta(days)).isoformat()
    kept = json.loads(list_of(region).file.read_text())
    list_of(region).file.write_text(json.dumps({id: fields | {"asked": asked} for id, fields in kept.items()}))
    return asked


# -- what the list says -----------------------------------------------------------------------------------------------


def test_each_price_is_of_its_use_and_its_region(price_list: PriceList) -> None:
    """An instance has a price for training, for hosting and for much else, in every region another."""
    serve = ServeConfig(instance="ml.m5.large")
    here, there = (rates(account(region), GPU, serve) for region in ("us-east-1", "eu-central-1"))
    assert {key: rate.amount for key, rate in here.items()} == {
        "training": 0.71, "endpoint": 0.112, "storage": 0.021, "upload": 0,
    }  # fmt: skip
    assert {key: rate.amount for key, rate in there.items()} == {
        "training": 0.91, "endpoint": 0.132, "storage": 0.0245, "upload": 0,
    }  # fmt: skip


def test_a_list_that_tells_more_than_was_asked_gives_the_same_prices(price_list: PriceList) -> None:
    """Which product is ours is decided here, by region and usage type."""
    price_list.unfiltered = True
    found = rates(account("eu-central-1"), GPU, ServeConfig(instance="ml.m5.large"))
    assert {key: rate.amount for key, rate in found.items()} == {
        "training": 0.91, "endpoint": 0.132, "storage": 0.0245, "upload": 0,
    }  # fmt: skip


def test_every_price_tells_where_it_comes_from_and_when(price_list: PriceList) -> None:
    """The day it was asked, and the day AWS published it; also of what costs nothing."""
    found = rates(account(), GPU)
    assert found["training"].origin == f"{LIST}, {dt.date.today()}"
    assert found["training"].note == "published 2026-11-19"
    assert found["training"].of == "ml.g4dn.xlarge"
    assert "no charge for data sent into AWS" in found["upload"].origin


def test_a_function_and_its_address_are_priced_by_their_first_tier(price_list: PriceList) -> None:
    """A million calls, a million requests, a GB-second."""
    found = rates(account(), GPU, ServeConfig(kind="lambda"))
    assert found["compute"].amount == 0.0000166
    assert found["requests"].amount == pytest.approx(0.2)
    assert found["gateway"].amount == pytest.approx(1.0)
    assert "endpoint" not in found


@pytest.mark.parametrize("memory_mb", [1024, 3000, 6144, None])
def test_serverless_memory_is_priced_by_the_gigabyte(price_list: PriceList, memory_mb: int | None) -> None:
    """The list has a price a second for each size."""
    found = rates(account(), GPU, ServeConfig(kind="serverless", memory_mb=memory_mb))
    assert found["compute"].amount == pytest.approx(0.00002)
    assert "requests" not in found


def test_an_http_address_before_an_endpoint_needs_the_prices_of_its_function(price_list: PriceList) -> None:
    """Beside the endpoint's own."""
    found = rates(account(), GPU, ServeConfig(instance="ml.m5.large", http_api=True))
    assert {"endpoint", "relay", "requests", "gateway"} <= set(found)
    assert all(rate.amount is not None for rate in found.values())


def test_a_price_on_a_later_page_is_found(price_list: PriceList) -> None:
    """The list answers in pages."""
    price_list.page = 1
    assert rates(account(), GPU, ServeConfig(instance="ml.g4dn.xlarge"))["endpoint"].amount == 0.72
    assert any("NextToken" in question for question in price_list.asked)


def test_a_product_without_the_attribute_that_is_asked_for_is_found_by_its_usage(price_list: PriceList) -> None:
    """What attributes the list has changes over the years; its usage types are what bills are made of."""
    for _, content in price_list.products:
        attributes = content["product"]["attributes"]
        content["product"]["attributes"] = {name: attributes[name] for name in ("regionCode", "usagetype")}
    assert rates(account(), GPU)["training"].amount == 0.71


def test_several_prices_of_one_thing_are_unknown_and_named(price_list: PriceList) -> None:
    """Which one holds is not guessed."""
    price_list.products.append(
        product("AmazonSageMaker", "USE1-Train:ml.g4dn.xlarge", 0.99, instanceName="ml.g4dn.xlarge")
    )
    found = rates(account(), GPU)["training"]
    assert found.amount is None
    assert "several prices: 0.71, 0.99 USD" in found.note


def test_a_price_in_another_unit_is_not_taken_for_ours(price_list: PriceList) -> None:
    """A price a minute would be sixty times too low."""
    price_list.products[:] = [
        product("AmazonSageMaker", "USE1-Train:ml.g4dn.xlarge", 0.01, unit="Minutes", instanceName="ml.g4dn.xlarge")
    ]
    found = rates(account(), GPU)["training"]
    assert found.amount is None
    assert "only per Minutes" in found.note


def test_what_the_list_does_not_have_is_unknown_and_not_taken_from_the_table(price_list: PriceList) -> None:
    """AWS says that there is none; an old table does not know better."""
    price_list.products.clear()
    found = rates(account(), GPU)["training"]
    assert found.amount is None
    assert found.note == "the price list names no price of it in us-east-1"


def test_spot_has_no_price_before(price_list: PriceList) -> None:
    """AWS publishes none; what it promises is told in its words."""
    spot = rates(account(), Resources(instance="ml.g4dn.xlarge", spot=True))["training-spot"]
    assert spot.amount is None
    assert "up to 90 % less, in AWS's words" in spot.note


def test_without_an_instance_its_price_is_unknown_and_nothing_is_asked_for_it(price_list: PriceList) -> None:
    """A backend names its default."""
    found = rates(account(), Resources())
    assert found["training"].amount is None
    assert "no instance is named" in found["training"].source
    assert {question["ServiceCode"] for question in price_list.asked} == {"AmazonS3"}


# -- what is kept -----------------------------------------------------------------------------------------------------


def test_within_a_week_nothing_is_asked_again(price_list: PriceList) -> None:
    """Also by another process: the answer is in a file."""
    first = rates(account(), GPU)
    price_list.asked.clear()
    assert rates(account(), GPU) == first
    asked = age("us-east-1", 6)
    assert rates(account(), GPU)["training"].date == asked
    assert price_list.asked == []


def test_after_a_week_the_list_is_asked_anew(price_list: PriceList) -> None:
    """A changed price is seen."""
    rates(account(), GPU)
    age("us-east-1", 7)
    price_list.products[:] = [
        product("AmazonSageMaker", "USE1-Train:ml.g4dn.xlarge", 0.8, instanceName=GPU.instance or "")
    ]
    found = rates(account(), GPU)["training"]
    assert (found.amount, found.date) == (0.8, dt.date.today().isoformat())


@pytest.mark.parametrize("refusal", [(503, "ServiceUnavailableException"), (400, "AccessDeniedException")])
def test_an_old_price_is_kept_and_shown_with_its_age_while_the_list_does_not_answer(
    price_list: PriceList, refusal: tuple[int, str]
) -> None:
    """Better than a table of years ago, and honest about its age."""
    rates(account(), GPU)
    asked = age("us-east-1", 40)
    price_list.refusal = refusal
    price_list.asked.clear()
    found = rates(account(), GPU)["training"]
    assert len(price_list.asked) <= 2, "it gives up soon"
    assert found.amount == 0.71
    assert found.origin == f"{LIST}, {asked} (40 days old)"
    assert found.note.startswith("the price list could not be")


def test_that_a_price_is_unknown_is_kept_too(price_list: PriceList) -> None:
    """Else every estimate would ask in vain."""
    price_list.products.clear()
    rates(account(), GPU)
    price_list.asked.clear()
    assert rates(account(), GPU)["training"].amount is None
    assert price_list.asked == []


@pytest.mark.parametrize("content", ["", "[1]", '{"a": {}}', '{"AmazonSageMaker Train:ml.g4dn.xlarge": 7}'])
def test_a_damaged_file_of_prices_is_asked_anew(price_list: PriceList, content: str) -> None:
    """It is no more than a copy."""
    list_of("us-east-1").file.parent.mkdir(parents=True)
    list_of("us-east-1").file.write_text(content)
    assert rates(account(), GPU)["training"].amount == 0.71


def test_a_kept_price_that_cannot_be_is_asked_anew(price_list: PriceList) -> None:
    """A negative one in a file that somebody edited."""
    rates(account(), GPU)
    kept = json.loads(list_of("us-east-1").file.read_text())
    list_of("us-east-1").file.write_text(json.dumps({id: fields | {"amount": -1} for id, fields in kept.items()}))
    assert rates(account(), GPU)["training"].amount == 0.71


def test_prices_that_two_estimates_ask_at_once_are_all_kept(price_list: PriceList) -> None:
    """Neither file replaces the other's."""
    asked = [Resources(instance="ml.g4dn.xlarge"), Resources(instance="ml.m5.large")]
    threads = [threading.Thread(target=rates, args=(account(), resources)) for resources in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {"AmazonSageMaker Train:ml.g4dn.xlarge", "AmazonSageMaker Train:ml.m5.large"} <= set(
        json.loads(list_of("us-east-1").file.read_text())
    )


def test_a_home_that_cannot_be_written_does_not_withhold_the_estimate(
    price_list: PriceList, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prices are asked each time."""
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MEDIMG_HOME", str(tmp_path / "file" / "home"))
    assert rates(account(), GPU)["training"].amount == 0.71


# -- when it cannot be asked ------------------------------------------------------------------------------------------


def test_without_a_network_the_table_answers_soon_and_says_that_it_is_no_live_price(no_network: None) -> None:
    """An estimate on a train does not wait for minutes."""
    started = time.monotonic()
    found = rates(account(), GPU, ServeConfig(kind="lambda"))
    assert time.monotonic() - started < 15
    assert found["training"].amount == 0.7364
    assert found["training"].origin.startswith(f"{TABLE_SOURCE}, 2026-11-20")
    assert found["training"].note == "the price list could not be reached"
    assert found["compute"].amount == 0.0000166667


def test_in_a_region_that_the_table_does_not_have_the_price_is_unknown(no_network: None) -> None:
    """Another region's price is told as that, and never counted."""
    found = rates(account("eu-central-1"), GPU)
    assert found["training"].amount is None
    assert "no price of ml.g4dn.xlarge in eu-central-1" in found["training"].source
    assert f"in us-east-1 it is 0.7364 USD ({TABLE_SOURCE}, 2026-11-20)" in found["training"].note
    assert estimate(
        found, images=10, config=TrainConfig(), resources=GPU, hours=1, pack_bytes=GB
    ).total is None  # fmt: skip


def test_an_instance_that_nobody_knows_is_unknown(no_network: None) -> None:
    """Not nothing, and not the nearest one's price."""
    found = rates(account(), Resources(instance="ml.p99.xlarge"))["training"]
    assert (found.amount, found.note) == (None, "the price list could not be reached")


def test_credentials_that_may_not_ask_are_told_which_permission_is_missing(price_list: PriceList) -> None:
    """And the table answers."""
    price_list.refusal = (400, "AccessDeniedException")
    found = rates(account(), GPU)["training"]
    assert "pricing:GetProducts" in found.note
    assert found.origin.startswith(TABLE_SOURCE)
    assert len(price_list.asked) == 1, "one refusal is enough"


def test_without_credentials_the_table_answers(price_list: PriceList, monkeypatch: pytest.MonkeyPatch) -> None:
    """An estimate is wanted before there is an account."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    found = rates(account(), GPU)["training"]
    assert found.amount == 0.7364
    assert "no AWS credentials" in found.note
    assert not list_of("us-east-1").file.exists()


def test_an_answer_that_cannot_be_read_is_not_kept(price_list: PriceList) -> None:
    """The table answers until the list does."""
    price_list.garbage = True
    found = rates(account(), GPU)["training"]
    assert found.amount == 0.7364
    assert "cannot be read" in found.note
    price_list.garbage = False
    assert rates(account(), GPU)["training"].amount == 0.71


def test_in_a_partition_with_another_currency_nothing_is_asked(price_list: PriceList) -> None:
    """China's prices are in yuan, on another list."""
    found = rates(account("cn-north-1"), GPU)["training"]
    assert found.amount is None
    assert "no prices in USD" in found.note
    assert price_list.asked == []


# -- what the user gives ----------------------------------------------------------------------------------------------


def test_given_prices_win_and_are_not_asked_for(price_list: PriceList) -> None:
    """By instance and by key."""
    found = rates(account(), GPU, given={"ml.g4dn.xlarge": 0.5, "storage": 0.01})
    assert (found["training"].amount, found["training"].origin) == (0.5, "given by you")
    assert found["storage"].amount == 0.01
    assert price_list.asked == []


def test_a_spot_price_that_the_user_knows_is_taken(price_list: PriceList) -> None:
    """Where a spot job is estimated; elsewhere it is of nothing."""
    spot = Resources(instance="ml.g4dn.xlarge", spot=True)
    assert rates(account(), spot, given={"training-spot": 0.2})["training-spot"].amount == 0.2
    with pytest.raises(ConfigError, match="training-spot"):
        rates(account(), GPU, given={"training-spot": 0.2})


def test_a_given_price_of_something_else_is_refused(price_list: PriceList) -> None:
    """A mistyped instance must not leave the user with AWS's price unnoticed."""
    with pytest.raises(ConfigError, match=r"Did you mean 'ml\.g4dn\.xlarge'"):
        rates(account(), GPU, given={"ml.g4dn.xlrge": 0.5})


def test_an_estimate_of_all_parts_is_what_a_calculator_gives(price_list: PriceList) -> None:
    """Two hours at 0.71, a GB for a month at 0.021, and eight hours of an endpoint at 0.112."""
    serve = ServeConfig(instance="ml.m5.large", ttl_hours=8)
    found = estimate(
        rates(account(), GPU, serve), images=100, config=TrainConfig(), resources=GPU, serve=serve, hours=2,
        pack_bytes=GB,
    )  # fmt: skip
    assert found.total == pytest.approx(2 * 0.71 + 0.021 + 8 * 0.112)
    assert f"{LIST}, {dt.date.today()}" in repr(found)
