"""`Handler`: a model that has proved itself and answers requests; every server around it is a few lines."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from medimg.errors import ImageRejected
from medimg.inference.appearance import statistics
from medimg.inference.decision import Prediction
from medimg.inference.monitoring import Reference
from medimg.inference.predictor import Predictor
from medimg.serving.answering import Answered, answer_each
from medimg.serving.request_log import RequestLog, StandardOutput
from medimg.serving.requests import MAX_BODY, images_of, too_large

__all__ = ["Handler"]


@dataclass(frozen=True)
class Handler:
    """Answers images with one model. Safe to call from several threads where its runtime is.

    Attributes:
        predictor: The model and what runs it.
        version: Of the registered model, such as "chest/2"; "" where it is not known.
        worst: The largest difference on the golden inputs.
        log: Is told of each image; None: nothing is logged here.
    """

    predictor: Predictor
    version: str
    worst: float
    log: RequestLog | None = None

    @classmethod
    def proved(cls, predictor: Predictor, *, version: str = "") -> Handler:
        """Returns the handler of a model whose golden inputs come out as they were trained.

        Raises:
            RuntimeMismatchError: They do not.
        """
        return cls(predictor, version, predictor.check_golden())

    @classmethod
    def in_cloud(cls, predictor: Predictor) -> Handler:
        """Returns the handler of a model behind a cloud's own server: it logs to standard output, as that has it.

        The environment's `MEDIMG_VERSION` is the registered version, and `MEDIMG_LOG_SALT` the salt of ids in the log:
        all processes of a deployment have the same, so that an image that several of them answer counts once. Without
        it each process has its own.

        Raises:
            RuntimeMismatchError: The golden inputs do not come out as they were trained.
        """
        version, digest = os.environ.get("MEDIMG_VERSION", ""), predictor.model.digest
        worst = predictor.check_golden()
        print(f"golden inputs agree (largest difference {worst:.1e}); serving {digest[:12]}", flush=True)  # noqa: T201
        salt = os.environ.get("MEDIMG_LOG_SALT", "").encode() or secrets.token_bytes(32)
        log = RequestLog(StandardOutput(), salt)
        log.model(Reference.read(predictor.model.path), digest=digest, version=version)
        return cls(predictor, version, worst, log)

    def answer(self, image: bytes) -> Answered:
        """Returns the answer to one image.

        Raises:
            ImageRejected: It cannot be read.
        """
        started = time.perf_counter()
        pixels: np.ndarray = self.predictor.prepare(image, name="image")
        prediction = self.predictor.predict_prepared(pixels, started=started)
        return Answered(self._json(prediction), statistics(pixels))

    def respond(self, content_type: str, body: bytes) -> Mapping[str, Any]:
        """Returns the answer to a request of one image or several, see `medimg.serving.requests`.

        Raises:
            ImageRejected: The image cannot be read.
            RequestRefused: The request holds none, or may not be made.
        """
        if len(body) > MAX_BODY:
            raise too_large(MAX_BODY)
        return answer_each(images_of(content_type, body), self.predict)

    def predict(self, image: bytes) -> Mapping[str, Any]:
        """Returns the JSON of the answer to one image, and logs it.

        Raises:
            ImageRejected: It cannot be read.
        """
        started = time.perf_counter()
        try:
            answered = self.answer(image)
        except ImageRejected as rejection:
            if self.log is not None:
                self.log.refused(image, 415, rejection.code, latency_ms=(time.perf_counter() - started) * 1e3)
            raise
        if self.log is not None:
            self.log.answered(image, answered.answer, answered.statistics)
        return answered.answer

    def _json(self, prediction: Prediction) -> dict[str, Any]:
        return {**prediction.to_json(), "digest": self.predictor.model.digest, "version": self.version}
