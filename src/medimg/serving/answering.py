"""What answers for a server: the worker processes of a model here, or an endpoint somewhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from medimg.errors import ImageRejected
from medimg.inference.answers import refusal
from medimg.serving.requests import Images

__all__ = ["Answered", "Answering", "answer_each"]


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to one image.

    Attributes:
        answer: The JSON: `Prediction.to_json()` with the model's "digest" and "version".
        statistics: Of the prepared pixels, for monitoring; {} where the model runs elsewhere.
    """

    answer: Mapping[str, Any]
    statistics: Mapping[str, float]


class Answering(Protocol):
    """Answers images, one at a time or several at once."""

    async def answer(self, image: bytes) -> Answered:
        """Returns the answer to one image.

        Raises:
            ImageRejected: It cannot be read.
            Refused: Nothing can answer it now: 503 with Retry-After.
        """
        ...

    def model(self) -> Mapping[str, Any]:
        """Returns what GET /model tells."""
        ...

    def ready(self) -> bool:
        """Returns whether an image would be answered now."""
        ...

    async def close(self) -> None:
        """Finishes what is being answered, then ends what this started."""
        ...


def answer_each(images: Images, predict: Callable[[bytes], Mapping[str, Any]]) -> Mapping[str, Any]:
    """Returns the JSON for the images of a request, one after the other: an answer, or {"predictions": [several]}.

    Args:
        images: What the request brought.
        predict: From one image to its answer.

    Raises:
        ImageRejected: The only image cannot be read; one of several has its refusal in the list.
    """
    if not images.several:
        return predict(images.contents[0])
    found: list[Mapping[str, Any]] = []
    for image in images.contents:
        try:
            found.append(predict(image))
        except ImageRejected as rejection:
            found.append(refusal(rejection))
    return {"predictions": found}
