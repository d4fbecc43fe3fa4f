"""What a user decides, as frozen models that travel as JSON."""

from __future__ import annotations

import json
import os
import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from medimg.errors import ConfigError, did_you_mean

__all__ = ["Augment", "Finding", "JobSpec", "Resources", "ServeConfig", "ThresholdPolicy", "TrainConfig"]

Task = Literal["binary", "multiclass", "multilabel"]

Framework = Literal["tensorflow", "jax"]
"""What Keras computes with: see `medimg.framework`."""

Normalisation = Literal["percentile", "clahe"]
"""Ways to bring grey levels to a common scale: see `medimg.data.normalise.normalise`."""


def _literals(annotation: Any) -> set[str]:
    """Returns every string that a field's Literal types admit."""
    if get_origin(annotation) is Literal:
        return {value for value in get_args(annotation) if isinstance(value, str)}
    if get_origin(annotation) in (Union, types.UnionType, Annotated):
        return set().union(*(_literals(part) for part in get_args(annotation)))
    return set()


class Settings(BaseModel):
    """A frozen set of settings; a mistake raises `ConfigError` with the nearest right name."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _explain(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(data)
        except ValidationError as error:
            lines = [cls._line(problem) for problem in error.errors()]
            # ConfigError is no ValueError, so pydantic lets it through unchanged.
            raise ConfigError("\n".join(dict.fromkeys(lines))) from None

    @classmethod
    def _line(cls, problem: Any) -> str:
        name = str(problem["loc"][0]) if problem["loc"] else ""
        if problem["type"] == "extra_forbidden":
            return f"{cls.__name__} has no setting {name!r}.{did_you_mean(name, cls.model_fields)}"
        value = problem["input"]
        field = cls.model_fields.get(name)
        hint = ""
        if field is not None and isinstance(value, str) and (known := _literals(field.annotation)):
            hint = did_you_mean(value, known)
        message = problem["msg"].removeprefix("Value error, ")
        return f"{cls.__name__}.{name}={value!r}: {message}.{hint}" if name else f"{cls.__name__}: {message}"


class Augment(Settings):
    """Random changes of training images; never of validation or test images.

    Attributes:
        flip: "horizontal", "vertical", "both" or None. Radiographs are not symmetric: the default is None.
        rotation: Largest rotation either way, in degrees.
        translation: Largest shift, as a fraction of the image's side.
        zoom: Largest zoom in or out, as a fraction.
        stretch: Largest share of the height, and by another draw of the width, that is cut off before what is left is
            stretched to the square again. It hides the proportions that pictures had before they were squashed.
        brightness: Largest shift of brightness, as a fraction of the full range.
        contrast: Largest relative change of contrast.
        views: Changed copies of each training image that a head on a frozen backbone learns from, beside the image
            itself. The backbone's features are computed once for each, so that 2 views take three times as long; 0:
            such a head sees no augmentation.
    """

    flip: Literal["horizontal", "vertical", "both"] | None = None
    rotation: float = Field(7.0, ge=0, le=180)
    translation: float = Field(0.05, ge=0, lt=1)
    zoom: float = Field(0.1, ge=0, lt=1)
    stretch: float = Field(0.0, ge=0, lt=1)
    brightness: float = Field(0.1, ge=0, le=1)
    contrast: float = Field(0.2, ge=0, lt=1)
    views: int = Field(0, ge=0, le=10)


class ThresholdPolicy(Settings):
    """What a decision threshold must do on validation: one of a sensitivity, a specificity, or two costs.

    Attributes:
        sensitivity: The highest threshold that finds at least this share of the images with the finding.
        specificity: The lowest threshold that clears at least this share of the images without it.
        miss: Cost of a missed finding, in the same unit as `false_alarm`; the cheapest threshold is taken.
        false_alarm: Cost of a false alarm.
    """

    sensitivity: float | None = Field(None, gt=0, lt=1)
    specificity: float | None = Field(None, gt=0, lt=1)
    miss: float | None = Field(None, gt=0)
    false_alarm: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _one_aim(self) -> Self:
        given = tuple(name for name in type(self).model_fields if getattr(self, name) is not None)
        if given not in (("sensitivity",), ("specificity",), ("miss", "false_alarm")):
            raise ValueError(
                f"give one aim: sensitivity, or specificity, or miss and false_alarm together; "
                f"given: {', '.join(given) or 'nothing'}"
            )
        return self

    @model_serializer
    def _given(self) -> dict[str, float]:
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in values.items() if value is not None}

    def __str__(self) -> str:
        if self.sensitivity is not None:
            return f"a sensitivity of at least {self.sensitivity:g}"
        if self.specificity is not None:
            return f"a specificity of at least {self.specificity:g}"
        return f"the lowest cost, a miss at {self.miss:g} and a false alarm at {self.false_alarm:g}"


class TrainConfig(Settings):
    """How a classifier is trained.

    Attributes:
        model: A registered architecture (see `medimg.models.available()`), any network of `keras.applications` by its
            name there, or a network of your own as "module:function": its code travels with the job.
        model_options: Options of that architecture, such as `{"alpha": 0.35}` for MobileNet.
        weights: What to start from: "imagenet", a trained `ModelFolder` or its path, the path of a weights file, or
            None to train from scratch, as a network of your own does unless you say otherwise. Of a trained model the
            backbone is taken, and `model`, `model_options`, `image_size` and `normalisation` unless you give them.
        image_size: Side of the square that images are resized to, in pixels.
        normalisation: What is done to brightness before the network sees an image, in training and ever after:
            "percentile" (the darkest 1% become black, the brightest 1% white), "clahe" (contrast evened out tile by
            tile), or None.
        epochs: Largest number of passes over train: of the head on frozen features, or of the whole network when
            `weights` is None.
        fine_tune_epochs: Passes in which the top of the backbone is trained too, after the head. 0: none.
        fine_tune_fraction: Share of the backbone's layers, from the top, that fine-tuning trains.
        batch_size: Images a step, over all devices together.
        learning_rate: Adam's step size, of a head on frozen features or from scratch.
        fine_tune_learning_rate: Adam's step size in fine-tuning.
        dropout: Share of features dropped before the last layer.
        augment: True (the defaults of `Augment`), False, or an `Augment`. Acts where the backbone is trained, and on a
            frozen one by `Augment.views`.
        class_weight: "balanced" gives every class the same total weight, except that no image weighs more than 10, so
            that the few images of a rare class do not rule training; None weighs every image alike.
        early_stopping: Epochs without a better validation loss before training stops; None: never.
        precision: "auto" is float32 on CPU and mixed_bfloat16 on GPUs that have it.
        threshold: How the decision threshold is chosen on validation: "youden" (the largest sensitivity +
            specificity), a `ThresholdPolicy` such as `{"sensitivity": 0.95}`, or a fixed probability.
        calibration: What makes probabilities mean frequencies, fitted on validation and built into the network's last
            layer: "platt" corrects spread and level (multiclass: the spread, so that the most probable class stays),
            "temperature" the spread only; None leaves them as trained. None changes the order of images.
        cases: Images of each kind (surely right, surely wrong, least certain) that the report shows with what the
            network saw in them. They are pixels of test, or else validation images, and go wherever the whole model
            folder goes: into a cloud's storage, and into the container of a SageMaker endpoint or an AzureML
            deployment; 0 leaves them out.
        ordinal: Whether the classes, in the order of their names, are grades: the report of a multiclass task then
            gives kappa, where a near miss counts less.
        seed: Of weights, data order, dropout and augmentation. Not of splits: where the dataset has none they are
            drawn the same way every time, so that runs with different seeds are judged on the same test images.
    """

    model: str = "mobilenet_v2"
    model_options: dict[str, Any] = Field(default_factory=dict)
    weights: str | None = "imagenet"
    image_size: int = Field(224, ge=16, le=2048)
    normalisation: Normalisation | None = None
    epochs: int = Field(10, ge=1)
    fine_tune_epochs: int = Field(0, ge=0)
    fine_tune_fraction: float = Field(0.3, gt=0, le=1)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    fine_tune_learning_rate: float = Field(1e-5, gt=0)
    dropout: float = Field(0.2, ge=0, lt=1)
    augment: bool | Augment = True
    class_weight: Literal["balanced"] | None = "balanced"
    early_stopping: int | None = Field(3, ge=1)
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = "auto"
    threshold: Literal["youden"] | float | ThresholdPolicy = "youden"
    calibration: Literal["platt", "temperature"] | None = "platt"
    cases: int = Field(6, ge=0, le=24)
    ordinal: bool = False
    seed: int = Field(0, ge=0, lt=2**31)

    @model_validator(mode="before")
    @classmethod
    def _own_from_scratch(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "weights" not in data:
            model = data.get("model")
            if isinstance(model, types.FunctionType) or ":" in str(model):
                return {**data, "weights": None}
        return data

    @field_validator("model", mode="before")
    @classmethod
    def _function_as_text(cls, value: Any) -> Any:
        return f"{value.__module__}:{value.__qualname__}" if isinstance(value, types.FunctionType) else value

    @field_validator("weights", mode="before")
    @classmethod
    def _path_as_text(cls, value: Any) -> Any:
        return os.fspath(value) if hasattr(value, "__fspath__") else value

    @field_validator("threshold", mode="before")
    @classmethod
    def _known_policy(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            return ThresholdPolicy(**value)
        fixed = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1
        if not (fixed or value == "youden" or isinstance(value, ThresholdPolicy)):
            raise ValueError(
                'must be "youden", a probability over 0 and under 1, {"sensitivity": 0.95}, {"specificity": 0.9}, or '
                '{"miss": 10, "false_alarm": 1}'
            )
        return value

    @field_validator("model_options")
    @classmethod
    def _json_only(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"must be JSON values: {error}") from None
        return value

    @property
    def augmentation(self) -> Augment | None:
        """The augmentation to apply, or None."""
        if isinstance(self.augment, Augment):
            return self.augment
        return Augment() if self.augment else None

    @property
    def views(self) -> int:
        """Changed copies of each training image that a frozen backbone is asked about too."""
        return self.augmentation.views if self.weights is not None and self.augmentation is not None else 0


class Resources(Settings):
    """What a job may use.

    Attributes:
        instance: The cloud's name of a machine; None: the backend's default. The local backend has one machine.
        count: Machines.
        spot: Whether to use interruptible capacity; training resumes from its checkpoint.
        max_hours: A job that runs longer is stopped.
        disk_gb: Disk of the machine, in gigabytes.
    """

    instance: str | None = None
    count: int = Field(1, ge=1)
    spot: bool = False
    max_hours: float = Field(24.0, gt=0)
    disk_gb: int = Field(50, ge=1)


class ServeConfig(Settings):
    """How an endpoint is served.

    Attributes:
        kind: "realtime" keeps a machine; "serverless" and "lambda" are for clouds that have them.
        instance: The cloud's name of a machine; None: the backend's default.
        min_instances: Machines that always run.
        max_instances: Machines at the highest load.
        memory_mb: Of "serverless" and "lambda"; None: the backend's default.
        ttl_hours: The endpoint deletes itself after this many hours, also when nobody is there. None: never.
        http_api: Whether an HTTP address that takes an API key is put in front of a "realtime" or "serverless"
            endpoint; "lambda" and the local backend always have one.
        url_hosts: Hosts from which an HTTP address may fetch an image that it is given as {"url": …}; none by default.
        auth: "key": requests carry an API key. "none": anyone who reaches the endpoint may ask.
        rate_limit: Requests a second that the local backend takes from each key that was handed out (`medimg keys
            add`), and ten seconds' worth at once; None: any number. The owner's own key is not limited.
        runtime: "int8" has the local backend serve that export of the model (`model.export("int8", dataset)`).
    """

    kind: Literal["realtime", "serverless", "lambda"] = "realtime"
    instance: str | None = None
    min_instances: int = Field(1, ge=0)
    max_instances: int = Field(1, ge=1)
    memory_mb: int | None = Field(None, ge=128)
    ttl_hours: float | None = Field(None, gt=0)
    http_api: bool = False
    url_hosts: tuple[str, ...] = ()
    auth: Literal["key", "none"] = "key"
    # A person sends one a second, a program with eight connections fills a machine of two cores with some 300: no key
    # takes the whole of the smallest machine from the others.
    rate_limit: float | None = Field(100.0, gt=0)
    runtime: Literal["litert", "int8"] = "litert"


class Finding(Settings):
    """What one check of the data found. It travels: no file and no patient is named in it.

    Attributes:
        check: Name of the check: what `allow` takes to go on in spite of an error.
        level: "error" stops training unless it is allowed; "warning" is to be weighed; "fine"; "unknown" where the
            data do not allow the check, such as too few images.
        message: One sentence or two: what was seen, and what to do.
    """

    check: str
    level: Literal["error", "warning", "fine", "unknown"]
    message: str


class JobSpec(Settings):
    """All that a job is told: written by a backend, read by `python -m medimg.train` or `medimg.predict`.

    Attributes:
        kind: "train" makes a model folder; "predict" makes a table of predictions.
        base: Name of the job without its attempt; a hash of configuration, data and code is in it.
        attempt: 1 for the first submit; one more after a failure or with `force=True`.
        checkpoints: Name under which checkpoints are kept; attempts after a failure share it.
        config: How to train; None for predictions.
        resources: What the job may use.
        data: Fingerprint of the dataset.
        pack: Address of the packed dataset.
        samples: Name of the pack's manifest that says which image each row is.
        inputs: Role to name in the inputs folder: "weights", "code", "model".
        split: The split to predict; None: all.
        rejected: Of a prediction, the images that could not be read: sample id to the code of why.
        code: Hash of the medimg that submitted the job.
        notices: What was done to the data before the submit; it goes into the report.
        audit: What the checks of the data found, the fine ones too; it goes into the report.
        allow: Checks that were overridden by name.
        timings: Stage to seconds of what the submit did before, such as packing.
        workload: Of a training, what its time and price depend on: `model`, `image_size`, `images`, `epochs`, `views`.
        framework: Of a training, what Keras computes with.
    """

    kind: Literal["train", "predict"] = "train"
    base: str
    attempt: int = Field(1, ge=1)
    checkpoints: str
    config: TrainConfig | None = None
    resources: Resources = Resources()
    data: str
    pack: str
    samples: str
    inputs: dict[str, str] = Field(default_factory=dict)
    split: str | None = None
    rejected: dict[str, str] = Field(default_factory=dict)
    code: str
    notices: tuple[str, ...] = ()
    audit: tuple[Finding, ...] = ()
    allow: tuple[str, ...] = ()
    timings: dict[str, float] = Field(default_factory=dict)
    workload: dict[str, str | int] = Field(default_factory=dict)
    framework: Framework = "tensorflow"

    @property
    def id(self) -> str:
        """The job's name: what `backend.job(…)` takes."""
        return f"{self.base}-{self.attempt}"

    @property
    def module(self) -> str:
        """The module that does the job."""
        return f"medimg.{self.kind}"
