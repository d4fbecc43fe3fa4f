"""HTTP addresses on AWS: Lambda endpoints, and the function in front of a SageMaker endpoint, asked by plain HTTP."""

from __future__ import annotations

import base64
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import quick_sagemaker
from aws.handle import Emulator

from medimg.artifact import ModelFolder
from medimg.backends.endpoint import Endpoint
from medimg.config import ServeConfig
from medimg.data.encode import encode
from medimg.errors import BackendError, EndpointError, ImageRejected
from medimg.inference.predictor import TOLERANCE

pytestmark = pytest.mark.slow

REGION = "sa-east-1"


@pytest.fixture(scope="module", params=["lambda", "realtime"])
def served(
    request: pytest.FixtureRequest,
    aws: Emulator,
    bundles: Path,
    trained: ModelFolder,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Endpoint]:
    """An endpoint with an HTTP address: a Lambda function, and one in front of a SageMaker endpoint."""
    with pytest.MonkeyPatch.context() as patch:
        aws.apply(patch, REGION)
        home = tmp_path_factory.mktemp("addresses")
        (home / "bundles").symlink_to(bundles)
        patch.setenv("MEDIMG_HOME", str(home))
        quick_sagemaker.make_roles(aws)
        config = ServeConfig(kind=request.param, http_api=True)
        with quick_sagemaker.backend().deploy(trained, config, name="address") as endpoint:
            yield endpoint
        state = aws.state(REGION)
        left = {kind: state.get(kind) for kind in ("functions", "apis", "ssm_parameters", "endpoints", "models")}
        assert not any(left.values()), left
        aws.reset_region(REGION)


def _ask(url: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, dict[str, object]]:
    request = urllib.request.Request(url, body, dict(headers), method="POST")  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def _key(endpoint: Endpoint) -> str:
    backend = endpoint.backend
    return str(backend._functions.apis.key(endpoint.name))  # type: ignore[attr-defined]


def test_an_address_takes_an_image_in_all_its_forms(served: Endpoint, trained: ModelFolder, phantoms: Path) -> None:
    """As it is, as a form, and in JSON; each gets the answer that the model gives."""
    image = sorted(phantoms.rglob("*.png"))[0]
    content, wanted = image.read_bytes(), trained.predict(image).probabilities
    form = (
        b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
        + content + b"\r\n--edge--\r\n"
    )  # fmt: skip
    forms = {
        "image/png": content,
        "application/octet-stream": content,
        "multipart/form-data; boundary=edge": form,
        "application/json": json.dumps({"image": base64.b64encode(content).decode()}).encode(),
    }
    for kind, body in forms.items():
        status, answer = _ask(served.url, body, {"Content-Type": kind, "x-api-key": _key(served)})
        assert status == 200, (kind, answer)
        assert answer["probabilities"] == pytest.approx(wanted, abs=TOLERANCE), kind
    status, answer = _ask(served.url, content, {"Authorization": f"Bearer {_key(served)}"})
    assert (status, answer["digest"]) == (200, trained.digest)


def test_an_address_has_the_page_and_lets_people_sign_in(
    served: Endpoint, trained: ModelFolder, phantoms: Path
) -> None:
    """The page's files need no key; the key gives a cookie, and the cookie what the page asks for."""
    root = served.url.removesuffix("predict")
    for path, kind in (("", "text/html"), ("page/page.js", "text/javascript"), ("page/page.css", "text/css")):
        with urllib.request.urlopen(f"{root}{path}", timeout=60) as answer:  # noqa: S310
            assert (
                answer.headers.get_content_type() == kind
                and "script-src 'self'" in answer.headers["Content-Security-Policy"]
            )
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    own = {"Content-Type": "application/json", "Sec-Fetch-Site": "same-origin"}

    def open_as_browser(path: str, body: bytes | None = None) -> dict[str, object]:
        with browser.open(urllib.request.Request(root + path, body, own), timeout=60) as answer:  # noqa: S310
            found: dict[str, object] = json.loads(answer.read())
        return found

    with pytest.raises(urllib.error.HTTPError, match="401"):
        open_as_browser("model")
    open_as_browser("session", json.dumps({"key": _key(served)}).encode())
    model = open_as_browser("model")
    assert (model["digest"], model["classes"]) == (trained.digest, list(trained.record.classes))
    assert model["thresholds"] == pytest.approx(trained.record.thresholds)
    own["Content-Type"] = "application/octet-stream"
    assert open_as_browser("predict", sorted(phantoms.rglob("*.png"))[0].read_bytes())["digest"] == trained.digest


