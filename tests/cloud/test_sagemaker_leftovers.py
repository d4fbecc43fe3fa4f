"""A deploy that is refused or cut off at any of its calls leaves nothing behind that costs money or is not found."""

from __future__ import annotations

import pytest
import quick_sagemaker
from aws.handle import Emulator

from medimg.artifact import ModelFolder
from medimg.config import ServeConfig
from medimg.errors import AccessError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("account")]

REGION = "ap-northeast-2"
OURS = (
    "models",
    "endpoint_configs",
    "endpoints",
    "functions",
    "apis",
    "schedules",
    "scalable_targets",
    "ssm_parameters",
)


@pytest.mark.parametrize("kind", ["realtime", "lambda", "serverless with an address"])
def test_a_deploy_that_fails_at_any_call_leaves_nothing_behind(
    account: Emulator, trained: ModelFolder, kind: str
) -> None:
    """Each call of a deploy is refused in turn; after `cleanup` nothing of ours is there, and the next deploy works."""
    config = ServeConfig(
        kind=kind.split()[0],  # type: ignore[arg-type]
        ttl_hours=1.0,
        http_api=" " in kind,
        max_instances=2 if kind == "realtime" else 1,
    )
    backend = quick_sagemaker.backend()
    # The first deploy makes the bucket and uploads the archive; what is refused is what every deploy does. A registered
    # model keeps its archive when endpoints are cleaned up, so that it is not made and uploaded for each call.
    backend.register(trained, name="kept")
    backend.deploy(trained, config, name="faulty").delete()
    account.mark()
    backend.deploy(trained, config, name="faulty").delete()
    calls = [
        call["operation"] for call in account.calls() if call["operation"].startswith(("Create", "Put", "Register"))
    ]
    made = [operation for operation in dict.fromkeys(calls) if operation != "PutObject"]
    assert {"CreateSchedule"} < set(made)
    left: dict[str, dict[str, list[str]]] = {}
    for operation in made:
        for number in range(1, min(2, calls.count(operation)) + 1):
            account.faults(fail=(operation, number, "AccessDeniedException"))
            with pytest.raises(AccessError, match="may not do"):
                quick_sagemaker.backend().deploy(trained, config, name="faulty")
            account.clear_faults()
            assert quick_sagemaker.backend().endpoints() == (), (
                f"after {operation} an endpoint is left that may cost money"
            )
            quick_sagemaker.backend().cleanup(kinds=["endpoint"])
            state = account.state(REGION)
            found = {name: state[name] for name in OURS if state.get(name)}
            if found:
                left[f"{operation} {number}"] = found
    assert not left
    quick_sagemaker.backend().cleanup()
    assert quick_sagemaker.backend().inventory() == ()
    with quick_sagemaker.backend().deploy(trained, config, name="faulty") as endpoint:
        assert endpoint.status == "ready"


def test_a_process_that_dies_in_a_deploy_leaves_nothing_that_cleanup_does_not_find(
    account: Emulator, trained: ModelFolder
) -> None:
    """Nobody is there to undo what was made: the calls after the one where it died are refused, deletions too."""
    config = ServeConfig(ttl_hours=1.0, http_api=True)
    for operation in ("CreateFunction", "CreateModel", "CreateEndpointConfig", "CreateEndpoint"):
        deletions = [
            (f"Delete{what}", n, "AccessDeniedException")
            for n in range(1, 30)
            for what in ("Function", "Api", "Parameter", "Model", "EndpointConfig", "Endpoint", "Schedule")
        ]
        account.faults(fail=[(operation, 1, "AccessDeniedException"), *deletions])
        with pytest.raises(AccessError):
            quick_sagemaker.backend().deploy(trained, config, name="orphan")
        account.clear_faults()
        quick_sagemaker.backend().cleanup()
        state = account.state(REGION)
        assert not {name: state[name] for name in OURS if state.get(name)}, operation
