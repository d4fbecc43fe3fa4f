"""Exports of a trained network for other runtimes, each checked before it is accepted.

LiteRT and the SavedModel are made by every training, ONNX and int8 when `ModelFolder.export` is asked for them. The
first three must agree with Keras on the golden inputs; int8, which cannot, has a gate of its own on validation images.

Where the training used JAX, a GPU, mixed precision or several devices, this runs in a fresh process on CPU in float32
(`python -m medimg.export MODEL_FOLDER`), so that none of them leaves a trace in what is served; the golden
probabilities are computed there too. Else the process at hand is as good: TensorFlow is not imported a second time.

Without TensorFlow there are no exports; where it is installed they are made later.
"""

from __future__ import annotations

from medimg.export.addition import add, add_int8
from medimg.export.gate import Agreement
from medimg.export.network import PATHS
from medimg.export.process import export, export_in_fresh_process

__all__ = ["PATHS", "Agreement", "add", "add_int8", "export", "export_in_fresh_process"]
