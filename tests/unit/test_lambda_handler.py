"""Both Lambda functions, given the events that AWS gives: the one with the model, and the one before an endpoint."""

from __future__ import annotations

import base64
import importlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any

import pytest

from medimg.artifact import ModelFolder
from medimg.errors import ConfigError, ImageRejected, ModelFolderError
from medimg.inference.answers import read_answer
from medimg.inference.decision import Prediction
from medimg.inference.request_lines import read
from medimg.serving.clouds.http_api import MAX_IMAGE

HASH = sha256(b"right").hexdigest()


def event(
    method: str = "POST",
    path: str = "/predict",
    body: bytes | str | None = None,
    *,
    key: str | None = "right",
    stage: str = "$default",
    **headers: str,
) -> dict[str, Any]:
    """Returns an event of an HTTP API, payload format 2.0: bytes travel in base64, text as it is."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    if key is not None:
        given["authorization"] = f"Bearer {key}"
    found: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": given,
        "requestContext": {"http": {"method": method, "path": path, "protocol": "HTTP/1.1"}, "stage": stage},
        "isBase64Encoded": isinstance(body, bytes),
    }
    if body is not None:
        found["body"] = base64.b64encode(body).decode() if isinstance(body, bytes) else body
    return found


Call = Callable[[Mapping[str, Any]], tuple[int, dict[str, Any]]]


def caller(module: ModuleType) -> Call:
    """Returns how to call a function as AWS does, through JSON both ways."""

    def call(given: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        response = json.loads(json.dumps(module.handler(json.loads(json.dumps(given)), None)))
        assert response["headers"]["content-type"] == "application/json"
        assert response["isBase64Encoded"] is False
        return response["statusCode"], json.loads(response["body"])

    return call


def load(name: str) -> ModuleType:
    """Returns a module, imported anew as a starting function does."""
    sys.modules.pop(f"medimg.serving.clouds.{name}", None)
    return importlib.import_module(f"medimg.serving.clouds.{name}")


@pytest.fixture
def root(trained: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a function with no more of the model than LiteRT needs, and its environment."""
    root = tmp_path / "task"
    for name in trained.serving_files("litert"):
        (root / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(trained.path / name, root / "model" / name)
    settings = {"LAMBDA_TASK_ROOT": str(root), "MEDIMG_DIGEST": trained.digest, "MEDIMG_KEY_HASH": HASH}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    for name in ("MEDIMG_AUTH", "MEDIMG_URL_HOSTS", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return root


@pytest.fixture
def call(root: Path) -> Call:
    """The function with the model."""
    return caller(load("aws_lambda"))


@pytest.fixture(scope="module")
def image(phantoms: Path) -> bytes:
    """One encoded test image."""
    return min(phantoms.glob("test/NODULE/*")).read_bytes()


def the_forms(image: bytes) -> list[dict[str, Any]]:
    """Returns one image in every event that may bring it."""
    text = base64.b64encode(image).decode()
    part = b'--x\r\nContent-Disposition: form-data; name="f"; filename="a.png"\r\n\r\n' + image + b"\r\n--x--\r\n"
    return [
        event(body=image, content_type="image/png"),
        event(body=image),
        event(path="/", body=image, content_type="application/octet-stream"),
        event(path="/predict/", body=part, content_type="multipart/form-data; boundary=x"),
        event(body=json.dumps({"image": text}), content_type="application/json"),
        event(body=json.dumps({"image": f"data:image/png;base64,{text}"}), content_type="application/json"),
        event(body=image, key=None, x_api_key="right"),
        event(path="/prod/predict", stage="prod", body=image),
        {"image": text},
    ]


@pytest.mark.parametrize("form", range(9))
def test_the_answer_is_the_models_own(call: Call, trained: ModelFolder, image: bytes, form: int) -> None:
    """In every form of a request, and for a direct call, which IAM has let in."""
    status, answer = call(the_forms(image)[form])
    assert status == 200
    own = trained.predict(image)
    found = Prediction.from_json(answer)
    assert found.label == own.label
    assert found.probabilities == pytest.approx(dict(own.probabilities), abs=1e-6)
    assert answer.keys() == own.to_json().keys() | {"digest", "version"}
    assert answer["digest"] == trained.digest


@pytest.mark.parametrize(
    "given",
    [
        event(body=b"x", key=None),
        event(body=b"x", key="wrong"),
        event(body=b"x", key=""),
        event(body=b"x", key=None, authorization="Basic right"),
        event(body=b"x", key=None, x_api_key="wrong"),
        event(body=b"x", key=None, x_api_key="\ud800"),
        event(body=b"x", key=None, x_api_key=HASH),
        event("GET", "/ping", key=None),
        event("GET", "/nowhere", key=None),
    ],
)
def test_without_the_right_key_there_is_no_answer(call: Call, given: dict[str, Any]) -> None:
    """On no route; the hash is no key."""
    status, answer = call(given)
    assert status == 401
    assert "Authorization: Bearer KEY" in answer["error"]


def test_ping_tells_which_model_answers(call: Call, trained: ModelFolder) -> None:
    """With the key."""
    assert call(event("GET", "/ping")) == (200, {"status": "ready", "digest": trained.digest})


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (event("GET", "/predict"), 405),
        (event("DELETE", "/"), 405),
        (event(path="/model"), 404),
        (event("GET", "/x"), 404),
    ],
)
def test_other_routes_are_not_there(call: Call, given: dict[str, Any], status: int) -> None:
    """Each with what to do instead."""
    found, answer = call(given)
    assert found == status
    assert "POST" in answer["error"]


