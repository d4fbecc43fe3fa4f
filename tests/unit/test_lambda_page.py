"""The page behind a Lambda function: its files, the sign-in by a cookie, and what it is told of the model."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import pytest
from test_lambda_handler import event, image, load, root  # noqa: F401 - fixtures

from medimg.artifact import ModelFolder
from medimg.serving.web.pages import POLICY


@pytest.fixture
def function(root: object) -> ModuleType:  # noqa: F811
    """The function with the model."""
    return load("aws_lambda")


def ask(function: ModuleType, given: dict[str, Any]) -> dict[str, Any]:
    """Returns the response as AWS gets it: JSON."""
    found: dict[str, Any] = json.loads(json.dumps(function.handler(given, None)))
    return found


def test_the_page_comes_without_a_key_and_is_not_sent_twice(function: ModuleType) -> None:
    """Each file has its kind, its policy and a tag; no path leads out of the folder."""
    page = ask(function, event("GET", "/", key=None))
    assert page["statusCode"] == 200
    assert page["headers"]["content-type"] == "text/html; charset=utf-8"
    assert page["headers"]["content-security-policy"] == POLICY
    for name in ("page.css", "page.js", "icon.svg", "server.js"):
        assert ask(function, event("GET", f"/page/{name}", key=None))["statusCode"] == 200
        assert name in page["body"] or name == "server.js"
    again = ask(function, event("GET", "/", key=None, if_none_match=page["headers"]["etag"]))
    assert (again["statusCode"], again["body"]) == (304, "")
    for path in ("/page/", "/page/index.html", "/page/../pages.py", "/page/..%2fpages.py", "/page//etc/passwd"):
        assert ask(function, event("GET", path, key=None))["statusCode"] in (401, 404)


def test_who_signs_in_is_told_of_the_model_and_gets_answers(
    function: ModuleType,
    trained: ModelFolder,
    image: bytes,  # noqa: F811
) -> None:
    """The cookie stands for the key; without it nothing is told."""
    assert ask(function, event("GET", "/model", key=None))["statusCode"] == 401
    body = json.dumps({"key": "right"})
    signed_in = ask(function, event("POST", "/session", body, key=None, sec_fetch_site="same-origin"))
    (cookie,) = signed_in["cookies"]
    session = {"cookies": [cookie.partition(";")[0]]}
    told = ask(function, event("GET", "/model", key=None) | session)
    model = json.loads(told["body"])
    assert model["digest"] == trained.digest and model["explains"] is False and model["auth"] == "key"
    assert model["thresholds"] == trained.record.thresholds
    asked = event("POST", "/predict", image, key=None, sec_fetch_site="same-origin") | session
    assert json.loads(ask(function, asked)["body"])["label"] in trained.record.classes
