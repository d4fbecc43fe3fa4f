"""A deploy that is refused or cut off at any of its calls leaves nothing behind that costs money or is not found."""

from __future__ import annotations

import re

import pytest
import quick_azureml
from azure_cloud.handle import AzureEmulator

from medimg.artifact import ModelFolder
from medimg.backends.azureml.claims import Claim
from medimg.config import ServeConfig
from medimg.errors import AccessError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("subscription")]

WORKSPACE = "leftover"
CONFIG = ServeConfig(ttl_hours=1.0, max_instances=2)


def _kind(path: str) -> str:
    """Returns a pattern of the requests of one kind: the path without what has another name each time."""
    return re.sub(r"faulty-[0-9a-f]+", r"faulty-[0-9a-f]+", re.sub(r"/versions/[^/]+", "/versions/[^/]+", path)) + "$"


def _left(azure: AzureEmulator) -> dict[str, list[str]]:
    """Returns what there is but the workspace itself."""
    return {kind: names for kind, names in azure.state(WORKSPACE).items() if kind != "workspaces"}


def test_a_deploy_that_fails_at_any_call_leaves_nothing_behind(
    subscription: AzureEmulator, trained: ModelFolder
) -> None:
    """Each request of a deploy that makes something is refused in turn; after `cleanup` nothing of ours is there."""
    before = _left(subscription)
    backend = quick_azureml.backend()
    subscription.mark()
    backend.deploy(trained, CONFIG, name="faulty").delete()
    made = dict.fromkeys(
        (call["method"], _kind(call["path"])) for call in subscription.calls() if call["method"] in ("PUT", "POST")
    )
    asked = " ".join(path for _, path in made)
    assert all(what in asked for what in ("/workflows/", "/onlineEndpoints/", "/deployments/", "/models/"))
    backend.cleanup()
    assert _left(subscription) == before
    left: dict[str, dict[str, list[str]]] = {}
    for method, path in made:
        if "inference.ml" in path or path.endswith(("listSecrets$", "listKeys$", "/token$")):
            continue  # they make nothing
        subscription.fault(method=method, path=path, status=403, code="AuthorizationFailed", times=None)
        with pytest.raises(AccessError, match="may not do"):
            quick_azureml.backend().deploy(trained, CONFIG, name="faulty")
        subscription.clear_faults()
        assert quick_azureml.backend().endpoints() == (), f"after {path} an endpoint is left that costs money"
        quick_azureml.backend().cleanup()
        if (found := _left(subscription)) != before:
            left[f"{method} {path}"] = found
    assert not left
    with quick_azureml.backend().deploy(trained, CONFIG, name="faulty") as endpoint:
        assert endpoint.status == "ready"


def test_a_process_that_dies_in_a_deploy_leaves_nothing_that_cleanup_does_not_find(
    subscription: AzureEmulator, trained: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is there to undo what was made: what is refused is also every deletion."""
    monkeypatch.setattr(Claim, "dead_seconds", 0.0)  # ten minutes later
    before = _left(subscription)
    for path in ("/onlineEndpoints/orphan$", "/deployments/", "/autoscalesettings/"):
        subscription.fault(method="PUT", path=path, status=403, code="AuthorizationFailed", times=None)
        subscription.fault(method="DELETE", status=403, code="AuthorizationFailed", times=None)
        with pytest.raises(AccessError):
            quick_azureml.backend().deploy(trained, CONFIG, name="orphan")
        subscription.clear_faults()
        quick_azureml.backend().cleanup()
        assert _left(subscription) == before, path