@pytest.mark.parametrize("headers", [{}, {"x-api-key": "wrong"}, {"Authorization": "Bearer "}])
def test_an_address_asks_for_its_key(served: Endpoint, phantoms: Path, headers: Mapping[str, str]) -> None:
    """Without it there is no answer, and a wrong one is no better."""
    status, answer = _ask(served.url, sorted(phantoms.rglob("*.png"))[0].read_bytes(), headers)
    assert status == 401
    assert "key" in str(answer["error"])


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("image/png", b"no image", 415),
        ("application/json", b"{", 400),
        ("application/json", b'{"url": "https://169.254.169.254/latest/meta-data"}', 403),
        ("application/json", b'{"url": "https://images.example/a.png"}', 403),
        ("multipart/form-data; boundary=edge", b"--edge\r\nno end", 400),
    ],
)
def test_an_address_refuses_what_is_no_image(served: Endpoint, kind: str, body: bytes, status: int) -> None:
    """With a status and a reason, and goes on."""
    found, answer = _ask(served.url, body, {"Content-Type": kind, "x-api-key": _key(served)})
    assert (found, bool(answer["error"])) == (status, True), answer


def test_an_image_that_is_too_large_says_what_is_not(served: Endpoint) -> None:
    """What goes through a function may have 6 MB; the message says so before it is sent, or the function does."""
    noise = np.random.default_rng(0).integers(0, 256, (1700, 1700, 3), np.uint8)
    assert len(encode(noise)) > 6_000_000
    if served._resource.details["config"]["kind"] == "lambda":
        with pytest.raises(EndpointError, match=r"4\.5 MB"):
            served.predict(noise)
    else:
        with pytest.raises(EndpointError, match="SageMaker takes 6 MB"):
            served.predict(noise)
        status, _ = _ask(served.url, encode(noise), {"Content-Type": "image/png", "x-api-key": _key(served)})
        assert status in (413, 500, 503)


def test_the_user_asks_it_like_any_other_endpoint(
    served: Endpoint, trained: ModelFolder, phantoms: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """From another process with an empty home; broken images are rejected with the decoder's words."""
    monkeypatch.setenv("MEDIMG_HOME", str(tmp_path / "another"))
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    images = sorted(phantoms.rglob("*.png"))[:4]
    for answer, image in zip(served.predict_many(images), images, strict=True):
        assert answer.probabilities == pytest.approx(trained.predict(image).probabilities, abs=TOLERANCE)
    with pytest.raises(ImageRejected):
        served.backend._invoke(served.name, b"no image")
    assert [line for line in served.logs() if line.strip()]
    if served._resource.details["config"]["kind"] == "lambda":
        with pytest.raises(BackendError, match="another name"):
            served.update(_other(trained, tmp_path))


def _other(model: ModelFolder, folder: Path) -> ModelFolder:
    import shutil

    shutil.copytree(model.path, folder / "other")
    thresholds = dict.fromkeys(model.record.thresholds, 0.02)
    return ModelFolder.seal(folder / "other", model.record.model_copy(update={"thresholds": thresholds}))


def test_an_address_ends_with_its_time(aws: Emulator, trained: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Function, address and key are gone when AWS's clock says so, and nobody was there."""
    region = "ap-southeast-2"
    aws.apply(monkeypatch, region)
    quick_sagemaker.make_roles(aws)
    quick_sagemaker.backend().deploy(trained, ServeConfig(kind="lambda", ttl_hours=2), name="short")
    assert aws.state(region)["functions"]
    aws.advance(3 * 3600)
    deadline = time.monotonic() + 30
    ours = ("functions", "apis", "ssm_parameters", "schedules")
    while any(aws.state(region).get(kind) for kind in ours) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not {kind: found for kind in ours if (found := aws.state(region).get(kind))}
    assert quick_sagemaker.backend().endpoints() == ()
    aws.reset_clock()
    aws.reset_region(region)
