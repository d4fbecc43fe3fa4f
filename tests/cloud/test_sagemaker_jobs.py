"""What a job at SageMaker is given, and what is refused before anything is sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quick_sagemaker
from aws.handle import Emulator
from PIL import Image

from medimg.artifact import ModelFolder
from medimg.backends.sagemaker.account import Account
from medimg.backends.sagemaker.backend import SageMakerBackend
from medimg.backends.sagemaker.instances import has_local_disk
from medimg.config import JobSpec, Resources
from medimg.data.dataset import Dataset
from medimg.data.pack import Pack, build
from medimg.errors import ConfigError
from medimg.progress import silent

REGION = "ap-northeast-1"
KEY = f"arn:aws:kms:{REGION}:123456789012:key/11111111-2222-3333-4444-555555555555"
IMAGE = f"123456789012.dkr.ecr.{REGION}.amazonaws.com/mine:1"


@pytest.fixture
def account(aws: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """A region of its own, with the roles that `medimg aws bootstrap` makes, and without a free machine."""
    aws.apply(monkeypatch, REGION)
    quick_sagemaker.make_roles(aws)
    aws.capacity_errors(1_000)  # what a job does is not looked at here
    yield aws
    aws.clear_faults()
    aws.reset_region(REGION)


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    """A few images."""
    for number in range(4):
        path = tmp_path / "images" / ("NORMAL" if number % 2 else "PNEUMONIA") / f"p{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(path)
    dataset = Dataset.from_folder(tmp_path / "images")
    return build(dataset, 8, facts=dataset.index())


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """A file and a folder that a job needs."""
    (tmp_path / "inputs" / "model-1" / "deep").mkdir(parents=True)
    (tmp_path / "inputs" / "model-1" / "deep" / "a").write_bytes(b"a")
    (tmp_path / "inputs" / "weights-1").write_bytes(b"w")
    return tmp_path / "inputs"


def _spec(pack: Pack, attempt: int = 1, instance: str = "ml.m5.large", inputs: bool = True) -> JobSpec:
    given = {"weights": "weights-1", "model": "model-1"} if inputs else {}
    return JobSpec(
        base="chest-0123456789", attempt=attempt, checkpoints="chest-0123456789-1", data="d", pack=pack.path.name,
        samples=pack.manifest, inputs=given, code="c", resources=Resources(instance=instance),
    )  # fmt: skip


def _backend(**options: Any) -> SageMakerBackend:
    return quick_sagemaker.backend(image=IMAGE, **options)


def _described(account: Emulator, id: str) -> dict[str, Any]:
    found: dict[str, Any] = account.client("sagemaker", REGION).describe_training_job(TrainingJobName=id)
    return found


# -- what a job is given ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("instance", "local"),
    [
        *((f"ml.{family}.xlarge", True) for family in (
            "g4dn", "g5", "g6", "g6e", "gr6", "p3dn", "p4d", "p4de", "p5", "p5e", "p5en", "trn1", "trn1n", "trn2",
            "c5d", "m5d", "r5d", "m5dn", "m6id", "c6gd", "r7gd",
        )),
        *((f"ml.{family}.xlarge", False) for family in ("m5", "c5", "c5n", "r5", "m7i", "p2", "p3", "t3", "inf1")),
        ("", False),
    ],
)  # fmt: skip
def test_instances_with_drives_of_their_own_are_known(instance: str, local: bool) -> None:
    """By the family, of which there will be other sizes."""
    assert has_local_disk(instance) is local


def test_the_key_is_for_disks_that_take_one(account: Emulator, pack: Pack, tmp_path: Path) -> None:
    """AWS refuses it for an instance whose drives encrypt themselves; what is written is encrypted either way."""
    backend = _backend(kms_key=KEY)
    for attempt, instance in ((1, "ml.m5.large"), (2, "ml.g5.xlarge")):
        spec = _spec(pack, attempt, instance, inputs=False)
        backend._submit(spec, pack.path, tmp_path, silent)
        found = _described(account, spec.id)
        assert ("VolumeKmsKeyId" in found["ResourceConfig"]) == (instance == "ml.m5.large")
        assert found["OutputDataConfig"]["KmsKeyId"] == KEY


def test_checkpoints_are_a_folder_of_their_own(account: Emulator, pack: Pack, tmp_path: Path) -> None:
    """Without the slash the first attempt's would be a prefix of the tenth's."""
    spec = _spec(pack, inputs=False)
    _backend()._submit(spec, pack.path, tmp_path, silent)
    uri = _described(account, spec.id)["CheckpointConfig"]["S3Uri"]
    assert uri.endswith("/checkpoints/chest-0123456789-1/")


def test_what_is_deleted_while_a_job_is_submitted_is_sent_again(account: Emulator, pack: Pack, inputs: Path) -> None:
    """Another process deletes what no job names, a moment before this job is there to name it."""
    backend, spec = _backend(), _spec(pack)
    backend._submit(spec, pack.path, inputs, silent)
    storage = backend.account.storage
    expected = {key: size for key, size in storage.list().items() if not key.startswith("jobs/")}
    assert {key.split("/")[0] for key in expected} == {"packs", "code", "inputs"}
    removed: list[str] = []

    def delete(**_: Any) -> None:
        removed.extend(storage.list())
        for folder in ("packs/", "code/", "inputs/", "jobs/"):
            storage.delete_prefix(folder)

    again = _backend()
    again.account.client("sagemaker").meta.events.register("before-call.sagemaker.CreateTrainingJob", delete)
    spec = _spec(pack, 2)
    again._submit(spec, pack.path, inputs, silent)
    assert removed
    there = storage.list()
    assert {key: size for key, size in there.items() if not key.startswith("jobs/")} == expected
    (channel,) = [
        each for each in _described(account, spec.id)["InputDataConfig"] if each["ChannelName"] == "spec"
    ]  # fmt: skip
    assert channel["DataSource"]["S3DataSource"]["S3Uri"].removeprefix(storage.uri()) in there


def test_where_nothing_was_deleted_nothing_is_sent_after_the_job_is_there(
    account: Emulator, pack: Pack, inputs: Path
) -> None:
    """A look costs one listing a folder."""
    account.mark()
    _backend()._submit(_spec(pack), pack.path, inputs, silent)
    calls = [call["operation"] for call in account.calls()]
    after = calls[calls.index("CreateTrainingJob") + 1 :]
    assert set(after) == {"ListObjectsV2"} and len(after) == 4


# -- what is refused before anything is sent --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("https://canary:secret@mlflow.example/x", r"without it: tracking_uri='https://mlflow\.example/x'"),
        ("https://canary@mlflow.example", r"user name or password"),
        ("https://mlflow.example/" + "x" * 500, r"523 characters.*512"),
        ("http://[::1", r"is no address"),
    ],
)
def test_a_tracking_server_that_jobs_cannot_be_told_is_refused(account: Emulator, uri: str, says: str) -> None:
    """A job's environment is read by everybody who may look at the job; the message does not repeat the secret."""
    with pytest.raises(ConfigError, match=says) as raised:
        _backend(tracking_uri=uri)
    assert "canary" not in str(raised.value) and "secret" not in str(raised.value)
    _backend(tracking_uri="https://mlflow.example/team")


