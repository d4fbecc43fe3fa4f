"""The registry: versions that only go up, and models that come back as they went in."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from medimg.artifact import ModelFolder
from medimg.errors import ModelFolderError, NotFoundError
from medimg.testing.suite import Suite, Trained
from medimg.testing.workspace import Workspace

__all__ = ["RegistryTests"]


class RegistryTests(Suite):
    """Registered models. Each test has a name of its own."""

    def test_every_registration_is_a_higher_version(self, workspace: Workspace, model: ModelFolder) -> None:
        """Also for the same model, and from a new backend."""
        versions = [int(workspace.backend().register(model, name="higher").version) for _ in range(3)]
        assert versions == sorted(set(versions))

    def test_registrations_at_the_same_moment_are_different_versions(
        self, workspace: Workspace, model: ModelFolder
    ) -> None:
        """Four callers get four versions, and all are listed."""
        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(lambda _: workspace.backend().register(model, name="crowd"), range(4)))
        versions = sorted(version.version for version in made)
        assert len(set(versions)) == 4
        assert sorted(version.version for version in workspace.backend().models("crowd")) == versions

    def test_models_are_listed_oldest_first(
        self, workspace: Workspace, model: ModelFolder, other_model: ModelFolder
    ) -> None:
        """Of one name or of all, and each with the digest of its own model, here and in another process."""
        made = [workspace.backend().register(which, name="listed") for which in (model, other_model, model)]
        workspace.backend().register(other_model, name="another")
        listed = workspace.backend().models("listed")
        assert [version.id for version in listed] == [version.id for version in made]
        assert [version.digest for version in listed] == [model.digest, other_model.digest, model.digest]
        assert {version.name for version in workspace.backend().models()} >= {"listed", "another"}
        workspace.forget()
        there = workspace.elsewhere("versions", name="listed")
        assert list(there.items()) == [(version.version, version.digest) for version in made]

    def test_a_version_tells_its_job_and_metrics(self, workspace: Workspace, trained: Trained) -> None:
        """The name is that of the job where none is given."""
        version = workspace.backend().register(trained.job)
        (listed,) = [v for v in workspace.backend().models("conformance") if v.id == version.id]
        assert listed.job == trained.job.id
        assert dict(listed.metrics) == pytest.approx(trained.job.model.record.metrics["test"])

    def test_a_damaged_copy_is_refused_and_then_fetched_anew(self, workspace: Workspace, model: ModelFolder) -> None:
        """The digest that the registry recorded is what counts."""
        version = workspace.backend().register(model, name="damaged")
        card = version.load().path / "card.md"
        card.unlink()  # not written in place: the file may be a link to the original
        card.write_text("another card")
        with pytest.raises(ModelFolderError):
            version.load()
        assert version.load().digest == model.digest

    def test_a_deleted_version_is_gone_and_the_others_stay(self, workspace: Workspace, model: ModelFolder) -> None:
        """Also those with the same content; and the number is never given to another model."""
        first, second, third = (workspace.backend().register(model, name="deleted") for _ in range(3))
        third.delete()
        first.delete()
        workspace.forget()
        assert [version.id for version in workspace.backend().models("deleted")] == [second.id]
        for gone in (first, third):
            with pytest.raises(NotFoundError):
                workspace.backend()._describe("model", gone.id)
            with pytest.raises(NotFoundError):
                gone.load()
        assert second.load().digest == model.digest
        assert int(workspace.backend().register(model, name="deleted").version) > int(third.version)
