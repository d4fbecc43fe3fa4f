"""A Lambda endpoint on the emulator: the size of its zip, its first answer and those after it.

    python benchmarks/lambda_start.py WEIGHTS

WEIGHTS is a file of MobileNetV2 (alpha 0.35, 224 pixels) without its top. The model is trained on phantoms: what is
measured does not depend on what it learnt. The emulator runs the zip in a process that sees nothing but it and boto3,
on this machine's cores, which are not Lambda's. Needs the emulator's packages (`.[dev]`).
"""

from __future__ import annotations

import io
import json
import os
import statistics
import sys
import tempfile
import time
import urllib.request
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "cloud"))

COLD, WARM = 3, 50


def main() -> None:
    """Deploys the same model several times and prints one JSON line."""
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["MEDIMG_HOME"] = str(Path(scratch) / "home")
        import quick_sagemaker
        from aws.handle import Emulator

        import medimg
        from medimg.data.synthetic import write_phantoms

        with Emulator.start(Path(scratch) / "aws") as aws:
            os.environ.update(aws.environment)
            quick_sagemaker.make_roles(aws)
            backend = quick_sagemaker.backend()
            folder = write_phantoms(Path(scratch) / "phantoms", size=224)
            config = medimg.TrainConfig(model_options={"alpha": 0.35}, weights=sys.argv[1], epochs=1)
            dataset = medimg.Dataset.from_folder(folder, group=r"(patient\d+)")
            model = medimg.backend("local").train(dataset, config).model
            image = dataset.samples[0].path
            cold, warm = [], []
            for _ in range(COLD):
                with backend.deploy(model, medimg.ServeConfig(kind="lambda"), name="start") as endpoint:
                    function = aws.client("lambda")
                    # Another setting makes Lambda start it anew, as after a pause.
                    found = function.get_function_configuration(FunctionName="medimg-start")
                    function.update_function_configuration(
                        FunctionName="medimg-start",
                        Environment={"Variables": {**found["Environment"]["Variables"], "ANEW": "1"}},
                    )
                    key = backend._functions.apis.key("start")
                    cold.append(_ask(endpoint.url, image.read_bytes(), key))
                    warm += [_ask(endpoint.url, image.read_bytes(), key) for _ in range(WARM)]
            s3, bucket = aws.client("s3"), backend.account.bucket
            (entry,) = s3.list_objects_v2(Bucket=bucket, Prefix="medimg/functions/")["Contents"]
            content = s3.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                unzipped = sum(each.file_size for each in archive.infolist())
            print(json.dumps({
                "zip MB": round(len(content) / 1e6, 1), "unzipped MB": round(unzipped / 1e6, 1),
                "cold ms": round(statistics.median(cold)), "warm ms": round(statistics.median(warm), 1),
                "warm ms, 95 of 100": round(statistics.quantiles(warm, n=20)[-1], 1),
            }))  # fmt: skip


def _ask(url: str, body: bytes, key: str) -> float:
    request = urllib.request.Request(url, body, {"x-api-key": key, "Content-Type": "image/png"})  # noqa: S310
    started = time.perf_counter()
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        answer.read()
    return (time.perf_counter() - started) * 1000


if __name__ == "__main__":
    main()
