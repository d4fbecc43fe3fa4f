"""What a model is: the content of its `medimg.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from medimg.config import Normalisation, Task, TrainConfig

if TYPE_CHECKING:
    from medimg.data.decode import ImageLike
    from medimg.data.pixels import Pixels

__all__ = ["Calibration", "ModelRecord", "Preprocessing"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Preprocessing(_Frozen):
    """From decoded pixels to the network's input; the rest is inside the network.

    Attributes:
        image_size: Side of the square that images are resized to (antialiased, aspect not kept), in pixels.
        channels: 1 turns colour into grey by ITU-R 601 luma, 3 repeats grey three times.
        normalisation: What is done to brightness then: see `medimg.data.normalise`.
    """

    image_size: int
    channels: Literal[1, 3]
    normalisation: Normalisation | None = None

    def prepare(self, image: ImageLike, *, name: str | None = None) -> Pixels:
        """Returns an image as the network takes it: uint8 (height, width, channels).

        Args:
            image: Anything that `medimg.data.decode.to_pixels` takes.
            name: What to call it in an error.

        Raises:
            ImageRejected: It cannot be read.
        """
        from medimg.data.decode import to_pixels

        pixels = to_pixels(image, name=name, size=(self.image_size, self.image_size))
        one: Pixels = self.prepare_batch(pixels[None] if pixels.ndim == 3 else pixels[None, ..., None])[0]
        return one

    def prepare_batch(self, images: Pixels) -> Pixels:
        """Returns images that have their size, uint8 (n, height, width, 1 or 3), as the network takes them."""
        import numpy as np

        from medimg.data.normalise import normalise
        from medimg.data.pixels import as_mode

        if images.shape[-1] != self.channels:
            images = np.stack([as_mode(image, self.channels) for image in images])
        return normalise(images, self.normalisation)


class Calibration(_Frozen):
    """What was built into a network's last layer: logits divided by the temperature, then the shift added.

    Attributes:
        method: "platt" or "temperature".
        temperature: Class to what its logit is divided by; above 1 the network was too sure of itself. Multiclass has
            one for all, under "".
        shift: Class to what is added to its logit then; empty where nothing is.
        nll_before: Mean negative log-likelihood of the known labels of validation as trained, in nats.
        nll_after: The same with the calibration, on the images it was fitted on.
        images: Validation images.
    """

    method: Literal["platt", "temperature"]
    temperature: dict[str, float]
    shift: dict[str, float] = Field(default_factory=dict)
    nll_before: float
    nll_after: float
    images: int


class ModelRecord(_Frozen):
    """The content of `medimg.json`.

    Attributes:
        format: Of this file.
        classes: Names, in the order of the probabilities.
        task: "binary", "multiclass" or "multilabel".
        positive: For binary, the class that the network's one output is the probability of.
        preprocessing: From pixels to input.
        thresholds: Class to the probability from which it is called positive; empty for multiclass.
        uncertain: Class to the band of probabilities, ends included, in which another draw of validation patients might
            have decided otherwise; only classes whose threshold was chosen.
        conformal: Multiclass: the probability from which a class is in the set that holds the true one in 90% of
            images; None where validation is too small, and for other tasks.
        calibration: What was built into the last layer so that probabilities mean frequencies, or None.
        config: How it was trained.
        data: Fingerprint of the dataset and counts by split and class.
        metrics: Split to name to value.
        versions: Package to version, of the environment that trained it.
        runtimes: Runtime to its file or folder.
        missing: Runtime to why it is not there.
        job: The job that made it.
        created: UTC, ISO 8601.
        notices: What its users should know.
    """

    format: Literal[1] = 1
    classes: tuple[str, ...]
    task: Task
    positive: str | None = None
    preprocessing: Preprocessing
    thresholds: dict[str, float] = Field(default_factory=dict)
    uncertain: dict[str, tuple[float, float]] = Field(default_factory=dict)
    conformal: float | None = None
    calibration: Calibration | None = None
    config: TrainConfig
    data: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, dict[str, float | None]] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    runtimes: dict[str, str] = Field(default_factory=dict)
    missing: dict[str, str] = Field(default_factory=dict)
    job: str = ""
    created: str = ""
    notices: tuple[str, ...] = ()

    @field_validator("config", mode="before")
    @classmethod
    def _as_trained(cls, value: Any) -> Any:
        """Fills in what a record of an older medimg does not name: what was done then, not today's defaults."""
        return {"calibration": None, "cases": 0, **value} if isinstance(value, Mapping) else value
