"""Exports that are made later and added to a sealed model folder."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medimg.artifact import ModelFolder
from medimg.data.audit.checks import STOPPING
from medimg.data.pack import Pack, build
from medimg.data.preparation import ready_for_training
from medimg.errors import MissingExtraError, ModelFolderError
from medimg.evaluation.score import check_classes
from medimg.export.gate import agreement
from medimg.export.network import PATHS, TRAINED
from medimg.export.process import export_in_fresh_process
from medimg.framework import installed
from medimg.home import atomic_copy, atomic_write, home, locked, storage_errors
from medimg.inference.predictor import Predictor
from medimg.inference.runtimes import LiteRTRuntime
from medimg.progress import Display, heartbeat

if TYPE_CHECKING:
    from medimg.data.dataset import Dataset, Sample

__all__ = ["add", "add_int8"]

_REPRESENTATIVE = 200  # images that give the ranges of the activations; more changed nothing
_FEWEST = 200  # images to judge int8 on: of fewer, one flip is half a percent


def add(model: ModelFolder, wanted: Sequence[str] = TRAINED) -> ModelFolder:
    """Makes exports that a sealed model lacks, checks them against its golden inputs and seals it anew.

    No file that was there is written into, so copies of the model, in a registry or an endpoint, are not touched.

    Raises:
        ModelFolderError: The folder is not what it was when it was loaded, the conversion failed, or ONNX, which
            training does not make, does not agree with Keras.
        MissingExtraError: Packages for ONNX are not installed.
        StorageError: The disk is full, or the folder cannot be written.
    """
    if "onnx" in wanted and not all(map(installed, ("onnxruntime", "tf2onnx"))):
        raise MissingExtraError("An ONNX export", "onnx")
    with (
        storage_errors(model.path),
        locked(home() / ".exports.lock"),
        _draft(model) as draft,
        Display("export") as told,
    ):
        options = [option for name in wanted for option in ("--runtime", name)]
        with heartbeat("converting and checking", told):
            runtimes, missing = _convert(draft, " or ".join(wanted), options)
        if "onnx" in missing:
            # Nothing is kept, its absence neither: the model is what it was, and so is its digest.
            raise ModelFolderError(f"no onnx export: {missing['onnx']}. Its LiteRT export is right, and runs anywhere")
        added = {name: path for name, path in runtimes.items() if name not in model.record.runtimes}
        _keep(model, draft, added.values())
        record = {"runtimes": {**model.record.runtimes, **added}, "missing": {**model.record.missing, **missing}}
        record["missing"] = {name: why for name, why in record["missing"].items() if name not in added}
        return ModelFolder.seal(model.path, model.record.model_copy(update=record))


def add_int8(model: ModelFolder, dataset: Dataset, *, most_lost: float, most_flipped: float) -> ModelFolder:
    """Makes the int8 export, has the gate judge it, and adds it with the gate's report and golden probabilities.

    Args:
        model: Sealed; with its LiteRT export.
        dataset: What the model was trained with; test is not looked at.
        most_lost: Of the AUROC.
        most_flipped: Share of decisions.

    Raises:
        DatasetError: It has other classes, or no training images.
        ModelFolderError: int8 cannot be made, or does not pass, and nothing is kept; or the folder is not what it was
            when loaded.
        StorageError: The disk is full, or the folder cannot be written.
    """
    with storage_errors(model.path), locked(home() / ".exports.lock"), _draft(model) as draft, Display("int8") as told:
        pack, images = _images(model, dataset, told)
        ranges = model.record.preprocessing.prepare_batch(pack.images(pack.rows("train")))
        np.save(draft / "images.npy", ranges)
        with heartbeat("converting", told):
            _convert(draft, "int8", ["--runtime", "int8", "--images", str(draft / "images.npy")])
        file = draft / PATHS["int8"]
        judged = agreement(model, file, pack, split="val", images=images, representative=len(ranges), report=told)
        why = judged.refusal(most_lost=most_lost, most_flipped=most_flipped)
        if why:
            raise ModelFolderError(
                f"no int8 export: {why}. Nothing was kept.\n{judged}\n"
                "Serve the float32 one, or allow more: model.export('int8', dataset, most_lost=…, most_flipped=…)"
            )
        predictor = Predictor(model, runtime=LiteRTRuntime(file, workers=1))
        golden = {
            one.name: predictor.probabilities(predictor.prepare(one.content, name=one.name)[None])[0].tolist()
            for one in model.golden
        }
        report = {"golden": golden, "agreement": judged.model_dump(mode="json")}
        atomic_write(draft / "exports" / "int8.json", json.dumps(report, indent=1))
        _keep(model, draft, (PATHS["int8"], "exports/int8.json"))
        runtimes = {**model.record.runtimes, "int8": PATHS["int8"]}
        return ModelFolder.seal(model.path, model.record.model_copy(update={"runtimes": runtimes}))


@contextmanager
def _draft(model: ModelFolder) -> Iterator[Path]:
    """Yields a folder with what an export is made of, after a last look at whether the model is what it was."""
    ModelFolder.load(model.path, digest=model.digest)
    with tempfile.TemporaryDirectory(prefix="medimg-export-") as temporary:
        draft = Path(temporary)
        shutil.copytree(model.path / "golden", draft / "golden", copy_function=shutil.copyfile)
        for name in ("medimg.json", "model.keras"):
            shutil.copyfile(model.path / name, draft / name)
        yield draft


def _keep(model: ModelFolder, draft: Path, names: Iterable[str]) -> None:
    """Copies files, or folders of them, from the draft to the model."""
    for made in (draft / name for name in names):
        for file in (made, *made.rglob("*")):
            if file.is_file():
                target = model.path / file.relative_to(draft)
                target.parent.mkdir(parents=True, exist_ok=True)
                atomic_copy(file, target)


def _convert(draft: Path, what: str, options: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Returns what `export_in_fresh_process` does.

    Raises:
        ModelFolderError: It failed; with the last line that it printed, without the folders of a path in it.
    """
    try:
        return export_in_fresh_process(draft, options=options)
    except RuntimeError as error:
        last = re.sub(r"/(?:[^/\s'\"]+/)+", "", str(error).rstrip().splitlines()[-1].strip())
        raise ModelFolderError(
            f"no {what} export: the conversion failed ({last[:300]}). Nothing was kept. The trained network itself "
            'runs as ever: Predictor(model, runtime="keras")'
        ) from error


