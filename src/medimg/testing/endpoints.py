"""Endpoints: they answer as the model does, are found by name, and are gone when they should be."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from medimg.artifact import ModelFolder
from medimg.backends.endpoint import Endpoint
from medimg.backends.resource import Resource
from medimg.data.dataset import Dataset
from medimg.data.decode import decode
from medimg.errors import AlreadyExistsError, EndpointError, ImageRejected, NotFoundError
from medimg.inference.decision import Prediction
from medimg.inference.predictor import TOLERANCE
from medimg.testing.suite import Suite, Trained
from medimg.testing.workspace import Workspace, until

__all__ = ["EndpointTests"]

_CANARY = "Doe^Jane 1970-01-01"
_DESCRIPTION = 0x010E  # of EXIF and TIFF


@dataclass(frozen=True)
class ShortLife:
    """An endpoint that was deleted at the end of a `with` block.

    Attributes:
        endpoint: Its handle.
        digest: Of the model it was said to serve.
        answer: What it said of the first image, after its model had been deleted from the registry.
    """

    endpoint: Endpoint
    digest: str
    answer: Prediction


@dataclass
class Updated:
    """An endpoint as it was seen while its model was changed.

    Attributes:
        endpoint: Its handle.
        answers: To one image, asked again and again.
        errors: Of requests that had no answer.
        after: The answer when `update` had returned.
        refused: What the second `update` raised.
        at_last: The answer after that.
        resource: What the backend told then.
    """

    endpoint: Endpoint
    answers: list[Prediction] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    after: Prediction | None = None
    refused: Exception | None = None
    at_last: Prediction | None = None
    resource: Resource | None = None


class EndpointTests(Suite):
    """Served models."""

    @pytest.fixture(scope="class")
    @classmethod
    def served(cls, workspace: Workspace, dataset: Dataset, trained: Trained) -> Endpoint:
        """The endpoint that most tests ask, deployed without naming a model when the last job was a prediction."""
        backend = workspace.backend()
        backend.predict_batch(trained.job, dataset, split="val")
        backend.deploy(config=cls.flags.serve, name="conformance")
        return workspace.backend().endpoint("conformance")

    def test_deploy_without_a_model_takes_the_last_completed_training(
        self, model: ModelFolder, served: Endpoint, images: list[Path]
    ) -> None:
        """Not the prediction job that came after it."""
        assert served._resource.details["digest"] == model.digest
        assert served.predict(images[0]).threshold == model.record.thresholds

    def test_an_endpoint_is_listed_with_address_status_and_log(self, workspace: Workspace, served: Endpoint) -> None:
        """When `deploy` returns it is ready, and its server has said something."""
        assert served.name in [endpoint.name for endpoint in workspace.backend().endpoints()]
        assert served.status == "ready"
        assert served.url.startswith("http")
        assert [line for line in served.logs() if line.strip()]

    @pytest.mark.parametrize("kind", ["bytes", "path", "array", "PIL image"])
    def test_an_endpoint_answers_as_the_model_does(
        self, model: ModelFolder, served: Endpoint, images: list[Path], kind: str
    ) -> None:
        """Probabilities, decision and thresholds, for all that can be an image."""
        for path in images[:3]:
            pixels = decode(path.read_bytes(), name=path.name)
            image: dict[str, Any] = {
                "bytes": path.read_bytes(), "path": path, "array": pixels, "PIL image": Image.fromarray(pixels),
            }  # fmt: skip
            _assert_same(served.predict(image[kind]), model.predict(path))

    def test_an_endpoint_tells_of_the_images_that_it_was_asked(self, served: Endpoint, images: list[Path]) -> None:
        """Its server tells, or its log: they are counted, and too few for more than that."""
        served.predict(images[0])
        assert until(lambda: served.health().images, self.flags)
        health = served.health()
        assert (health.status, health.measures) == ("too-few", ())
        assert health.since

    def test_predict_many_keeps_the_order(self, model: ModelFolder, served: Endpoint, images: list[Path]) -> None:
        """Although several are on their way at once."""
        many = images * 3
        answers = served.predict_many(many)
        assert len(answers) == len(many)
        for answer, path in zip(answers, many, strict=True):
            _assert_same(answer, model.predict(path))

    @pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\nbut cut off"])
    def test_a_broken_image_is_rejected_and_the_endpoint_lives_on(
        self, model: ModelFolder, served: Endpoint, images: list[Path], content: bytes
    ) -> None:
        """With the code and the words that the decoder gives here; the server does not rely on those who ask it."""
        with pytest.raises(ImageRejected) as here:
            model.predict(content)
        with pytest.raises(ImageRejected) as there:
            served.backend._invoke(served.name, content)
        assert (there.value.code, there.value.message) == (here.value.code, here.value.message)
        assert served.status == "ready"
        _assert_same(served.predict(images[0]), model.predict(images[0]))

    def test_a_broken_file_is_rejected_by_its_name_and_not_sent(
        self, workspace: Workspace, served: Endpoint, tmp_path: Path
    ) -> None:
        """It is decoded here, so the user reads which of the files it was."""
        broken = tmp_path / "broken.png"
        broken.write_bytes(b"not an image")
        backend = workspace.backend()

        def refuse(name: str, body: bytes) -> Mapping[str, Any]:
            raise AssertionError(f"{len(body)} bytes were sent to {name}")

        backend._invoke = refuse  # type: ignore[method-assign]
        with pytest.raises(ImageRejected, match=r"broken\.png") as caught:
            Endpoint(backend, served.name).predict(broken)
        assert caught.value.code == "not-an-image"

    def test_only_pixels_are_sent_to_an_endpoint(
        self, workspace: Workspace, model: ModelFolder, served: Endpoint, images: list[Path], tmp_path: Path
    ) -> None:
        """EXIF, comments and tags hold names of patients and places: they stay behind, and the answer is the same."""
        backend, sent = workspace.backend(), []
        original = backend._invoke

        def note(name: str, body: bytes) -> Mapping[str, Any]:
            sent.append(body)
            return original(name, body)

        backend._invoke = note  # type: ignore[method-assign]
        for file in _telling_files(images[0], tmp_path):
            assert _CANARY.encode() in file.read_bytes(), "the file does not tell what it should not tell"
            for image in (file, file.read_bytes()):
                _assert_same(Endpoint(backend, served.name).predict(image), model.predict(images[0]))
        assert len(sent) == 6
        assert not [body for body in sent if _CANARY.encode() in body]

    def test_deploying_the_same_model_again_returns_the_endpoint(
        self, workspace: Workspace, model: ModelFolder, served: Endpoint
    ) -> None:
        """Nothing is started anew."""
        before = served._resource
        again = workspace.backend().deploy(model, self.flags.serve, name=served.name)
        assert (again.name, again._resource.created) == (served.name, before.created)

    def test_deploying_another_model_under_a_taken_name_is_refused(
        self, workspace: Workspace, model: ModelFolder, other_model: ModelFolder, served: Endpoint, images: list[Path]
    ) -> None:
        """And the endpoint goes on serving what it served."""
        with pytest.raises(AlreadyExistsError, match=served.name):
            workspace.backend().deploy(other_model, self.flags.serve, name=served.name)
        _assert_same(served.predict(images[0]), model.predict(images[0]))

    def test_deploying_with_other_settings_under_a_taken_name_is_refused(
        self, workspace: Workspace, model: ModelFolder, served: Endpoint
    ) -> None:
        """Who asks for an endpoint that ends must not be given one that never does, and go home."""
        before = served._resource
        other = self.flags.serve.model_copy(update={"ttl_hours": (self.flags.serve.ttl_hours or 0) + 1})
        with pytest.raises(AlreadyExistsError, match="other settings"):
            workspace.backend().deploy(model, other, name=served.name)
        assert (served.status, served._resource.created) == ("ready", before.created)

    def test_another_process_finds_the_endpoint_by_its_name(
        self, workspace: Workspace, model: ModelFolder, served: Endpoint, images: list[Path]
    ) -> None:
        """With all that a request needs."""
        there = workspace.elsewhere("predict", endpoint=served.name, image=str(images[0]))
        _assert_same(Prediction.from_json(there), model.predict(images[0]))

    # -- another model ------------------------------------------------------------------------------------------------

    @pytest.fixture(scope="class")
    @classmethod
    def updated(
        cls,
        workspace: Workspace,
        model: ModelFolder,
        other_model: ModelFolder,
        drifting_model: ModelFolder,
        images: list[Path],
    ) -> Updated:
        """An endpoint that was asked all the time while it was given another model, and then one that it refuses."""
        seen = Updated(workspace.backend().deploy(model, cls.flags.serve, name="updated"))
        over = threading.Event()

        def ask() -> None:
            while not over.is_set():
                try:
                    seen.answers.append(workspace.backend().endpoint("updated").predict(images[0]))
                except Exception as error:  # whatever it is, there was no answer
                    seen.errors.append(error)

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        try:
            until(lambda: seen.answers or seen.errors, cls.flags)
            workspace.backend().endpoint("updated").update(other_model)
            seen.after = workspace.backend().endpoint("updated").predict(images[0])
            with pytest.raises(EndpointError) as caught:
                workspace.backend().endpoint("updated").update(drifting_model)
            seen.refused = caught.value
            seen.at_last = workspace.backend().endpoint("updated").predict(images[0])
            seen.resource = workspace.backend().endpoint("updated")._resource
        finally:
            over.set()
            asking.join(timeout=60)
            workspace.backend().endpoint("updated").delete()
        return seen

    def test_an_endpoint_is_given_another_model_without_a_gap(
        self, model: ModelFolder, other_model: ModelFolder, updated: Updated, images: list[Path]
    ) -> None:
        """Under the same name, and every request in between is answered by one of the two."""
        assert not updated.errors
        wanted = [model.predict(images[0]), other_model.predict(images[0])]
        _assert_same(updated.answers[0], wanted[0])
        assert updated.after is not None
        _assert_same(updated.after, wanted[1])
        for answer in updated.answers:
            _assert_same(answer, wanted[0] if answer.threshold == wanted[0].threshold else wanted[1])

    def test_a_model_that_does_not_become_ready_leaves_the_one_before(
        self, other_model: ModelFolder, updated: Updated, images: list[Path]
    ) -> None:
        """A server refuses what does not give the golden probabilities; the user is told, and nobody else notices."""
        assert "updated" in str(updated.refused)
        assert updated.at_last is not None and updated.resource is not None
        _assert_same(updated.at_last, other_model.predict(images[0]))
        assert (updated.resource.status, updated.resource.details["digest"]) == ("ready", other_model.digest)

    # -- its end ------------------------------------------------------------------------------------------------------

    @pytest.fixture(scope="class")
    @classmethod
    def short_life(cls, workspace: Workspace, other_model: ModelFolder, images: list[Path]) -> ShortLife:
        """An endpoint of a registered version that is deleted while it serves."""
        version = workspace.backend().register(other_model, name="short-life")
        with workspace.backend().deploy(version, cls.flags.serve, name="short-life") as endpoint:
            version.delete()
            return ShortLife(endpoint, endpoint._resource.details["digest"], endpoint.predict(images[0]))

    def test_an_endpoint_serves_the_version_it_was_given_also_after_that_was_deleted(
        self, other_model: ModelFolder, short_life: ShortLife, images: list[Path]
    ) -> None:
        """What it serves is its own copy."""
        assert short_life.digest == other_model.digest
        _assert_same(short_life.answer, other_model.predict(images[0]))

    def test_an_endpoint_is_deleted_at_the_end_of_a_with_block(
        self, workspace: Workspace, short_life: ShortLife, images: list[Path]
    ) -> None:
        """It is not found, not listed, and does not answer."""
        backend, name = workspace.backend(), short_life.endpoint.name
        with pytest.raises(NotFoundError):
            backend.endpoint(name)
        assert name not in [endpoint.name for endpoint in backend.endpoints()]
        with pytest.raises(NotFoundError):
            short_life.endpoint.predict(images[0])

    def test_deleting_an_endpoint_twice_is_no_error(self, short_life: ShortLife) -> None:
        """The second call finds what it wants."""
        short_life.endpoint.delete()
        assert "deleted" in repr(short_life.endpoint)

    def test_an_endpoint_ends_after_its_hours_though_nobody_is_there(
        self, workspace: Workspace, model: ModelFolder, short_life: ShortLife
    ) -> None:
        """The process that deployed it has ended long before. The name is that of a deleted endpoint: it is free."""
        config = self.flags.serve.model_copy(update={"ttl_hours": self.flags.ttl_seconds / 3600})
        started = time.monotonic()
        name = workspace.elsewhere(
            "deploy", model=str(model.path), name=short_life.endpoint.name, config=config.model_dump(mode="json")
        )
        assert workspace.backend().endpoint(name).status == "ready"

        def gone() -> bool:
            try:
                workspace.backend().endpoint(name)
            except NotFoundError:
                return True
            return False

        assert until(gone, self.flags, seconds=4 * self.flags.ttl_seconds), "it outlives its ttl_hours"
        assert time.monotonic() - started >= 0.9 * self.flags.ttl_seconds, "it ended too early"


def _telling_files(source: Path, folder: Path) -> list[Path]:
    """Returns the same pixels as PNG and TIFF files, with a name in their text, EXIF and tags."""
    picture = Image.fromarray(decode(source.read_bytes(), name=source.name))
    text = PngInfo()
    text.add_text("Comment", _CANARY)
    picture.save(folder / "text.png", pnginfo=text)
    exif = Image.Exif()
    exif[_DESCRIPTION] = _CANARY
    picture.save(folder / "exif.png", exif=exif)
    picture.save(folder / "tags.tiff", tiffinfo={_DESCRIPTION: _CANARY})
    return [folder / "text.png", folder / "exif.png", folder / "tags.tiff"]


def _assert_same(answer: Prediction, wanted: Prediction) -> None:
    assert answer.probabilities == pytest.approx(wanted.probabilities, abs=TOLERANCE)
    assert answer.threshold == wanted.threshold
    assert answer.uncertain == wanted.uncertain
    near = [abs(wanted.probabilities[name] - limit) for name, limit in wanted.threshold.items()]
    if min(near, default=1.0) > TOLERANCE:
        assert (answer.label, answer.positives) == (wanted.label, wanted.positives)
