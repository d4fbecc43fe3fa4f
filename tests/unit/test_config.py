"""Settings refuse what cannot be, before a job is sent."""

from __future__ import annotations

from typing import Any

import pytest

from medimg.config import Augment, Resources, ServeConfig, Settings, TrainConfig
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