def _images(model: ModelFolder, dataset: Dataset, told: Display) -> tuple[Pack, Counter[str]]:
    """Returns a pack whose "train" gives the ranges and whose "val" int8 is judged on, and where the latter are from.

    The dataset is divided as the trainer divided it. The latter are those of validation; where they are few, training
    images that are not among the former are added.
    """
    record = model.record
    check_classes(record, dataset)
    facts = dataset.index(told)
    # The trainer has judged these images. A validation split that it took as it was, though tiny, is in its report.
    kept = {each.check for each in model.report.audit if each.level == "error"}
    allow = [name for name in STOPPING if name != "tiny-validation" or name in kept]
    ready = ready_for_training(dataset, allow=allow, facts=facts).dataset
    train, val = ready.of("train"), ready.of("val")
    order = np.random.default_rng(0).permutation(len(train))
    shuffled = [train[place] for place in order]
    ranges = shuffled[: min(_REPRESENTATIVE, (len(shuffled) + 1) // 2)]
    judged: list[Sample] = [*val, *shuffled[len(ranges) :][: max(0, _FEWEST - len(val))]]
    chosen = replace(
        ready,
        positive=record.positive,
        samples=(*(replace(one, split="train") for one in ranges), *(replace(one, split="val") for one in judged)),
    )
    pack = build(chosen, record.preprocessing.image_size, facts=facts, report=told)
    return pack, Counter(str(sample.split) for sample in judged)