@pytest.mark.parametrize(
    ("tags", "says"),
    [
        ({"medimg": "mine"}, "not yours"),
        ({"Medimg:job": "x"}, "not yours"),
        ({"aws:cost": "x"}, "not yours"),
        ({"AWS:cost": "x"}, "not yours"),
        ({f"tag{number}": "" for number in range(46)}, "46 tags.*45"),
        ({"": "x"}, "1 to 128 characters"),
        ({"k" * 129: "x"}, "1 to 128 characters"),
        ({"ward": "x" * 257}, "0 to 256 characters"),
        ({"ward": 3}, "is a text"),
        ({"ward": "a&b"}, "does not take '&' in a value"),
        ({"wa*rd": "x"}, r"does not take '\*' in a key"),
    ],
)
def test_tags_that_aws_or_medimg_cannot_take_are_refused(account: Emulator, tags: dict[str, Any], says: str) -> None:
    """Before the upload, of which AWS's refusal would come after."""
    with pytest.raises(ConfigError, match=says):
        Account(tags=tags)


def test_tags_that_aws_takes_are_put_beside_ours(account: Emulator) -> None:
    """Letters of all scripts, and an empty value."""
    tags = {
        "Kostenstelle": "Röntgen 1",
        "病棟": "",
        "medimgs": "a.b:c/d=e+f-g@h_i",
        **{f"t{n}": "x" for n in range(42)},
    }
    assert {"Key": "病棟", "Value": ""} in Account(tags=tags).tag_list(job="x")


@pytest.mark.parametrize(
    ("region", "better"),
    [
        ("eu-centrall-1", "eu-central-1"), ("us-esat-1", "us-east-1"), ("EU-WEST-1", "eu-west-1"),
        ("eu-central1", "eu-central-1"), ("frankfurt", "eu-central-1"),
    ],
)  # fmt: skip
def test_a_misspelt_region_is_refused_with_the_nearest(account: Emulator, region: str, better: str) -> None:
    """AWS would not answer: there is no such address, and retries would take minutes."""
    with pytest.raises(ConfigError, match=f"region='{better}'"):
        Account(region=region)


@pytest.mark.parametrize("region", ["ap-southeast-7", "cn-north-1", "us-gov-west-1", "eusc-de-east-1", "xx-polar-1"])
def test_regions_of_every_kind_and_new_ones_pass(account: Emulator, region: str) -> None:
    """What boto3 does not know may have been opened after it was made."""
    assert Account(region=region).region == region


def test_a_key_is_given_by_its_arn(account: Emulator) -> None:
    """Policies cannot name it otherwise; the message has the command that prints it."""
    with pytest.raises(ConfigError, match=r"aws kms describe-key --key-id alias/mine --query KeyMetadata\.Arn"):
        Account(kms_key="alias/mine")
    assert Account(kms_key=KEY).kms_key == KEY


def test_a_role_given_by_its_name_is_found_with_its_path(account: Emulator) -> None:
    """Its ARN has the path, which the name does not tell; it is asked for once, and computed where that is denied."""
    iam = account.client("iam")
    allowed = {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}
    trust = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    iam.create_role(RoleName="radiology", Path="/teams/x/", AssumeRolePolicyDocument=trust)
    try:
        found = Account(role="radiology")
        account.mark()
        for _ in range(2):
            assert found.role_arn == "arn:aws:iam::123456789012:role/teams/x/radiology"
        assert len(account.calls(operation="GetRole")) == 1
        assert Account(role="teams/x/radiology").role_arn == found.role_arn
        assert Account(role=found.role_arn).role_arn == found.role_arn
        account.faults(fail=("GetRole", 1, "AccessDenied"))
        assert Account(role="radiology").role_arn == "arn:aws:iam::123456789012:role/radiology"
        account.mark()
        assert Account().role_arn == "arn:aws:iam::123456789012:role/medimg-execution"
        assert not account.calls(operation="GetRole")
    finally:
        iam.delete_role(RoleName="radiology")


# -- registering ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_registering_shows_that_it_goes_on(
    account: Emulator, trained: ModelFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bundling and uploading take minutes on a slow line."""
    _backend().register(trained, name="shown")
    shown = capsys.readouterr().err
    assert "shown: bundling" in shown and "shown: uploading" in shown
