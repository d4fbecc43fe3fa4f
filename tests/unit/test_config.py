"""Settings refuse what cannot be, before a job is sent."""

from __future__ import annotations

from typing import Any

import pytest

from medimg.config import Augment, JobSpec, Resources, ServeConfig, Settings, ThresholdPolicy, TrainConfig
from medimg.errors import ConfigError


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize(
    ("kind", "name"),
    [(Resources, "max_hours"), (ServeConfig, "ttl_hours"), (TrainConfig, "learning_rate"), (Augment, "brightness"),
     (TrainConfig, "model_options")],
)  # fmt: skip
def test_numbers_that_json_cannot_hold_are_refused(kind: type[Settings], name: str, value: float) -> None:
    """A job would be told null."""
    given: Any = {"alpha": value} if name == "model_options" else value
    with pytest.raises(ConfigError, match=rf"{kind.__name__}\.{name}="):
        kind(**{name: given})


POLICIES: list[Any] = [
    "youden", 0.3, {"sensitivity": 0.95}, {"specificity": 0.9}, {"miss": 10.0, "false_alarm": 1.0},
]  # fmt: skip


@pytest.mark.parametrize("policy", POLICIES)
def test_a_threshold_policy_travels_in_the_job_as_it_was_written(policy: Any) -> None:
    """Only what was asked for is in the JSON, and it is read again as the same."""
    config = TrainConfig(threshold=policy)
    spec = JobSpec(base="x", checkpoints="x", config=config, data="d", pack="p", samples="s", code="c")
    assert spec.model_dump(mode="json")["config"]["threshold"] == policy
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec
    assert TrainConfig(threshold=config.threshold) == config


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("youdn", "Did you mean 'youden'"),
        (0, '{"sensitivity": 0.95}'),
        (1.0, "over 0 and under 1"),
        (True, "must be"),
        (float("nan"), "must be"),
        (None, "must be"),
        ({"sensitivty": 0.95}, "Did you mean 'sensitivity'"),
        ({"sensitivity": 95}, "ThresholdPolicy.sensitivity=95"),
        ({"sensitivity": 0.95, "specificity": 0.9}, "give one aim"),
        ({"miss": 10}, "miss and false_alarm together"),
        ({"miss": 0, "false_alarm": 1}, "ThresholdPolicy.miss=0"),
        ({}, "given: nothing"),
    ],
)
def test_a_policy_that_asks_for_nothing_possible_is_refused(policy: Any, words: str) -> None:
    """The message shows what can be asked for."""
    with pytest.raises(ConfigError) as caught:
        TrainConfig(threshold=policy)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ({"sensitivity": 0.95}, "a sensitivity of at least 0.95"),
        ({"specificity": 0.9}, "a specificity of at least 0.9"),
        ({"miss": 10, "false_alarm": 1}, "the lowest cost, a miss at 10 and a false alarm at 1"),
    ],
)
def test_a_policy_can_be_said_in_a_sentence(policy: dict[str, float], words: str) -> None:
    """Reports and notices say it so."""
    assert str(ThresholdPolicy.model_validate(policy)) == words
