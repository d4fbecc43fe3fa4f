"""A model trained before as the starting point of another: what is taken from it, and what must agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medimg.artifact import ModelFolder
from medimg.config import TrainConfig
from medimg.errors import WeightsError
from medimg.models.registry import architecture, describe, is_own

__all__ = ["settled"]

# What the weights learned to see: unlike it, they are of little use.
_TAKEN = ("image_size", "normalisation")


def settled(config: TrainConfig) -> tuple[TrainConfig, tuple[str, ...]]:
    """Returns the configuration with all that its starting point decides, and what the report should say of it.

    The network's name is spelt in one way, so that it is the same job. Where `weights` is a model folder, its path
    becomes that of the trained network in it, and what the user did not give is as it was there: network, options,
    image size and normalisation. A user's own image size is taken; another network or normalisation is refused. Grey
    or colour follows from the images, and every backbone takes both.

    Raises:
        ConfigError: There is no such network.
        ModelFolderError: The folder is no model, or was changed.
        WeightsError: Its network or normalisation is another than the configuration asks for.
    """
    given = config.model_fields_set
    config = config.model_copy(update={"model": architecture(config.model).name})
    if config.weights in (None, "imagenet"):
        return config, ()
    path = Path(str(config.weights)).expanduser()
    if not path.is_dir():
        return config, ()
    model = ModelFolder.load(path)
    before = model.record.config
    taken: dict[str, Any] = {"weights": str(model.path / "model.keras")}
    if not {"model", "model_options"} & given:
        taken |= {"model": before.model, "model_options": before.model_options}
    seen = {
        "image_size": model.record.preprocessing.image_size,
        "normalisation": model.record.preprocessing.normalisation,
    }
    taken |= {name: seen[name] for name in _TAKEN if name not in given}
    config = config.model_copy(update=taken)
    _check_network(path, before, config)
    if config.normalisation != seen["normalisation"]:
        raise WeightsError(
            f"weights={str(path)!r}: this model was trained with normalisation={seen['normalisation']!r}, but the "
            f"configuration asks for {config.normalisation!r}: it would see other images than it learned from. Leave "
            "normalisation out, and it is taken from the model"
        )
    return config, (
        f"The network starts from the weights of a model trained before ({model.digest[:12]}; "
        f"{', '.join(model.record.classes)}).",
    )


def _check_network(path: Path, before: TrainConfig, config: TrainConfig) -> None:
    trained, asked = before.model, config.model
    if not is_own(asked) and not is_own(trained):
        (trained, _), (asked, _) = describe(before), describe(config)
    if trained != asked:
        raise WeightsError(
            f"weights={str(path)!r}: this model is {trained}, but the configuration asks for {asked}. Leave model and "
            "model_options out, and they are taken from it"
        )