@pytest.mark.parametrize(
    ("given", "status", "code"),
    [
        (event(body=b""), 415, "empty"),
        (event(), 415, "empty"),
        (event(body=b"hello"), 415, "not-an-image"),
        (event(body="hello", content_type="text/plain"), 415, "not-an-image"),
        (event(body=b"\xff\xd8\xff"), 415, "truncated"),
        (event(body="{", content_type="application/json"), 400, "bad-request"),
        ({**event(body=b"x"), "body": "!!!"}, 400, "bad-request"),
        (event(body=bytes(MAX_IMAGE + 1)), 413, "too-large"),
        (event(body='{"url": "https://a.example/"}', content_type="application/json"), 403, "url-refused"),
        ({"image": "!!!"}, 400, "bad-request"),
        ({}, 400, "bad-request"),
        ({"url": "https://a.example/"}, 403, "url-refused"),
    ],
)
def test_a_refusal_has_its_status_and_code(call: Call, given: dict[str, Any], status: int, code: str) -> None:
    """And a client raises it as what it is."""
    found, answer = call(given)
    assert (found, answer["code"]) == (status, code)
    with pytest.raises(ImageRejected) as caught:
        read_answer(found, json.dumps(answer).encode())
    assert caught.value.code == code


def test_the_limit_of_an_event_is_told_with_the_way_around_it(call: Call) -> None:
    """AWS's 6 MB, in which the image stands in base64."""
    _, answer = call(event(body=bytes(MAX_IMAGE + 1)))
    assert "at most 6 MB" in answer["error"]
    assert "http_api" in answer["error"]
    assert len(json.dumps(event(body=bytes(MAX_IMAGE)))) < 6 * 1024 * 1024


