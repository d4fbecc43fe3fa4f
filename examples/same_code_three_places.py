"""The same five lines in three places: this machine, SageMaker and AzureML, the clouds as the tests' emulators.

    python examples/same_code_three_places.py                the phantoms, a minute or two
    python examples/same_code_three_places.py DATA           real radiographs: DATA/chestxray/kaggle224, DATA/weights
    python examples/same_code_three_places.py --real …       your own accounts in place of the emulators: costs money

Prints one table (status, seconds by stage, cost estimate, AUROC) and the largest difference of any test image's
probability between the models, and between each endpoint and its model. The emulators need what `make test` installs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import medimg
from medimg.data.synthetic import write_phantoms

EMULATORS = Path(__file__).parents[1] / "tests" / "cloud"
PATIENT = r"person(\d+)_(bacteria|virus)|((?:NORMAL2-)?IM-\d+)"
ASKED = 20  # test images that each endpoint is asked about


@dataclass(frozen=True)
class Ran:
    """What one place gave: its job, the model's probabilities of the test images, and the endpoint's of some."""

    job: medimg.Job
    predictions: medimg.Predictions
    answers: list[medimg.Prediction]


def main() -> None:
    """Runs the five lines everywhere and prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="folder with chestxray/kaggle224 and weights")
    parser.add_argument("--real", action="store_true", help="use your own accounts")
    parser.add_argument("--figure", type=Path, default=Path("same_code.png"), help="where the picture is written")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as running:
        os.environ.setdefault("MEDIMG_HOME", str(Path(scratch) / "home"))
        dataset, config = _work(given.data, Path(scratch))
        backends = [medimg.backend("local"), *_clouds(Path(scratch), given.real, running)]
        ran = {backend.name: _five_lines(backend, dataset, config) for backend in backends}
        compared = medimg.compare_costs(dataset, config, backends)
        print(compared)
        if not given.real:
            print("The clouds are emulated on this machine: their seconds are its own, their prices the emulators'.")
        given.figure.write_bytes(compared.figure().png())
        here = ran["local"]
        print(f"{len(here.predictions.ids)} test images; the largest difference of a probability from this machine's:")
        for name, there in ran.items():
            models = max(
                abs(value - there.predictions[id].probabilities[label])
                for id in here.predictions.ids
                for label, value in here.predictions[id].probabilities.items()
            )
            endpoints = max(
                abs(value - other.probabilities[label])
                for one, other in zip(here.answers, there.answers, strict=True)
                for label, value in one.probabilities.items()
            )
            print(f"  {name:10} {there.job.status}, model {models:.1e}, endpoint {endpoints:.1e}")
        print(f"picture: {given.figure}")


def _five_lines(backend: medimg.Backend, dataset: medimg.Dataset, config: medimg.TrainConfig) -> Ran:
    """Trains, serves, asks and tears down: nothing here knows where it runs."""
    job = backend.train(dataset, config)
    with backend.deploy(job) as endpoint:
        answers = endpoint.predict_many([sample.path for sample in dataset.of("test")[:ASKED]])
    return Ran(job, backend.predict_batch(job, dataset, split="test").predictions, answers)


def _work(data: Path | None, scratch: Path) -> tuple[medimg.Dataset, medimg.TrainConfig]:
    if data is None:
        phantoms = write_phantoms(scratch / "phantoms", patients=96, images_per_patient=(1, 2), size=64)
        config = medimg.TrainConfig(model="small_cnn", weights=None, image_size=64, epochs=6, augment=False)
        return medimg.Dataset.from_folder(phantoms, group=r"(patient\d+)"), config
    (weights,) = (data / "weights").glob("*0.35_224*.h5")
    config = medimg.TrainConfig(model_options={"alpha": 0.35}, weights=str(weights), epochs=8)
    return medimg.Dataset.from_folder(data / "chestxray" / "kaggle224", group=PATIENT), config


def _clouds(scratch: Path, real: bool, running: contextlib.ExitStack) -> Iterator[medimg.Backend]:
    if real:
        yield medimg.backend("sagemaker")
        yield medimg.backend("azureml")
        return
    sys.path.insert(0, str(EMULATORS))
    import quick_azureml
    import quick_sagemaker
    from aws.handle import Emulator
    from azure_cloud.handle import AzureEmulator

    aws = running.enter_context(Emulator.start(scratch / "aws"))
    azure = running.enter_context(AzureEmulator.start(scratch / "azure"))
    os.environ.update({**aws.environment, **azure.environment})
    quick_sagemaker.make_roles(aws)
    azure.make_workspace("medimg")
    yield quick_sagemaker.backend()
    yield quick_azureml.backend()


if __name__ == "__main__":
    main()
