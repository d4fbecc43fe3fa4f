"""The engines that run a model: LiteRT (the default on CPU, also for int8), ONNX Runtime and Keras.

`tf_serving` asks one in another process.
"""

from __future__ import annotations

import os
import queue
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from medimg.artifact import ModelFolder
from medimg.errors import ConfigError, MissingExtraError
from medimg.home import cores

__all__ = ["KerasRuntime", "LiteRTRuntime", "ONNXRuntime", "Runtime", "RuntimeName", "open_runtime"]

RuntimeName = Literal["litert", "int8", "onnx", "keras"]

_TOGETHER = 4  # cores that compute an image alone, at most: they wait for each other after every layer

_GREETING = b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n"
_greeted = threading.Lock()  # held for good once it is done


class Runtime(Protocol):
    """What runs a network."""

    name: str

    def outputs(self, images: np.ndarray) -> np.ndarray:
        """Returns the network's outputs, float32 (n, outputs), for uint8 (n, height, width, channels)."""
        ...


class LiteRTRuntime:
    """A pool of single-threaded interpreters, one a core: on CPU that beats one interpreter with large batches.

    An image that comes alone is computed by several cores together. Safe to call from several threads at once.

    Args:
        path: The model's file.
        workers: Images computed at once; None: one a core.
        threads: Cores that compute each of them; more than 1 is for a server that is asked for one image at a time.
        name: "int8" where it is that export.
    """

    def __init__(
        self, path: Path, *, workers: int | None = None, threads: int = 1, name: Literal["litert", "int8"] = "litert"
    ) -> None:
        self.name: str = name
        self.workers = workers or cores()
        self._content = path.read_bytes()
        self._interpreters: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(self.workers):
            interpreter = self._made(threads)
            self._interpreters.put(interpreter)
        self._entry = interpreter.get_input_details()[0]["index"]
        self._exit = interpreter.get_output_details()[0]["index"]
        self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="litert")
        self._together = min(self.workers, _TOGETHER) if threads == 1 else 1
        self._joint: Any = None  # the interpreter for an image alone, once there was one
        self._alone = threading.Lock()

    def _made(self, threads: int) -> Any:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise ConfigError(f"LiteRT is not installed ({error}). Run: pip install ai-edge-litert") from error
        with _without_greeting():
            interpreter = Interpreter(model_content=self._content, num_threads=threads)
            interpreter.allocate_tensors()
        return interpreter

    def _run(self, interpreter: Any, image: np.ndarray) -> np.ndarray:
        # Into the interpreter's own memory, as float32: no copy of the image in between.
        interpreter.tensor(self._entry)()[0] = image
        interpreter.invoke()
        result: np.ndarray = interpreter.get_tensor(self._exit)[0]
        return result

    def _one_of_many(self, image: np.ndarray) -> np.ndarray:
        interpreter = self._interpreters.get()
        try:
            return self._run(interpreter, image)
        finally:
            self._interpreters.put(interpreter)

    def _one_alone(self, image: np.ndarray) -> np.ndarray:
        if self._together == 1 or not self._alone.acquire(blocking=False):  # the cores have another one
            return self._one_of_many(image)
        try:
            self._joint = self._joint or self._made(self._together)
            return self._run(self._joint, image)
        finally:
            self._alone.release()

    def outputs(self, images: np.ndarray) -> np.ndarray:
        """Returns the network's outputs, float32 (n, outputs), for uint8 (n, height, width, channels)."""
        if len(images) == 1:
            return self._one_alone(images[0])[None]
        return np.stack(list(self._pool.map(self._one_of_many, images)))


