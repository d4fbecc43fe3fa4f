"""An endpoint notices that it is sent other images than its model was validated on, and is silent on those."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner

from medimg.artifact import ModelFolder
from medimg.backends import backend
from medimg.backends.endpoint import Endpoint
from medimg.backends.health import Health, Measure
from medimg.cli.app import app
from medimg.data.decode import decode, read
from medimg.data.pixels import Pixels
from medimg.data.synthetic import write_phantoms
from medimg.inference.request_lines import health_of, lines_of


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Pixels]:
    """Films of other patients, made as those of validation were."""
    root = write_phantoms(tmp_path_factory.mktemp("films"), patients=60, size=64, seed=1)
    return [decode(read(path), name=path.name) for path in sorted(root.rglob("*.png"))][:80]


@pytest.fixture(scope="module")
def endpoint(trained: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """The small model, served on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDIMG_HOME", str(tmp_path_factory.mktemp("served")))
        patch.setenv("MEDIMG_SALT", "salt of the tests")
        with backend("local").deploy(trained, name="watched") as endpoint:
            yield endpoint


def folder(endpoint: Endpoint) -> Path:
    """Returns where the endpoint's files are."""
    found: Path = endpoint.backend._folder("endpoint", endpoint.name)  # type: ignore[attr-defined]
    return found


def settled(endpoint: Endpoint, images: int) -> Health:
    """Returns the health when it counts so many images: it is computed at most once a second."""
    while (health := endpoint.health()).images < images:
        time.sleep(0.1)
    return health


def test_an_endpoint_tells_of_a_change_and_of_none(endpoint: Endpoint, films: list[Pixels], tmp_path: Path) -> None:
    """Too few, then like validation, then inverted films among them: /health, /metrics, the log and the command."""
    assert endpoint.health().status == "too-few"
    endpoint.predict_many(films)
    health = settled(endpoint, len(films))
    assert (health.status, health.images, health.alarms) == ("ok", len(films), ())
    assert "medimg_drift_alarm 0.0" in asked(endpoint, "/metrics")
    inverted = [255 - film for film in films]
    endpoint.predict_many([*inverted, *(film[:, ::-1].copy() for film in inverted), *inverted])
    told = settled(endpoint, 3 * len(films))
    assert (told.status, told.images) == ("alarm", 3 * len(films))  # the same image again counts once
    assert "top_bottom" in {measure.name for measure in told.alarms}
    assert "Nobody has shown" in told.message
    metrics = asked(endpoint, "/metrics")
    assert "medimg_drift_alarm 1.0" in metrics
    assert 'medimg_drift{measure="top_bottom"}' in metrics
    while health_of(lines_of(folder(endpoint)))["images"] < told.images:
        time.sleep(0.1)  # it is written once a second
    assert Health.from_json(health_of(lines_of(folder(endpoint)))) == told
    page = tmp_path / "drift.html"
    said = CliRunner().invoke(app, ["drift", str(folder(endpoint)), "--html", str(page)])
    assert said.exit_code == 3
    assert "ALARM" in said.output
    assert page.read_text().startswith("<!doctype html>")
    assert "patient" not in "".join(lines_of(folder(endpoint)))


def asked(endpoint: Endpoint, path: str) -> str:
    """Returns what the endpoint's server answers at a path, asked with its key."""
    url, headers = endpoint.backend._http_request(endpoint.name, b"")
    address = urlsplit(url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=10)
    try:
        connection.request("GET", path, headers=dict(headers))
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def test_the_command_says_nothing_worse_than_ok_of_right_images(tmp_path: Path) -> None:
    """Exit code 0 where there is no alarm, also where nothing can be compared; 1 where there is no such endpoint."""
    log = tmp_path / "log"
    log.write_text("golden inputs agree\n")
    said = CliRunner().invoke(app, ["drift", str(log)])
    assert said.exit_code == 0
    assert "no line of a request" in said.output
    missing = CliRunner().invoke(app, ["drift", "nothing-of-that-name"])
    assert missing.exit_code == 1
    assert "has no endpoint 'nothing-of-that-name'" in missing.output


def test_health_shows_itself_and_no_name_is_taken_for_markup() -> None:
    """As text, and as a table with bars in a notebook; a class may be called anything."""
    measure = Measure("probability of <b>x</b>", 0.5, 0.2, True, "The probability is higher.", (0.5, 0.5), (0.1, 0.9))
    other = Measure("uncertain", 0.01, 0.2, False, "Called uncertain: 1%.", (0.01,), (0.02,))
    health = Health("alarm", 70, "2026-01-01T00:00:00+00:00", (other, measure), "The probability is higher.")
    assert health.alarms == (measure,)
    assert repr(health).splitlines()[0].startswith("ALARM, 70 images since 2026-01-01")
    html = health._repr_html_()
    assert "<b>x" not in html
    assert html.count("<svg") == 2
    assert html.count("<rect") == 6
    nothing = Health.from_json({"status": "unknown", "images": 0, "since": "", "measures": [], "message": "No."})
    assert nothing.alarms == ()
    assert "<table" not in nothing._repr_html_()
