"""`python -m medimg.serving.processes.explainer --model FOLDER` explains a server's answers; only here is Keras loaded.

A server starts it at the first wish and talks to it through `explaining`. It reads requests from its standard
input, one at a time, and ends when that does, so it never outlives its server.

A message is a length, four bytes with the most significant first, and so many bytes of JSON. What a request's JSON says
under "bytes" follows it: the encoded image. The first answer says whether the model could be loaded.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import signal
import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from medimg.errors import ConfigError, ImageRejected, MedimgError

if TYPE_CHECKING:
    from medimg.evaluation.explain import Explanation

__all__ = ["LENGTH", "framed", "main", "to_json"]

LENGTH = struct.Struct(">I")

Explain = Callable[[bytes, str | None], dict[str, Any]]
"""From an encoded image and a class to what POST /explain answers."""


def framed(message: Mapping[str, Any], content: bytes = b"") -> bytes:
    """Returns a message as it travels, with what follows it."""
    text = json.dumps(message).encode()
    return LENGTH.pack(len(text)) + text + content


def to_json(explanation: Explanation, digest: str) -> dict[str, Any]:
    """Returns what POST /explain answers.

    "heat" and "picture" are PNGs in base64, of the network's size: how much each place spoke for the class, 8-bit grey,
    and the image as it was given to the network.
    """
    import numpy as np

    from medimg.evaluation.explain import png

    heat = np.round(explanation.map * 255).astype(np.uint8)
    spoke = bool(heat.any())
    return {
        "class": explanation.target,
        "probability": float(explanation.prediction.probabilities[explanation.target]),
        "heat": base64.b64encode(png(heat)).decode("ascii"),
        "picture": base64.b64encode(png(explanation.image)).decode("ascii"),
        "message": (
            f"Bright places moved the network towards {explanation.target}. They show what it used, not that it is "
            "right, nor where a disease is."
            if spoke
            else f"Nothing in this image moved the network towards {explanation.target}."
        ),
        "digest": digest,
    }


def _answer(explain: Explain, target: str | None, image: bytes) -> dict[str, Any]:
    try:
        return {"explanation": explain(image, target)}
    except ImageRejected as rejection:
        return {"rejected": {"code": rejection.code, "message": rejection.message}}
    except ConfigError as error:
        return {"unexplained": str(error)}


def _load(path: Path, digest: str | None) -> Explain:
    """Returns what explains an image, after its first: that one takes seconds, and a user would wait for them."""
    from medimg.artifact import ModelFolder
    from medimg.evaluation.explain import Explainer

    model = ModelFolder.load(path, digest=digest)
    explainer = Explainer(model)
    explainer.predictor.check_golden()
    explainer.explain(model.golden[0].content)
    return lambda image, target: to_json(explainer.explain(image, target), model.digest)


def _serve(explain: Explain, requests: BinaryIO, answers: BinaryIO) -> None:
    while len(head := requests.read(LENGTH.size)) == LENGTH.size:
        request = json.loads(requests.read(*LENGTH.unpack(head)))
        answers.write(framed(_answer(explain, request["target"], requests.read(request["bytes"]))))
        answers.flush()


def main() -> int:
    """Loads the model, then answers until the standard input ends; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m medimg.serving.processes.explainer")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--digest")
    given = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the server ends in its own order
    # What a library prints must not get between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        explain = _load(given.model, given.digest)
    except MedimgError as error:
        answers.write(framed({"error": str(error)}))
        answers.close()
        return 1
    answers.write(framed({"ready": True}))
    answers.flush()
    os.nice(5)  # predictions go first; not before, or a busy machine would take minutes to load Keras
    _serve(explain, sys.stdin.buffer, answers)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
