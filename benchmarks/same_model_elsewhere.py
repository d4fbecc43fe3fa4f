"""The five lines on real chest radiographs, here and on the emulator of SageMaker: are the probabilities equal?

    python benchmarks/same_model_elsewhere.py DATA

DATA holds chestxray/kaggle224 and weights. Prints seconds, figures and the largest difference of any test image's
probability between the two models, and between each endpoint and its model. Needs the emulator's packages (`.[dev]`).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "cloud"))

PATIENT = r"person(\d+)_(bacteria|virus)|((?:NORMAL2-)?IM-\d+)"
ASKED = 50  # test images that each endpoint is asked about


def main() -> None:
    """Runs both and prints one JSON line each, and one that compares them."""
    data = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["MEDIMG_HOME"] = str(Path(scratch) / "home")
        import quick_sagemaker
        from aws.handle import Emulator

        import medimg

        with Emulator.start(Path(scratch) / "aws") as aws:
            os.environ.update(aws.environment)
            quick_sagemaker.make_roles(aws)
            ran = {name: _five_lines(data, backend) for name, backend in (
                ("local", medimg.backend("local")), ("sagemaker", quick_sagemaker.backend()),
            )}  # fmt: skip
            for name, (facts, _, _) in ran.items():
                print(json.dumps({"backend": name, **facts}))
            (_, here, answers), (_, there, others) = ran.values()
            print(json.dumps({
                "test images": len(here.ids),
                "largest difference of the models": max(
                    abs(here[id].probabilities[label] - there[id].probabilities[label])
                    for id in here.ids for label in here[id].probabilities
                ),
                "largest difference of the endpoints": max(
                    abs(one.probabilities[label] - other.probabilities[label])
                    for one, other in zip(answers, others, strict=True) for label in one.probabilities
                ),
            }))  # fmt: skip


def _five_lines(data: Path, backend: Any) -> tuple[dict[str, Any], Any, list[Any]]:
    import medimg

    (weights,) = (data / "weights").glob("*0.35_224*.h5")
    config = medimg.TrainConfig(model_options={"alpha": 0.35}, weights=weights, epochs=8)
    started = time.perf_counter()
    dataset = medimg.Dataset.from_folder(data / "chestxray" / "kaggle224", group=PATIENT)
    job = backend.train(dataset, config)
    trained = time.perf_counter()
    with backend.deploy() as endpoint:
        deployed = time.perf_counter()
        answers = endpoint.predict_many([sample.path for sample in dataset.of("test")[:ASKED]])
        asked = time.perf_counter()
    predictions = backend.predict_batch(job, dataset, split="test").predictions
    facts = {
        "seconds to the model": round(trained - started, 1),
        "seconds to the endpoint": round(deployed - trained, 1),
        "ms an image": round((asked - deployed) / ASKED * 1000, 1),
        "metrics": {name: round(value, 4) for name, value in job.metrics.items()},
        "timings": {name: value for name, value in job.timings.items() if not name.startswith("epoch")},
    }
    return facts, predictions, answers


if __name__ == "__main__":
    main()
