"""`ModelFolder`: the files of a trained model, verified before they are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import ValidationError

from medimg.artifact.record import ModelRecord
from medimg.errors import ConfigError, ModelFolderError
from medimg.framework import installed
from medimg.home import atomic_write

if TYPE_CHECKING:
    from medimg.data.dataset import Dataset
    from medimg.data.decode import ImageLike
    from medimg.evaluation.explain import Explainer, Explanation
    from medimg.evaluation.report import Report
    from medimg.inference.decision import Prediction
    from medimg.inference.predictor import Predictor

__all__ = ["Exported", "GoldenInput", "ModelFolder", "ServedBy", "add_look", "count_looks"]

ServedBy = Literal["keras", "litert", "saved_model", "onnx", "int8"]
"""Which of a model's networks a server runs."""

Exported = Literal["litert", "saved_model", "onnx", "int8"]
"""The runtimes that a model has, or can be given, a file for."""

_HOW = {
    "onnx": 'no training makes it. Run: model.export("onnx")',
    "int8": 'no training makes it. Run: model.export("int8", dataset)',
}

_UNSEALED = frozenset({"digest.json", "looks.json"})


@dataclass(frozen=True, slots=True)
class GoldenInput:
    """A generated image with the probabilities that every runtime must give.

    Attributes:
        name: Of its file in `golden/`.
        content: The encoded image.
        probabilities: One for each class, computed by Keras on CPU in float32 in a fresh process.
    """

    name: str
    content: bytes
    probabilities: tuple[float, ...]


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _files(root: Path) -> dict[str, Path]:
    return {
        path.relative_to(root).as_posix(): path
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.name.startswith(".") and path.relative_to(root).as_posix() not in _UNSEALED
    }


def _export(record: ModelRecord, runtime: str) -> str:
    if runtime in record.runtimes:
        return record.runtimes[runtime]
    known = f"known: {', '.join(record.runtimes)}"
    why = record.missing.get(runtime, _HOW.get(runtime, known))
    raise ModelFolderError(f"this model has no {runtime} export: {why}")


def _served(sealed: Iterable[str], record: ModelRecord, runtime: ServedBy) -> list[str]:
    network = "model.keras" if runtime == "keras" else _export(record, runtime)
    return sorted(
        name
        for name in sealed
        if name in ("medimg.json", "monitoring.json", network, f"exports/{runtime}.json")
        or name.startswith(("golden/", f"{network}/"))
    )


def _missing(path: Path, name: str) -> ModelFolderError:
    return ModelFolderError(f"{path}: {name} is missing. Fetch or train the model again")


def _digest_of(hashes: Mapping[str, str]) -> str:
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


