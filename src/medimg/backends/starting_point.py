"""A model trained before as the starting point of another: what is taken from it, and what must agree."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medimg.artifact import ModelFolder
from medimg.config import TrainConfig
from medimg.errors import WeightsError
from medimg.models.registry import architecture, describe, is_own

__all__ = ["Start", "settled"]

# What the weights learned to see: unlike it, they are of little use.
_TAKEN = ("image_size", "normalisation")


@dataclass(frozen=True)
class Start:
    """What a training begins from.

    Attributes:
        config: The configuration, with all that the starting point decides.
        model: The model trained before; None where it starts from published weights, a file, or nothing.
    """

    config: TrainConfig
    model: ModelFolder | None = None

    @property
    def notices(self) -> tuple[str, ...]:
        """What the report should say of it."""
        if self.model is None:
            return ()
        classes = ", ".join(self.model.record.classes)
        return (
            f"The network starts from the weights of a model trained before ({self.model.digest[:12]}; {classes}).",
        )

    def check_channels(self, channels: int) -> None:
        """Checks that the images are as those before where the network has no grey and colour form of one backbone.

        Raises:
            WeightsError: The first were grey and these are in colour, or the other way round.
        """
        if self.model is None or architecture(self.config.model).application is not None:
            return
        before = self.model.record.preprocessing.channels
        if before != channels:
            kinds = {1: "grey", 3: "colour"}
            raise WeightsError(
                f"weights={str(self.model.path)!r}: this model was trained on {kinds[before]} images, and these are "
                f"{kinds[channels]}: the first layer of {self.config.model} does not fit. Networks of "
                "keras.applications, such as mobilenet_v2, take either"
            )


def settled(config: TrainConfig) -> Start:
    """Returns what a training begins from.

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
        return Start(config)
    path = Path(str(config.weights)).expanduser()
    if not path.is_dir():
        return Start(config)
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
    return Start(config, model)


def _check_network(path: Path, before: TrainConfig, config: TrainConfig) -> None:
    trained, asked = before.model, config.model
    if not is_own(asked) and not is_own(trained):
        (trained, _), (asked, _) = describe(before), describe(config)
    if trained != asked:
        raise WeightsError(
            f"weights={str(path)!r}: this model is {trained}, but the configuration asks for {asked}. Leave model and "
            "model_options out, and they are taken from it"
        )
