"""The table of architectures: what each is called, takes and needs. Free of Keras, for the user's process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from medimg.config import TrainConfig
from medimg.errors import ConfigError, did_you_mean

__all__ = [
    "Architecture",
    "Option",
    "WeightsFile",
    "architecture",
    "available",
    "check",
    "describe",
    "name_by_convolutions",
    "option",
]


@dataclass(frozen=True)
class Option:
    """One entry of `model_options`: a number in a range.

    Attributes:
        default: Used where the user says nothing.
        low: Smallest value.
        high: Largest value.
        pretrained: The values for which ImageNet weights are published.
    """

    default: float
    low: float
    high: float
    pretrained: tuple[float, ...]


@dataclass(frozen=True)
class WeightsFile:
    """A file of ImageNet weights without the top, as Keras publishes it.

    Attributes:
        folder: Folder under the base address.
        name: Name there and in Keras' cache.
        md5: Keras' own hash; None where Keras has none.
    """

    folder: str
    name: str
    md5: str | None


@dataclass(frozen=True)
class Architecture:
    """What is known of a network without building it.

    Attributes:
        builder: `module:function` that builds it.
        min_size: Smallest image side, in pixels.
        options: What `model_options` may hold.
        imagenet: The file to ask for under a configuration; None: trains from scratch only.
        convolutions: Number of convolution weights, by the value of the option (None: without options). It tells
            networks apart in a file that does not say what it holds.
    """

    builder: str
    min_size: int
    options: Mapping[str, Option] = field(default_factory=dict)
    imagenet: Callable[[TrainConfig], WeightsFile] | None = None
    convolutions: Mapping[float | None, int] = field(default_factory=dict)


def _mobilenet_v2_file(config: TrainConfig) -> WeightsFile:
    # Keras trained these at five resolutions; any other size takes the weights of 224.
    size = config.image_size if config.image_size in (96, 128, 160, 192, 224) else 224
    alpha = option(config, "alpha")
    name = f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{alpha}_{size}_no_top.h5"
    return WeightsFile("mobilenet_v2", name, md5=None)


_ARCHITECTURES: Mapping[str, Architecture] = {
    "mobilenet_v2": Architecture(
        builder="medimg.models.backbones:mobilenet_v2",
        min_size=32,
        options={"alpha": Option(1.0, low=0.1, high=2.0, pretrained=(0.35, 0.5, 0.75, 1.0, 1.3, 1.4))},
        imagenet=_mobilenet_v2_file,
        convolutions={0.35: 382_048, 0.5: 669_136, 0.75: 1_328_784, 1.0: 2_189_760, 1.3: 3_677_536, 1.4: 4_267_840},
    ),
    "efficientnetv2-b0": Architecture(
        builder="medimg.models.backbones:efficientnetv2_b0",
        min_size=32,
        imagenet=lambda _: WeightsFile(
            "efficientnet_v2", "efficientnetv2-b0_notop.h5", md5="893217f2bb855e2983157299931e43ff"
        ),
        convolutions={None: 5_784_576},
    ),
    "densenet121": Architecture(
        builder="medimg.models.backbones:densenet121",
        min_size=32,
        imagenet=lambda _: WeightsFile(
            "densenet",
            "densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5",
            md5="30ee3e1110167f948a6b9946edeeb738",
        ),
        convolutions={None: 6_870_208},
    ),
    "inception_v3": Architecture(
        builder="medimg.models.backbones:inception_v3",
        min_size=75,
        imagenet=lambda _: WeightsFile(
            "inception_v3",
            "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5",
            md5="bcbd6486424b2319ff4ef7d526e38f63",
        ),
        convolutions={None: 21_751_136},
    ),
    "mini_xception": Architecture(builder="medimg.models.small:mini_xception", min_size=16),
    "small_cnn": Architecture(builder="medimg.models.small:small_cnn", min_size=16),
}


def available() -> tuple[str, ...]:
    """Returns the names that `TrainConfig.model` takes, sorted."""
    return tuple(sorted(_ARCHITECTURES))


def architecture(name: str) -> Architecture:
    """Returns what is known of a network.

    Raises:
        ConfigError: No network has that name; the message says which is nearest.
    """
    if name not in _ARCHITECTURES:
        raise ConfigError(f"model={name!r}: there is no such network.{did_you_mean(name, _ARCHITECTURES)}")
    return _ARCHITECTURES[name]


def option(config: TrainConfig, name: str) -> float:
    """Returns an option's value under a configuration that `check` accepts."""
    return float(config.model_options.get(name, architecture(config.model).options[name].default))


def check(config: TrainConfig) -> None:
    """Checks that the configuration names a network that can be built.

    Raises:
        ConfigError: An unknown network or option, a value out of range, an image too small, weights that do not
            exist for this network, or fine-tuning without a pretrained backbone.
    """
    network = architecture(config.model)
    for name, value in config.model_options.items():
        if name not in network.options:
            known = did_you_mean(name, network.options) or " It takes none: model_options={}."
            raise ConfigError(f"model_options: {config.model} has no option {name!r}.{known}")
        _check_value(config, name, value, network.options[name])
    if config.image_size < network.min_size:
        raise ConfigError(
            f"image_size={config.image_size}: {config.model} needs at least {network.min_size} pixels. "
            f"Set image_size={network.min_size} or more"
        )
    if config.fine_tune_epochs and config.weights is None and network.imagenet is not None:
        raise ConfigError(
            f"fine_tune_epochs={config.fine_tune_epochs}: with weights=None there is nothing to fine-tune, `epochs` "
            "trains the whole network. Set fine_tune_epochs=0, or weights='imagenet'"
        )
    if network.imagenet is None:
        if config.weights is not None:
            raise ConfigError(
                f"weights={config.weights!r}: {config.model} has no pretrained weights, it trains from scratch. "
                f"Set weights=None: TrainConfig(model={config.model!r}, weights=None)"
            )
        if config.fine_tune_epochs:
            raise ConfigError(
                f"fine_tune_epochs={config.fine_tune_epochs}: {config.model} has no pretrained backbone, `epochs` "
                "trains all of it. Set fine_tune_epochs=0"
            )


def _check_value(config: TrainConfig, name: str, value: object, known: Option) -> None:
    label = f"model_options: {config.model}'s {name}={value!r}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{label} must be a number, such as {known.default}")
    if not known.low <= value <= known.high:
        raise ConfigError(f"{label} must lie between {known.low} and {known.high}")
    if config.weights == "imagenet" and value not in known.pretrained:
        raise ConfigError(
            f"{label}: ImageNet weights exist for {', '.join(map(str, known.pretrained))}. "
            "Take one of these, or weights=None"
        )


def describe(config: TrainConfig) -> tuple[str, int | None]:
    """Returns the network in words and its number of convolution weights (None: not in the table)."""
    network = architecture(config.model)
    if not network.options:
        return config.model, network.convolutions.get(None)
    values = {name: option(config, name) for name in network.options}
    words = ", ".join(f"{name}={value}" for name, value in values.items())
    return f"{config.model} with {words}", network.convolutions.get(next(iter(values.values())))


def name_by_convolutions(count: int) -> str | None:
    """Returns the network that has so many convolution weights, in the words of `describe`, or None."""
    for name, network in _ARCHITECTURES.items():
        for value, convolutions in network.convolutions.items():
            if convolutions == count:
                return name if value is None else f"{name} with {next(iter(network.options))}={value}"
    return None
