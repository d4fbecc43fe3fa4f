"""An MLflow pyfunc around `model.predict`; the image is base64 in a row, the way JSON scoring takes bytes.

`python mlflow_model.py FOLDER` saves it there, for `mlflow models serve`.
"""

from __future__ import annotations

import base64
import os
import sys
from pathlib import Path
from typing import Any

import mlflow
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))


class Classifier(mlflow.pyfunc.PythonModel):
    """The model of code."""

    def load_context(self, context: Any) -> None:
        """Loads the network."""
        import keras

        self.model = keras.saving.load_model(os.environ["PEER_KERAS"], compile=False)

    def predict(self, context, model_input, params=None):  # MLflow takes a type's name for a schema
        """Answers the images in the column "image"."""
        sys.path.insert(0, os.environ["PEER_CODE"])
        from network import opened, prepared

        images = [prepared(opened(base64.b64decode(each)), self.model.input_shape) for each in model_input["image"]]
        return self.model.predict(np.concatenate(images), verbose=0)


if __name__ == "__main__":
    mlflow.pyfunc.save_model(sys.argv[1], python_model=__file__, pip_requirements=[])
else:
    mlflow.models.set_model(Classifier())
