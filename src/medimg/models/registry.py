"""The table of architectures: what each is called, takes and needs. Free of Keras, for the user's process."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from medimg.config import TrainConfig
from medimg.errors import ConfigError, did_you_mean
from medimg.models.applications import APPLICATIONS, Application, WeightsFile, canonical

__all__ = [
    "Architecture",
    "Option",
    "architecture",
    "available",
    "check",
    "describe",
    "imagenet",
    "is_own",
    "network_of",
    "option",
]

OWN = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
"""How a network of the user's own is named: `module:function`."""


@dataclass(frozen=True)
class Option:
    """One entry of `model_options`: a number in a range.

    Attributes:
        default: Used where the user says nothing.
        low: Smallest value.
        high: Largest value.
        convolutions: Each value for which ImageNet weights are published, with its number of convolution weights.
    """

    default: float
    low: float
    high: float
    convolutions: Mapping[float, int]


@dataclass(frozen=True)
class Architecture:
    """What is known of a network without building it.

    Attributes:
        name: What it is called, whatever spelling was asked for.
        builder: `module:function` that builds it.
        min_size: Smallest image side, in pixels.
        application: The network of `keras.applications` that it is; None: none, so without ImageNet weights.
        options: What `model_options` may hold.
        has_backbone: Whether its weights can be taken over from a trained one, under a new head.
    """

    name: str
    builder: str
    min_size: int
    application: Application | None = None
    options: Mapping[str, Option] = field(default_factory=dict)
    has_backbone: bool = True


def _of(application: Application, name: str, options: Mapping[str, Option] | None = None) -> Architecture:
    builder = "medimg.models.backbones:application"
    return Architecture(name, builder, application.min_size, application, options or {})


_ALPHA = Option(
    1.0, low=0.1, high=2.0,
    convolutions={0.35: 382_048, 0.5: 669_136, 0.75: 1_328_784, 1.0: 2_189_760, 1.3: 3_677_536, 1.4: 4_267_840},
)  # fmt: skip

_TRIED = (
    _of(APPLICATIONS["MobileNetV2"], "mobilenet_v2", {"alpha": _ALPHA}),
    _of(APPLICATIONS["MobileNetV3Small"], "mobilenet_v3_small"),
    _of(APPLICATIONS["EfficientNetV2B0"], "efficientnetv2-b0"),
    _of(APPLICATIONS["EfficientNetV2S"], "efficientnetv2-s"),
    _of(APPLICATIONS["DenseNet121"], "densenet121"),
    _of(APPLICATIONS["ResNet50"], "resnet50"),
    _of(APPLICATIONS["InceptionV3"], "inception_v3"),
    _of(APPLICATIONS["Xception"], "xception"),
    _of(APPLICATIONS["ConvNeXtTiny"], "convnext_tiny"),
    Architecture("mini_xception", "medimg.models.small:mini_xception", min_size=16, has_backbone=False),
    Architecture("small_cnn", "medimg.models.small:small_cnn", min_size=16),
)

# Ours come last: they replace Keras' spelling of the same network.
_ARCHITECTURES: Mapping[str, Architecture] = {
    canonical(network.name): network
    for network in [*(_of(application, name) for name, application in APPLICATIONS.items()), *_TRIED]
}


def available() -> tuple[str, ...]:
    """Returns the names that `TrainConfig.model` takes beside those of `keras.applications`, sorted.

    Each is taken through training, saving and every export by the tests. Any other network of `keras.applications`
    goes by its name there, such as `EfficientNetB3` or `efficientnet_b3`.
    """
    return tuple(sorted(network.name for network in _TRIED))


def is_own(name: str) -> bool:
    """Tells whether a name is that of a user's own network, `module:function`."""
    return ":" in name


def architecture(name: str) -> Architecture:
    """Returns what is known of a network.

    Raises:
        ConfigError: No network has that name; the message says which is nearest.
    """
    if is_own(name):
        if not OWN.fullmatch(name):
            raise ConfigError(
                f"model={name!r}: a network of your own is named module:function, such as 'my_networks:build_net' for "
                "the function build_net in my_networks.py"
            )
        return Architecture(name, name, min_size=16)
    found = _ARCHITECTURES.get(canonical(name))
    if found is None:
        hint = did_you_mean(name, [network.name for network in _ARCHITECTURES.values()])
        if "Did you mean" not in hint:
            hint = (
                f"{did_you_mean(name, available())[:-1]}; any network of keras.applications, by its name there; and "
                "'module:function' for one of your own."
            )
        raise ConfigError(f"model={name!r}: there is no such network.{hint}")
    return found