@contextmanager
def _without_greeting() -> Iterator[None]:
    """Keeps LiteRT from greeting on standard error when a process makes its first interpreter.

    No setting of LiteRT does. Whatever else is written meanwhile, by whomever, is passed on afterwards.
    """
    with ExitStack() as undo:
        if _greeted.acquire(blocking=False):
            try:
                kept = undo.enter_context(tempfile.TemporaryFile())
                screen = os.dup(2)
            except OSError:  # no disk, or no standard error
                pass
            else:
                undo.callback(_pass_on, kept.fileno(), screen)
                os.dup2(kept.fileno(), 2)
        yield


def _pass_on(kept: int, screen: int) -> None:
    os.dup2(screen, 2)
    os.close(screen)
    os.lseek(kept, 0, os.SEEK_SET)
    written = b"".join(iter(lambda: os.read(kept, 65_536), b"")).replace(_GREETING, b"")
    if written:
        os.write(2, written)


class ONNXRuntime:
    """ONNX Runtime with a thread a core, each of which computes one image.

    Safe to call from several threads at once.

    Args:
        path: The model's file.
        workers: Images computed at once; None: one a core.
    """

    name = "onnx"

    def __init__(self, path: Path, *, workers: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtraError("The ONNX runtime", "onnx") from error
        self.workers = workers or cores()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        # One session runs in several threads at once: it has no state of its own.
        self._session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        self._entry = self._session.get_inputs()[0].name
        self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="onnx")

    def _one(self, image: np.ndarray) -> np.ndarray:
        result: np.ndarray = self._session.run(None, {self._entry: image[None].astype(np.float32)})[0][0]
        return result

    def outputs(self, images: np.ndarray) -> np.ndarray:
        """Returns the network's outputs, float32 (n, outputs), for uint8 (n, height, width, channels)."""
        if len(images) == 1:
            return self._one(images[0])[None]
        return np.stack(list(self._pool.map(self._one, images)))


class KerasRuntime:
    """The trained network itself; needs Keras, and TensorFlow or JAX, whichever of them trained it.

    Safe to call from several threads at once on JAX.
    """

    name = "keras"

    def __init__(self, path: Path, *, batch_size: int = 32) -> None:
        try:
            import keras
        except ImportError as error:
            raise ConfigError(
                f"the Keras runtime needs Keras on TensorFlow or JAX ({error}). Run: pip install tensorflow, or, where "
                "JAX is installed: export KERAS_BACKEND=jax"
            ) from error
        # safe_mode stays on: no code out of a model file is ever run.
        self.model = keras.saving.load_model(path, compile=False, safe_mode=True)
        self.batch_size = batch_size
        self._forward: Callable[[np.ndarray], Any] = self.model.predict_on_batch
        if keras.backend.backend() == "jax":
            from medimg.inference.on_jax import forward

            self._forward = forward(self.model)

    def outputs(self, images: np.ndarray) -> np.ndarray:
        """Returns the network's outputs, float32 (n, outputs), for uint8 (n, height, width, channels)."""
        parts = [
            np.asarray(self._forward(images[start : start + self.batch_size].astype(np.float32)))
            for start in range(0, len(images), self.batch_size)
        ]
        return np.concatenate(parts)


def open_runtime(
    model: ModelFolder, runtime: RuntimeName | Runtime | None = None, *, workers: int | None = None
) -> Runtime:
    """Returns a runtime of the model.

    Args:
        model: The model.
        runtime: Its name; None: LiteRT where the model has it, else Keras. One that is open already, such as
            `TFServingRuntime`, is returned as it is.
        workers: Images computed at once, where the runtime computes one a core; None: one a core.
    """
    if runtime is None:
        runtime = "litert" if "litert" in model.record.runtimes else "keras"
    if runtime == "keras":
        return KerasRuntime(model.path / "model.keras")
    if runtime == "litert":
        return LiteRTRuntime(model.export("litert"), workers=workers)
    if runtime == "int8":
        return LiteRTRuntime(model.exported("int8"), workers=workers, name="int8")
    if runtime == "onnx":
        return ONNXRuntime(model.exported("onnx"), workers=workers)
    return runtime
