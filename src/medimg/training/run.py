"""The stages of training: features, fitting, fine-tuning, exporting, evaluating."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import keras
import numpy as np

from medimg import models
from medimg.artifact import Calibration, ModelFolder, ModelRecord, Preprocessing, add_look
from medimg.config import Augment, JobSpec, TrainConfig
from medimg.data.pack import Pack
from medimg.data.synthetic import golden_files
from medimg.errors import ConfigError, DatasetError
from medimg.evaluation import report as evaluation
from medimg.evaluation.cases import Case, make_cases
from medimg.evaluation.intervals import areas
from medimg.evaluation.score import judge
from medimg.evaluation.seen import write_seen
from medimg.export import export
from medimg.home import atomic_write
from medimg.inference import monitoring
from medimg.job import Paths, Stop
from medimg.models.classifier import Classifier
from medimg.progress import Event, Report
from medimg.training.augmentation import View, augmented
from medimg.training.calibration import calibrate
from medimg.training.card import card
from medimg.training.checkpoints import Checkpoints
from medimg.training.environment import make_exact, precision, versions
from medimg.training.features import FeatureSource, Images, PackSource, features_of
from medimg.training.kept_features import KeptFeatures
from medimg.training.loop import Phase, Source, fit
from medimg.training.reference import validation_reference
from medimg.training.steps import Devices, compile_for
from medimg.training.tracking import Tracker
from medimg.training.weighting import Balance, encode

__all__ = ["train"]


def train(spec: JobSpec, paths: Paths, stop: Stop, report: Report, tracker: Tracker) -> ModelFolder:
    """Trains, exports and evaluates, and returns the sealed model folder `out/model`.

    Raises:
        Interrupted: The job was asked to end; a later run with the same checkpoints goes on.
        DatasetError: The pack is damaged or lacks a split.
    """
    assert spec.config is not None, "a training job has a configuration"  # noqa: S101 - checked at submit
    pack = Pack.open(paths.data, spec.samples)
    tracker.parameters(spec.config.model_dump())
    return _Training(spec, spec.config, pack, paths, stop, report, tracker).run()


class _Training:
    def __init__(
        self, spec: JobSpec, config: TrainConfig, pack: Pack, paths: Paths, stop: Stop, report: Report,
        tracker: Tracker,
    ) -> None:  # fmt: skip
        self.spec, self.config, self.pack, self.paths, self.stop = spec, config, pack, paths, stop
        self.report, self.tracker = report, tracker
        self.outputs = 1 if pack.task == "binary" else len(pack.classes)
        # Another framework gives other bits, and names the states of its random numbers otherwise.
        identity = hashlib.sha256(f"{spec.base}|{spec.pack}|{spec.code}|{keras.backend.backend()}".encode()).hexdigest()
        self.checkpoints = Checkpoints(paths.checkpoints, identity)
        self.judged: tuple[keras.Model, Source]  # of the last phase: the network, and validation as it takes it
        self.calibration: Calibration | None = None
        self.told: tuple[str, ...] = ()
        self.every_seconds = float(os.environ.get("MEDIMG_CHECKPOINT_SECONDS", "30"))

    # -- the way ------------------------------------------------------------------------------------------------------

    def run(self) -> ModelFolder:
        """Goes through the stages."""
        keras.utils.set_random_seed(self.config.seed)
        make_exact()
        keras.mixed_precision.set_global_policy(precision(self.config.precision))
        devices = Devices()
        with devices.scope():
            classifier = self.build()
        history = self.fit(classifier, devices)
        self.calibrate()
        draft = self.paths.out / ".model"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        self.save(classifier, draft)
        model = self.export(draft, history)
        self.evaluate(model, history)
        final = self.paths.out / "model"
        shutil.rmtree(final, ignore_errors=True)
        draft.rename(final)
        # The model is sealed: nobody goes on from here, and the state is several times its size.
        shutil.rmtree(self.paths.checkpoints, ignore_errors=True)
        return ModelFolder.load(final)

    def build(self) -> Classifier:
        """Returns the network with its starting weights."""
        given = {role: self.paths.inputs / name for role, name in self.spec.inputs.items()}
        return models.build(
            self.config,
            channels=1 if self.pack.channels == 1 else 3,
            outputs=self.outputs,
            task=self.pack.task,
            weights=given.get("weights"),
            code=given.get("code"),
        )

    # -- fitting ------------------------------------------------------------------------------------------------------

    def source(self, split: str) -> PackSource:
        """Returns the images of a split with their encoded targets."""
        rows = self.pack.rows(split)
        if not len(rows):
            raise DatasetError(f"the pack has no {split} images")
        targets = self.pack.targets(rows)
        y = encode(targets, self.pack.task, self.pack.classes, self.pack.facts["positive"])
        return PackSource(self.pack, rows, y, self.config.normalisation)

    def fit(self, classifier: Classifier, devices: Devices) -> list[dict[str, Any]]:
        """Trains the classifier in place and returns the history."""
        train, val = self.source("train"), self.source("val")
        balance = Balance.of(
            train.y(np.arange(len(train))),
            self.pack.task,
            self.outputs,
            balanced=self.config.class_weight == "balanced",
        )
        augment = self.config.augmentation
        if self.spec.inputs.get("weights") is None or classifier.backbone is None:
            return self._phase(
                "fitting", classifier.model, devices, train, val, balance, self.config.learning_rate,
                self.config.epochs, augment,
            )  # fmt: skip
        assert classifier.head is not None  # noqa: S101 - a backbone comes with a head
        if augment is not None and not self.config.fine_tune_epochs and not augment.views:
            self.report(
                Event(
                    "log",
                    message="augmentation is unused: the backbone is frozen and its features computed once. "
                    "Augment(views=2) computes those of changed images too",
                )
            )
        history: list[dict[str, Any]] = []
        found = self.checkpoints.latest()
        if found is None or found.state["phase"] != "fine-tuning":
            models.freeze(classifier)
            features = self._features(classifier.backbone, devices, {"train": train, "val": val})
            history = self._phase(
                "fitting", classifier.head, devices, features["train"], features["val"], balance,
                self.config.learning_rate, self.config.epochs, None,
            )  # fmt: skip
        if self.config.fine_tune_epochs:
            models.top_layers(classifier, self.config.fine_tune_fraction)
            history = self._phase(
                "fine-tuning", classifier.model, devices, train, val, balance, self.config.fine_tune_learning_rate,
                self.config.fine_tune_epochs, augment, earlier=history,
            )  # fmt: skip
        return history

    def _features(
        self, backbone: keras.Model, devices: Devices, sources: dict[str, PackSource]
    ) -> dict[str, FeatureSource]:
        augment = self.config.augmentation
        views: dict[str, list[Images]] = {split: [source] for split, source in sources.items()}
        if augment is not None:
            seed = self.config.seed
            views["train"] += [View(sources["train"], augment, (seed, number)) for number in range(augment.views)]
        # A later run finds them where a backend says that they last; elsewhere they last as long as the job.
        root = Path(os.environ.get("MEDIMG_FEATURES") or self.paths.checkpoints / "features")
        kept = KeptFeatures(root, self.spec.pack, lambda text: self.report(Event("warning", "features", message=text)))
        return features_of(
            views, backbone, devices, kept, identity={"pack": self.spec.pack, "code": self.spec.code},
            report=self.report, check=self.stop.check,
        )  # fmt: skip

    def _phase(
        self, name: str, network: keras.Model, devices: Devices, train: Any, val: Any, balance: Balance, rate: float,
        epochs: int, augment: Augment | None, earlier: list[dict[str, Any]] | None = None,
    ) -> list[dict[str, Any]]:  # fmt: skip
        with devices.scope():
            model = augmented(network, augment) if augment else network
            compile_for(model, self.pack.task, rate)
        self.judged = network, val
        phase = Phase(
            name=name, model=model, judged=network, train=train, val=val, task=self.pack.task, epochs=epochs,
            batch_size=self.config.batch_size, patience=self.config.early_stopping, balance=balance,
            seed=self.config.seed, figures=self._figures,
        )  # fmt: skip
        return fit(
            phase, devices, self.checkpoints, self._epoch, stopping=self.stop, earlier=earlier or [],
            every_seconds=self.every_seconds,
        )  # fmt: skip

    def _epoch(self, event: Event) -> None:
        self.report(event)
        if event.kind == "epoch":
            self.tracker.metrics(event.values, step=event.done)

    def _figures(self, y: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
        """Returns the validation AUROC (macro over classes that have both sides), or nothing."""
        columns = range(probabilities.shape[1])
        truth = np.stack([y == column for column in columns], axis=1) if self.pack.task == "multiclass" else y
        found = []
        for column in columns:
            known = ~np.isnan(truth[:, column].astype(np.float64))
            values = truth[known, column]
            if len(np.unique(values)) == 2:
                found.append(areas(values == 1, probabilities[known, column])[0])
        return {"val_auroc": float(np.mean(found))} if found else {}

    # -- after fitting ------------------------------------------------------------------------------------------------

    def calibrate(self) -> None:
        """Builds into the last layer what makes probabilities mean frequencies, as the configuration says."""
        if self.config.calibration is None:
            return
        network, val = self.judged
        targets = self.pack.classes if self.outputs > 1 else (str(self.pack.facts["positive"]),)
        self.calibration, self.told = calibrate(
            network, val, task=self.pack.task, targets=targets, method=self.config.calibration,
            batch_size=self.config.batch_size, check=self.stop.check,
        )  # fmt: skip

    def save(self, classifier: Classifier, draft: Path) -> None:
        """Writes the network in float32 and for one device, whatever it was trained in."""
        keras.mixed_precision.set_global_policy("float32")
        plain = self.build().model
        plain.set_weights(classifier.model.get_weights())
        plain.save(draft / "model.keras")

    def export(self, draft: Path, history: list[dict[str, Any]]) -> ModelFolder:
        """Writes exports, golden inputs and the draft record; returns the folder, not sealed yet."""
        (draft / "golden").mkdir()
        for name, content in golden_files().items():
            atomic_write(draft / "golden" / name, content)
        atomic_write(draft / "history.json", json.dumps(history, indent=1))
        record = ModelRecord(
            classes=self.pack.classes,
            task=self.pack.task,
            positive=self.pack.facts["positive"],
            preprocessing=Preprocessing(
                image_size=self.pack.image_size,
                channels=1 if self.pack.channels == 1 else 3,
                normalisation=self.config.normalisation,
            ),
            config=self.config,
            data={"fingerprint": self.spec.data, "pack": self.spec.pack, "counts": _counts(self.pack)},
            versions=versions(),
            job=self.spec.id,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            calibration=self.calibration,
            notices=(*self.spec.notices, *self.told),
        )
        atomic_write(draft / "medimg.json", record.model_dump_json(indent=1))
        self.report(Event("stage", "exporting", message="LiteRT and SavedModel"))
        runtimes, missing = export(draft, check=self.stop.check)
        for name, why in missing.items():
            self.report(Event("warning", message=f"no {name} export: {why}"))
        return ModelFolder(draft, record.model_copy(update={"runtimes": runtimes, "missing": missing}), "")

    def evaluate(self, model: ModelFolder, history: list[dict[str, Any]]) -> None:
        """Freezes thresholds on validation, scores test once, writes the report and seals the folder."""
        self.report(Event("stage", "evaluating"))
        looks = add_look(model.path, self.spec.data) if len(self.pack.rows("test")) else 0
        record, report = judge(
            model, self.pack, history=history, test_looks=looks, audit=self.spec.audit, allow=self.spec.allow,
            report=self._evaluating,
        )  # fmt: skip
        report = replace(report, cases=self.cases(model, report))
        for split, figures in record.metrics.items():
            self.tracker.metrics({f"{split}_{name}": value for name, value in figures.items()})
            self.report(Event("epoch", "evaluating", message=split, values=figures))
        report.save(model.path / "report")
        write_seen(model.path, self.pack, record.preprocessing.channels)
        reference = validation_reference(record, self.pack, report.predictions["val"])
        atomic_write(model.path / monitoring.FILE, json.dumps(reference.to_json(), indent=1))
        atomic_write(model.path / "card.md", card(record, report))
        ModelFolder.seal(model.path, record)

    def cases(self, model: ModelFolder, report: evaluation.Report) -> tuple[Case, ...]:
        """Returns the images that the report shows with what the network saw in them."""
        table = report.predictions[report.headline]
        try:
            return make_cases(model, self.pack, table, report.thresholds.values)
        except ConfigError as error:
            self.report(Event("warning", message=f"the report shows no cases: {error}"))
            return ()

    def _evaluating(self, event: Event) -> None:
        self.stop.check()
        self.report(Event(event.kind, "evaluating", event.done, event.total, event.message, event.values))


def _counts(pack: Pack) -> dict[str, int]:
    return {split: len(pack.rows(split)) for split in ("train", "val", "test")}