def test_urls_are_fetched_from_the_listed_hosts_only(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list is the deployment's."""
    monkeypatch.setenv("MEDIMG_URL_HOSTS", "images.test, other.test")
    call = caller(load("aws_lambda"))
    body = json.dumps({"url": "https://evil.example/1.png"})
    status, answer = call(event(body=body, content_type="application/json"))
    assert (status, answer["code"]) == (403, "url-refused")
    assert "of a host" in answer["error"]


def test_a_function_without_a_key_must_say_so(root: Path, image: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """One forgotten variable does not open it."""
    monkeypatch.delenv("MEDIMG_KEY_HASH")
    with pytest.raises(ConfigError, match="MEDIMG_AUTH=none"):
        load("aws_lambda")
    monkeypatch.setenv("MEDIMG_AUTH", "none")
    status, _ = caller(load("aws_lambda"))(event(body=image, key=None))
    assert status == 200


def test_a_function_with_another_model_or_a_wrong_one_never_answers(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The import fails, and the log says why."""
    (root / "model" / "more.py").write_text("")
    with pytest.raises(ModelFolderError, match=r"more\.py does not belong"):
        load("aws_lambda")
    assert "error: " in capsys.readouterr().out
    (root / "model" / "more.py").unlink()
    monkeypatch.setenv("MEDIMG_DIGEST", "0" * 64)
    with pytest.raises(ModelFolderError, match="its digest is"):
        load("aws_lambda")


def test_an_image_that_two_of_its_processes_answer_has_one_id_in_the_log(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], image: bytes
) -> None:
    """So that a load test counts once however many containers answer it; the salt itself is never in the log."""

    def logged() -> str:
        capsys.readouterr()
        caller(load("aws_lambda"))(event(body=image))
        said = capsys.readouterr().out
        assert "salt-of" not in said
        (line,) = (line for line in read(said.splitlines()) if line["medimg"] == "request")
        return str(line["id"])

    monkeypatch.delenv("MEDIMG_LOG_SALT", raising=False)
    assert logged() != logged()
    monkeypatch.setenv("MEDIMG_LOG_SALT", "salt-of-the-deployment")
    assert logged() == logged()


@pytest.mark.parametrize(("memory", "cores"), [("128", 1), ("1769", 1), ("1770", 2), ("3008", 2), ("10240", 6)])
def test_as_many_cores_compute_as_the_memory_brings(
    root: Path, monkeypatch: pytest.MonkeyPatch, memory: str, cores: int
) -> None:
    """One for every 1,769 MB, as AWS says."""
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", memory)
    assert load("aws_lambda")._cores() == cores


# -- before an endpoint -----------------------------------------------------------------------------------------------


class Runtime:
    """A stand-in for the service sagemaker-runtime, which real boto3 talks to."""

    def __init__(self) -> None:
        self.answer: tuple[int, dict[str, Any], dict[str, str]] = (200, {}, {})
        self.seen: list[tuple[str, bytes, dict[str, str]]] = []
        runtime = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                runtime.seen.append((self.path, body, dict(self.headers)))
                status, content, headers = runtime.answer
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                sent = json.dumps(content).encode()
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            def log_message(self, format: str, *values: object) -> None:  # noqa: A002 - its name in the base class
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def fails(self, status: int, code: str, **content: Any) -> None:
        """Makes the service answer with an error."""
        self.answer = (status, content, {"x-amzn-ErrorType": code})


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Runtime]:
    """The service, and the relay's environment: what a deployment sets and nothing else of ours."""
    runtime = Runtime()
    for name in [name for name in os.environ if name.startswith("MEDIMG_")]:
        monkeypatch.delenv(name)
    settings = {
        "MEDIMG_ENDPOINT": "chest", "MEDIMG_URL": "https://a.example", "MEDIMG_AUTH": "key", "MEDIMG_KEY_HASH": HASH,
        "MEDIMG_URL_HOSTS": "",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{runtime.server.server_port}", "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_MAX_ATTEMPTS": "1",
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    yield runtime
    runtime.server.shutdown()
    runtime.server.server_close()


def relay(runtime: Runtime) -> tuple[ModuleType, Call]:
    """Returns the function before the endpoint, and how to call it."""
    module = load("aws_relay")
    return module, caller(module)


@pytest.mark.parametrize("form", range(9))
def test_the_relay_hands_on_the_image_and_the_answer(
    runtime: Runtime, trained: ModelFolder, image: bytes, form: int
) -> None:
    """In every form of a request, signed, to the endpoint."""
    answer = {**trained.predict(image).to_json(), "digest": trained.digest}
    runtime.answer = (200, answer, {})
    module, call = relay(runtime)
    assert call(the_forms(image)[form]) == (200, answer)
    ((path, body, headers),) = runtime.seen
    assert path == "/endpoints/chest/invocations"
    assert body == image
    assert headers["Accept"] == "application/json"
    assert "AWS4-HMAC-SHA256" in headers["Authorization"]
    assert "right" not in str(headers), "the key is ours, not the endpoint's"
    module._client().close()


def test_the_relay_asks_for_the_key_before_the_endpoint(runtime: Runtime, image: bytes) -> None:
    """And answers a ping by itself."""
    _, call = relay(runtime)
    assert call(event(body=image, key="wrong"))[0] == 401
    assert call(event("GET", "/ping")) == (200, {"status": "ready"}), "the model is the endpoint's, and may change"
    assert call(event(body=bytes(MAX_IMAGE + 1)))[0] == 413
    assert runtime.seen == []


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (400, "ValidationError", "Request 4300000 exceeded the maximum of 4194304 bytes"),
        (413, "413", "HTTP content length exceeded 4194304 bytes."),
    ],
)
def test_an_image_that_sagemaker_does_not_take_is_refused_with_the_limit(
    runtime: Runtime, status: int, code: str, message: str
) -> None:
    """A serverless endpoint takes less than an HTTP API hands on."""
    runtime.fails(status, code, message=message)
    module, call = relay(runtime)
    found, answer = call(event(body=bytes(4_300_000)))
    assert found == 413
    with pytest.raises(ImageRejected, match="at most 4 MB to a serverless endpoint and 6 MB") as caught:
        read_answer(found, json.dumps(answer).encode())
    assert caught.value.code == "too-large"
    module._client().close()


@pytest.mark.parametrize(
    ("original", "message"),
    [
        (415, json.dumps({"title": json.dumps({"error": "is no picture", "code": "not-an-image"})})),
        (500, json.dumps({"error": json.dumps({"error": "is no picture", "code": "not-an-image"})})),
    ],
)
def test_the_models_refusal_goes_through_the_relay(runtime: Runtime, original: int, message: str) -> None:
    """In both wrappings of AWS's server, as the refusal that it was."""
    runtime.fails(424, "ModelError", OriginalStatusCode=original, OriginalMessage=message, Message="Received error")
    module, call = relay(runtime)
    assert call(event(body=b"hello")) == (415, {"error": "is no picture", "code": "not-an-image"})
    module._client().close()


@pytest.mark.parametrize(
    ("status", "code", "content", "answered"),
    [
        (424, "ModelError", {"OriginalStatusCode": 500, "OriginalMessage": '{"error": "arn:aws:secret"}'}, 502),
        (424, "ModelError", {"Message": "arn:aws:secret"}, 502),
        (429, "ModelNotReadyException", {"Message": "arn:aws:secret"}, 503),
        (503, "ServiceUnavailable", {"Message": "arn:aws:secret"}, 503),
        (400, "ThrottlingException", {"message": "arn:aws:secret"}, 429),
        (403, "AccessDeniedException", {"Message": "arn:aws:secret"}, 502),
        (400, "ValidationError", {"Message": "arn:aws:secret not found"}, 502),
        (200, "", {"nothing": "arn:aws:secret"}, 502),
    ],
)
def test_a_failure_behind_the_relay_is_told_without_aws_words(
    runtime: Runtime, capsys: pytest.CaptureFixture[str], status: int, code: str, content: dict[str, Any], answered: int
) -> None:
    """They name the account; the function's log has them."""
    runtime.fails(status, code, **content)
    module, call = relay(runtime)
    found, answer = call(event(body=b"hello"))
    assert found == answered
    assert "arn:" not in json.dumps(answer)
    assert "code" not in answer, "no fault of the image"
    assert code in capsys.readouterr().out
    module._client().close()


def test_an_endpoint_that_cannot_be_reached_is_told(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a status that says to try again."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    module, call = relay(runtime)
    status, answer = call(event(body=b"hello"))
    assert (status, answer["error"]) == (502, "the endpoint did not answer. Try again later")
    module._client().close()


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("aws_relay", {"numpy", "PIL", "pydantic", "boto3", "botocore", "ai_edge_litert", "ssl"}),
        (
            "aws_lambda",
            {"keras", "tensorflow", "fastapi", "boto3", "ssl", "http.client", "medimg.inference.predictions"},
        ),
    ],
)
def test_a_function_loads_no_more_than_it_needs(runtime: Runtime, root: Path, module: str, heavy: set[str]) -> None:
    """Every cold start waits for its imports."""
    code = f"import sys, medimg.serving.clouds.{module}\nprint('loaded', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.splitlines()[-1].split()) & heavy == set()


def test_reading_a_body_stops_nowhere(call: Call) -> None:
    """A picture beside other fields of a direct call is taken; what is no text is refused."""
    assert call({"image": 3})[0] == 400
    assert call({"image": base64.b64encode(io.BytesIO(b"hello").read()).decode(), "note": "x"})[0] == 415