def option(config: TrainConfig, name: str) -> float:
    """Returns an option's value under a configuration that `check` accepts."""
    return float(config.model_options.get(name, architecture(config.model).options[name].default))


def imagenet(config: TrainConfig) -> WeightsFile | None:
    """Returns the file that Keras publishes for a configuration that `check` accepts; None: there is none."""
    network = architecture(config.model)
    if network.application is None:
        return None
    alpha = option(config, "alpha") if "alpha" in network.options else 1.0
    return network.application.file(image_size=config.image_size, alpha=alpha)


def check(config: TrainConfig) -> None:
    """Checks that the configuration names a network that can be built.

    Raises:
        ConfigError: An unknown network or option, a value out of range, an image too small, weights that do not
            exist for this network, or fine-tuning without a pretrained backbone.
    """
    network = architecture(config.model)
    if not is_own(config.model):  # what its options mean is known to the user's function alone
        for name, value in config.model_options.items():
            if name not in network.options:
                known = did_you_mean(name, network.options) or " It takes none: model_options={}."
                raise ConfigError(f"model_options: {network.name} has no option {name!r}.{known}")
            _check_value(config, name, value, network.options[name])
    if config.image_size < network.min_size:
        raise ConfigError(
            f"image_size={config.image_size}: {network.name} needs at least {network.min_size} pixels. "
            f"Set image_size={network.min_size} or more"
        )
    if config.weights == "imagenet" and network.application is None:
        raise ConfigError(
            f"weights='imagenet': there are none of {network.name}, it trains from scratch. {_from_scratch(config)}"
        )
    if config.weights is not None and not network.has_backbone:
        raise ConfigError(
            f"weights={config.weights!r}: {network.name} has no part that could be taken over, it trains from scratch. "
            f"{_from_scratch(config)}"
        )
    if config.fine_tune_epochs and config.weights is None:
        instead = ", or weights='imagenet'" if network.application is not None else ""
        raise ConfigError(
            f"fine_tune_epochs={config.fine_tune_epochs}: with weights=None there is nothing to fine-tune, `epochs` "
            f"trains the whole network. Set fine_tune_epochs=0{instead}"
        )


def _from_scratch(config: TrainConfig) -> str:
    return f"Set weights=None: TrainConfig(model={config.model!r}, weights=None), or --weights none"


def _check_value(config: TrainConfig, name: str, value: object, known: Option) -> None:
    label = f"model_options: {architecture(config.model).name}'s {name}={value!r}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{label} must be a number, such as {known.default}")
    if not known.low <= value <= known.high:
        raise ConfigError(f"{label} must lie between {known.low} and {known.high}")
    if config.weights == "imagenet" and value not in known.convolutions:
        raise ConfigError(
            f"{label}: ImageNet weights exist for {', '.join(map(str, known.convolutions))}. "
            "Take one of these, or weights=None"
        )


def describe(config: TrainConfig) -> tuple[str, int | None]:
    """Returns the network in words and its number of convolution weights (None: not in the table)."""
    network = architecture(config.model)
    if not network.options:
        return network.name, network.application.convolutions if network.application else None
    name, known = next(iter(network.options.items()))
    value = option(config, name)
    return f"{network.name} with {name}={value}", known.convolutions.get(value)


def network_of(convolutions: int, vectors: int) -> str | None:
    """Returns the network that has so many convolution weights, in the words of `describe`, or None.

    Args:
        convolutions: Number of weights with four axes.
        vectors: Number of weights with one axis. ResNets of both versions have the same convolutions; the nearest is
            taken, since a top in the file adds biases of its own.
    """
    found = {words: count for words, same, count in _known() if same == convolutions}
    return min(found, key=lambda words: abs(found[words] - vectors), default=None)


def _known() -> Iterator[tuple[str, int, int]]:
    for network in _ARCHITECTURES.values():
        if network.application is None:
            continue
        vectors = network.application.vectors
        if not network.options:
            yield network.name, network.application.convolutions, vectors
        for name, known in network.options.items():
            for value, convolutions in known.convolutions.items():
                yield f"{network.name} with {name}={value}", convolutions, vectors