@dataclass(frozen=True, repr=False)
class ModelFolder:
    """A trained model on disk, verified. Make one with `load`.

    Attributes:
        path: The folder.
        record: What the model is.
        digest: SHA-256 over all its files: equal digests are equal models.
        kept: Whether somebody else keeps the digest too, such as a registry: then the folder must stay as it is.
    """

    path: Path
    record: ModelRecord
    digest: str
    kept: bool = field(default=False, compare=False)

    @classmethod
    def load(cls, path: str | Path, *, digest: str | None = None, only: ServedBy | None = None) -> Self:
        """Verifies every file against its recorded hash and only then reads the folder.

        Args:
            path: The folder.
            digest: The digest it must have, such as the one a registry recorded.
            only: Where a server has no more than `serving_files(only)`, what else belongs to the model may be missing.
                The digest is the whole model's all the same, and what is there is verified as ever.

        Raises:
            ModelFolderError: No model folder, a file that is missing, added or changed, or another digest.
        """
        path = Path(path)
        try:
            sealed = json.loads((path / "digest.json").read_text())
            hashes = {str(name): str(value) for name, value in sealed["files"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise ModelFolderError(
                f"{path} is not a complete model folder (no valid digest.json). A finished job's is job.model.path"
            ) from None
        files = _files(path)
        for name in sorted(hashes.keys() | files.keys()):
            if name not in files:
                if only is None or name == "medimg.json":
                    raise _missing(path, name)
                continue
            if name not in hashes or files[name].is_symlink():
                raise ModelFolderError(
                    f"{path}: {name} does not belong to the model. Remove it, or fetch the model again"
                )
            if _sha256(files[name]) != hashes[name]:
                raise ModelFolderError(f"{path}: {name} was changed after training. Fetch or train the model again")
        found = _digest_of(hashes)
        if found != sealed.get("digest") or (digest is not None and found != digest):
            raise ModelFolderError(
                f"{path}: its digest is {found[:12]}…, not {str(digest or sealed.get('digest'))[:12]}…"
            )
        try:
            record = ModelRecord.model_validate_json((path / "medimg.json").read_bytes())
        except (OSError, ValidationError, ConfigError) as error:
            raise ModelFolderError(f"{path}: medimg.json is of another version of medimg: {error}") from None
        if only is not None:
            for name in _served(hashes, record, only):
                if name not in files:
                    raise _missing(path, name)
        return cls(path.resolve(), record, found, kept=digest is not None)

    @staticmethod
    def seal(path: Path, record: ModelRecord) -> ModelFolder:
        """Writes `medimg.json` and the hashes of all files: the last step of training."""
        atomic_write(path / "medimg.json", record.model_dump_json(indent=1))
        files = _files(path)
        for file in files.values():
            # Copies elsewhere may be links to the same file: an editor must not change them all.
            file.chmod(0o444)
        hashes = {name: _sha256(file) for name, file in files.items()}
        atomic_write(path / "digest.json", json.dumps({"digest": _digest_of(hashes), "files": hashes}, indent=1))
        return ModelFolder.load(path)

    # -- reading ------------------------------------------------------------------------------------------------------

    @property
    def card(self) -> str:
        """The model card, in Markdown."""
        return (self.path / "card.md").read_text(encoding="utf-8")

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """One row an epoch: phase, epoch, losses and validation figures."""
        rows: list[dict[str, Any]] = json.loads((self.path / "history.json").read_text())
        return rows

    @cached_property
    def golden(self) -> tuple[GoldenInput, ...]:
        """The golden inputs."""
        rows: dict[str, list[float]] = json.loads((self.path / "golden" / "golden.json").read_text())
        return tuple(
            GoldenInput(name, (self.path / "golden" / name).read_bytes(), tuple(values))
            for name, values in sorted(rows.items())
        )

    def golden_of(self, runtime: str) -> tuple[GoldenInput, ...]:
        """Returns the golden inputs with what a runtime must give: the trained network's outputs, or int8's own."""
        if runtime != "int8":
            return self.golden
        own: dict[str, list[float]] = json.loads((self.path / "exports" / "int8.json").read_text())["golden"]
        return tuple(replace(golden, probabilities=tuple(own[golden.name])) for golden in self.golden)

    @property
    def report(self) -> Report:
        """The evaluation made at the end of training."""
        from medimg.evaluation.report import Report

        return Report.load(self.path / "report")

    # -- test looks ---------------------------------------------------------------------------------------------------

    @property
    def test_looks(self) -> int:
        """How often a test split was scored with this model."""
        return count_looks(self.path)

    def __fspath__(self) -> str:
        """The folder's path, so that a model can be given where a path can."""
        return str(self.path)

    # -- using --------------------------------------------------------------------------------------------------------

    @cached_property
    def predictor(self) -> Predictor:
        """The predictor on this model's fastest runtime, made at first use."""
        from medimg.inference.predictor import Predictor

        return Predictor(self)

    def predict(self, image: ImageLike) -> Prediction:
        """Returns the decision for one image: a path, bytes, a PIL image, or uint8 (height, width[, 3])."""
        return self.predictor.predict(image)

    @cached_property
    def _explainer(self) -> Explainer:
        from medimg.evaluation.explain import Explainer

        return Explainer(self)

    def explain(self, image: ImageLike, target: str | None = None) -> Explanation:
        """Returns where in an image the network found what it says of it, by Grad-CAM; needs TensorFlow or JAX.

        Args:
            image: As for `predict`.
            target: The class to explain; None: the positive one of a binary task, else the most probable.

        Raises:
            ConfigError: There is no such class, or the network has no convolutions.
            ImageRejected: The image cannot be read.
        """
        return self._explainer.explain(image, target)

    def evaluate(self, dataset: Dataset, split: str = "test") -> Report:
        """Scores a split of a dataset at the frozen thresholds; a look at test is counted in the folder.

        Raises:
            DatasetError: The dataset has other classes, or no such split.
        """
        from medimg.evaluation.score import evaluate

        return evaluate(self, dataset, split=split)

    def export(
        self, runtime: Exported, dataset: Dataset | None = None, *, most_lost: float = 0.01, most_flipped: float = 0.02
    ) -> Path:
        """Returns the path of the model for a runtime: LiteRT and the SavedModel were made by the training.

        ONNX and int8, and what the trainer could not make, as where TensorFlow was not installed, are made now, checked
        and kept in the folder, which is sealed anew: with more in it, its digest is another one. This handle knows
        that; others of the same folder must be loaded again, and copies stay what they were. What does not pass its
        check leaves the folder as it was.

        All but int8 must agree with Keras within 1e-4. int8 is for LiteRT too, smaller and faster, and does not: it is
        made with 200 training images and judged on those of validation, with further training images where they are
        few. `medimg.export.Agreement` is what the gate found; `exports/int8.json` keeps it.

        The SavedModel is a folder named by its version: TensorFlow Serving's `--model_base_path` is the one above it.

        Args:
            runtime: "litert", "saved_model", "onnx" or "int8".
            dataset: For int8, what the model was trained with; one without splits is divided as training divided it.
            most_lost: Of the AUROC, for int8.
            most_flipped: Share of the decisions at the frozen thresholds that may be others with int8.

        Raises:
            ModelFolderError: It is not there and cannot be made, or does not pass; the message says why.
            DatasetError: The dataset has other classes, or no training images.
            MissingExtraError: Packages for ONNX are not installed.
            StorageError: The folder cannot be written.
        """
        absent = runtime in self.record.missing or (runtime in _HOW and runtime not in self.record.runtimes)
        if absent and self.kept:
            images = ", dataset" if runtime == "int8" else ""
            raise ModelFolderError(
                f"no {runtime} export, and none can be added to a registered model: its digest is in the registry. Add "
                f"it to a copy, and register that: shutil.copytree({str(self.path)!r}, 'my_model'); "
                f"ModelFolder.load('my_model').export({runtime!r}{images}); backend.register('my_model')"
            )
        trained = (self.path / "model.keras").exists()
        if absent and runtime in _HOW and trained and not installed("tensorflow"):
            raise ModelFolderError(f"no {runtime} export: it is made by TensorFlow. Run: pip install tensorflow")
        if absent and trained and installed("tensorflow") and (runtime != "int8" or dataset is not None):
            from medimg import export

            if runtime == "int8" and dataset is not None:
                self.export("litert")  # what int8 is compared with
                added = export.add_int8(self, dataset, most_lost=most_lost, most_flipped=most_flipped)
            else:
                added = export.add(self, ("onnx",)) if runtime == "onnx" else export.add(self)
            self.__dict__.update(record=added.record, digest=added.digest)
        return self.exported(runtime)

    def exported(self, runtime: Exported) -> Path:
        """Returns the path of an export that the model has; makes none.

        Raises:
            ModelFolderError: It has not; the message says how it gets it.
        """
        path = self.path / _export(self.record, runtime)
        if not path.exists():
            raise ModelFolderError(f"{self.path} is a part of the model, without its {runtime} export")
        return path

    def serving_files(self, runtime: ServedBy) -> list[str]:
        """Returns the paths inside the folder of all that serving on a runtime needs: see `load(…, only=runtime)`.

        Raises:
            ModelFolderError: The model was trained without that runtime; the message says why.
        """
        sealed = json.loads((self.path / "digest.json").read_text())["files"]
        return ["digest.json", *_served(sealed, self.record, runtime)]

    @property
    def headline(self) -> dict[str, float | None]:
        """The figures on test, else on validation, by name; empty where it was evaluated on neither."""
        return dict(self.record.metrics.get("test") or self.record.metrics.get("val") or {})

    def __repr__(self) -> str:
        shown = ", ".join(f"{name} {value:.3f}" for name, value in self.headline.items() if value is not None)
        return f"ModelFolder({self.record.config.model}, {', '.join(self.record.classes)}; {shown}; {self.digest[:12]})"


def count_looks(path: Path) -> int:
    """Returns how often the test split was scored with the model in a folder."""
    try:
        return len(json.loads((path / "looks.json").read_text()))
    except FileNotFoundError:
        return 0


def add_look(path: Path, fingerprint: str) -> int:
    """Records that a test split was scored with the model in a folder, and returns how often that has been."""
    from datetime import UTC, datetime

    looks = json.loads((path / "looks.json").read_text()) if (path / "looks.json").exists() else []
    looks.append({"time": datetime.now(UTC).isoformat(timespec="seconds"), "data": fingerprint})
    atomic_write(path / "looks.json", json.dumps(looks, indent=1))
    return len(looks)
