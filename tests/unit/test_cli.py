"""The program `medimg`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

import medimg
from medimg.cli import app, options
from medimg.config import TrainConfig
from medimg.data.dataset import Dataset
from medimg.data.synthetic import write_phantoms

COMMANDS = (
    "download",
    "unpack",
    "audit",
    "train",
    "evaluate",
    "compare-models",
    "export",
    "deploy",
    "predict",
    "load-test",
    "register",
    "ls",
    "rm",
    "cost",
    "doctor",
    "demo",
)
GROUP = r"(patient\d+)"


@dataclass(frozen=True)
class Answer:
    """What the program said."""

    code: int
    out: str
    err: str


def medimg_says(*arguments: str | Path, typed: str | None = None) -> Answer:
    """Returns what the program says to these arguments; a traceback fails the test."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=typed)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    plain = re.compile(r"\x1b\[[0-9;]*m")
    return Answer(result.exit_code, plain.sub("", result.stdout), plain.sub("", result.stderr))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small folder of phantoms."""
    return write_phantoms(tmp_path_factory.mktemp("data") / "phantoms", patients=72, size=32, images_per_patient=(1, 1))


@pytest.fixture(autouse=True)
def own_home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, or the one of the trained model where a test asks for it."""
    trained = request.getfixturevalue("trained") if "trained" in request.fixturenames else None
    home = trained.home if trained else tmp_path / "home"
    monkeypatch.setenv("MEDIMG_HOME", str(home))
    return home


@pytest.fixture
def home(own_home: Path) -> Path:
    """An empty home."""
    return own_home


# -- without a job ----------------------------------------------------------------------------------------------------


def test_alone_it_shows_help_that_lists_every_command() -> None:
    """A newcomer types the name first."""
    alone, asked = medimg_says(), medimg_says("--help")
    assert (alone.code, asked.code) == (0, 0)
    assert alone.out.strip() == asked.out.strip()
    for command in COMMANDS:
        assert re.search(rf"\b{command}\b", alone.out)


def test_doctor_says_what_this_machine_has_and_fails_with_the_fix_where_something_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same as `backend.doctor()`, with a status that a script can read."""
    well = medimg_says("doctor")
    assert well.code == 0
    for name in ("system", "home", "disk"):
        assert re.search(rf"{name} +│ ok", well.out)
    monkeypatch.setattr("medimg.backends.doctor._NEEDED", {"no-such-package": "predicting"})
    ill = medimg_says("doctor", "--backend", "local")
    assert ill.code == 1
    assert re.search(r"no-such-package +│ fails +│ not installed: no predicting +│ pip install no-such", ill.out)
    assert medimg_says("doctor", "--backend", "nowhere").code == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    """--help works without a home, data or a network."""
    answer = medimg_says(command, "--help")
    assert answer.code == 0
    assert f"medimg {command}" in answer.out.replace("root", "medimg")


def test_the_installed_script_tells_the_version() -> None:
    """The entry point leads to the program."""
    script = Path(sys.executable).with_name("medimg")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"medimg {medimg.__version__}\n"


def test_the_installed_script_prints_errors_without_a_traceback(tmp_path: Path) -> None:
    """One line on standard error, and the exit code 1."""
    script = Path(sys.executable).with_name("medimg")
    done = subprocess.run([script, "train", "absent"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"error: [^\n]*absent[^\n]*\n", done.stderr)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "No such command"),
        (["train"], "Missing argument"),
        (["train", "DIR", "--option", "alpha"], "is not NAME=VALUE, such as alpha=0.35"),
        (["train", "DIR", "--epochs", "many"], "Invalid value for '--epochs'"),
        (["train", "DIR", "--labels", "Finding"], "--labels: these name columns of a table. Add --csv FILE"),
        (["train", "DIR", "--csv", "a.csv"], "--csv needs --path COLUMN"),
        (["train", "DIR", "--csv", "a.csv", "--group", "x"], "With --csv say --group-column"),
        (["predict", "a.png", "--model", "m", "--endpoint", "e"], "Give one of them"),
        (["predict", "a.png", "--json", "--out", "a.csv"], "Give one of them"),
        (["predict", "a.png", "--out", "a.xlsx"], "must end in .csv or .parquet"),
        (["ls", "everything"], "everything"),
        (["rm"], "give the names to delete"),
        (["rm", "a-job", "--all"], "give the names to delete"),
    ],
)
def test_a_mistake_in_the_call_ends_with_2_and_says_what_is_wrong(arguments: list[str], said: str) -> None:
    """Usage is the caller's to mend, before anything was done."""
    answer = medimg_says(*arguments)
    assert answer.code == 2
    words = re.sub(r"[\s│]+", " ", answer.err)
    assert said in words


def test_a_wrong_setting_is_refused_with_the_nearest_right_one(folder: Path, home: Path) -> None:
    """The library's message reaches the shell whole."""
    answer = medimg_says("train", folder, "--model", "mobilnet_v2")
    assert answer.code == 1
    assert answer.err == "error: model='mobilnet_v2': there is no such network. Did you mean 'mobilenet_v2'?\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no file"),
        ("{epochs: 5}", "is not JSON"),
        ("[5]", "must hold an object of settings"),
        ('{"epoch": 5}', "TrainConfig has no setting 'epoch'. Did you mean 'epochs'?"),
    ],
)
def test_a_bad_file_of_settings_is_explained(folder: Path, tmp_path: Path, content: str | None, said: str) -> None:
    """The file is named, and what it should hold."""
    file = tmp_path / "settings.json"
    if content is not None:
        file.write_text(content)
    answer = medimg_says("train", folder, "--config", file)
    assert answer.code == 1
    assert answer.err.startswith("error: ")
    assert said in answer.err


def test_a_failed_check_of_the_data_names_the_option_that_overrides_it(folder: Path, home: Path) -> None:
    """The library speaks of backend.train(allow=…); a shell needs its own word."""
    answer = medimg_says("train", folder / "val", "--model", "small_cnn", "--weights", "none", "--image-size", "32")
    assert answer.code == 1
    assert answer.err.endswith("In this command: --allow tiny-validation\n")
    assert not (home / "jobs").exists()


def test_an_empty_home_has_nothing_to_list_or_delete(home: Path) -> None:
    """The first thing that a newcomer asks is answered with the next command."""
    assert medimg_says("ls").out.startswith("no jobs, models or endpoints on local. Start with: medimg train DIR")
    assert medimg_says("ls", "models").out.startswith("no models on local.")
    assert medimg_says("rm", "--all", "--yes").out == "there is nothing to delete on local\n"
    assert not (home / "registry").exists(), "asking makes no database"


def test_without_a_model_predicting_and_deploying_say_how_to_get_one(folder: Path, home: Path) -> None:
    """Nothing was trained: say so, not a traceback."""
    image = next(folder.rglob("*.png"))
    for arguments in (["predict", image], ["deploy"]):
        answer = medimg_says(*arguments)
        assert answer.code == 1
        assert "nothing was trained yet. Train first: medimg train DIR" in answer.err
    assert "'nowhere/1' is no folder, job or registered model" in medimg_says("deploy", "nowhere/1").err


# -- what train asks of the library -----------------------------------------------------------------------------------


@dataclass
class RecordingBackend:
    """Stands in for a backend and records what it was asked to train."""

    status: str = "queued"
    asked: dict[str, Any] = field(default_factory=dict)

    def train(self, dataset: Dataset, config: TrainConfig, **options: Any) -> RecordingBackend:
        """Records the call and returns itself as the job."""
        self.asked = {"dataset": dataset, "config": config, **options}
        return self

    id = "chest-0123456789-1"

    def wait(self) -> None:
        """Is interrupted by the user."""
        raise KeyboardInterrupt


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch, home: Path) -> RecordingBackend:
    """The backend that the program opens."""
    backend = RecordingBackend()
    monkeypatch.setattr(options, "open_backend", lambda _: backend)
    return backend


def test_options_of_train_become_the_configuration(folder: Path, recorder: RecordingBackend, tmp_path: Path) -> None:
    """Each option reaches its setting; what is given on the line wins over the file."""
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"epochs": 3, "dropout": 0.4, "model_options": {"alpha": 1.0}}))
    answer = medimg_says(
        "train", folder, "--group", GROUP, "--config", file, "--model", "mobilenet_v2", "--option", "alpha=0.35",
        "--weights", "none", "--image-size", "96", "--epochs", "7", "--fine-tune-epochs", "2", "--batch-size", "8",
        "--learning-rate", "0.003", "--early-stopping", "none", "--threshold", "0.4", "--seed", "5", "--name", "chest",
        "--force", "--allow", "tiny-validation", "--allow", "rejected-images", "--no-wait",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert recorder.asked["config"] == TrainConfig(
        model="mobilenet_v2", model_options={"alpha": 0.35}, weights=None, image_size=96, epochs=7, fine_tune_epochs=2,
        batch_size=8, learning_rate=0.003, early_stopping=None, threshold=0.4, seed=5, dropout=0.4,
    )  # fmt: skip
    assert recorder.asked["name"] == "chest"
    assert recorder.asked["force"] is True
    assert list(recorder.asked["allow"]) == ["tiny-validation", "rejected-images"]
    assert recorder.asked["wait"] is False
    assert all(sample.group is not None for sample in recorder.asked["dataset"].samples)
    assert "chest-0123456789-1 is submitted" in answer.out


def test_without_options_train_takes_the_librarys_defaults(folder: Path, recorder: RecordingBackend) -> None:
    """The program has no defaults of its own that could differ."""
    medimg_says("train", folder, "--no-wait")
    assert recorder.asked["config"] == TrainConfig()
    assert (recorder.asked["name"], recorder.asked["force"], list(recorder.asked["allow"])) == (None, False, [])


def test_audit_tells_what_it_found_and_fails_where_training_would_stop(folder: Path, tmp_path: Path) -> None:
    """Exit status 0 with warnings, 1 with an error; the page and the JSON name the files."""
    answer = medimg_says("audit", folder, "--group", GROUP)
    assert answer.code == 0, answer.err
    assert "0 errors, 1 warning" in answer.out
    assert "tiny-validation" in answer.out
    leaking = shutil.copytree(folder, tmp_path / "leaking")
    image = next((leaking / "test" / "NODULE").iterdir())
    shutil.copy(image, leaking / "train" / "NODULE" / "patient9999-1.png")
    html, json_file = tmp_path / "a.html", tmp_path / "a.json"
    answer = medimg_says("audit", leaking, "--group", GROUP, "--html", html, "--json", json_file)
    assert answer.code == 1
    assert "✗ duplicate-images" in answer.out
    assert "patient9999" not in answer.out
    assert "patient9999-1.png" in html.read_text()
    assert "patient9999-1.png" in json_file.read_text()


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("youden", "youden"),
        ("0.4", 0.4),
        ("sensitivity=0.95", {"sensitivity": 0.95}),
        ("specificity=0.9", {"specificity": 0.9}),
        ("miss=10,false_alarm=1", {"miss": 10, "false_alarm": 1}),
        ("miss=10, false_alarm=0.5", {"miss": 10, "false_alarm": 0.5}),
    ],
)
def test_the_aim_of_a_threshold_is_given_on_the_line(
    folder: Path, recorder: RecordingBackend, text: str, policy: Any
) -> None:
    """As TrainConfig takes it."""
    answer = medimg_says("train", folder, "--threshold", text, "--calibration", "none", "--no-wait")
    assert answer.code == 0, answer.err
    assert recorder.asked["config"] == TrainConfig(threshold=policy, calibration=None)


@pytest.mark.parametrize("text", ["sensitivty=0.95", "sensitivity=much", "miss=10", "youdn"])
def test_an_aim_that_is_none_is_refused_with_what_can_be_asked(
    folder: Path, recorder: RecordingBackend, text: str
) -> None:
    """Nothing is submitted."""
    answer = medimg_says("train", folder, "--threshold", text, "--no-wait")
    assert answer.code != 0
    assert "hreshold" in answer.err
    assert recorder.asked == {}


def test_a_table_is_read_with_the_named_columns(folder: Path, recorder: RecordingBackend, tmp_path: Path) -> None:
    """--csv and its columns make the same dataset as from_csv."""
    files = sorted(folder.rglob("*.png"))[:6]
    table = tmp_path / "labels.csv"
    findings = ["Edema|Mass", "Mass", "No Finding", "Edema", "Mass", "No Finding"]
    pairs = zip(files, findings, strict=True)
    rows = [f"{file.name},{finding},p{index // 2},train" for index, (file, finding) in enumerate(pairs)]
    table.write_text("\n".join(["file,finding,patient,part", *rows]) + "\n")
    answer = medimg_says(
        "train", folder, "--csv", table, "--path", "file", "--labels", "finding", "--separator", "|",
        "--group-column", "patient", "--split-column", "part", "--columns", "patient, part", "--no-wait",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    dataset = recorder.asked["dataset"]
    assert dataset.keep == ("patient", "part")
    assert (dataset.task, dataset.classes, len(dataset)) == ("multilabel", ("Edema", "Mass"), 6)
    assert {sample.group for sample in dataset.samples} == {"p0", "p1", "p2"}


def test_one_column_a_class_is_given_with_commas(folder: Path, recorder: RecordingBackend, tmp_path: Path) -> None:
    """--labels A,B names two columns."""
    files = sorted(folder.rglob("*.png"))[:3]
    table = tmp_path / "labels.csv"
    table.write_text("file,A,B\n" + "".join(f"{file.name},1,{index % 2}\n" for index, file in enumerate(files)))
    medimg_says("train", folder, "--csv", table, "--path", "file", "--labels", "A, B", "--no-wait")
    assert recorder.asked["dataset"].classes == ("A", "B")


def test_a_reader_is_named_and_takes_what_belongs_to_it(recorder: RecordingBackend, tmp_path: Path) -> None:
    """--reader makes the dataset of that from_ method; options that it cannot use are refused by name."""
    root = tmp_path / "archive"
    for split in ("seg_train/seg_train", "seg_test/seg_test"):
        for name in ("buildings", "forest", "glacier", "mountain", "sea", "street"):
            (root / split / name).mkdir(parents=True)
            Image.new("RGB", (20, 20), (10, 200, 10)).save(root / split / name / "1.jpg")
    answer = medimg_says("train", root, "--reader", "intel", "--no-wait")
    assert answer.code == 0, answer.err
    assert recorder.asked["dataset"].splits == {"train": 6, "test": 6}
    refused = medimg_says("train", root, "--reader", "intel", "--columns", "sex", "--no-wait")
    assert refused.code != 0
    assert "--columns: not for --reader intel" in " ".join(refused.err.split())


def test_an_interrupt_during_training_says_that_the_job_goes_on(folder: Path, recorder: RecordingBackend) -> None:
    """Ctrl-C loses nothing, and the way back is a command."""
    answer = medimg_says("train", folder)
    assert answer.code == 130
    assert "The job chest-0123456789-1 goes on. Follow it: the same command again." in answer.err
    assert "medimg rm chest-0123456789-1" in answer.err


# -- with one small real job ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trained:
    """One small training that went through the program."""

    home: Path
    answer: Answer

    @property
    def job(self) -> str:
        """Its job's id."""
        (folder,) = (path for path in (self.home / "jobs").iterdir() if not path.name.startswith("."))
        return folder.name


def train_arguments(folder: Path) -> list[str | Path]:
    """Returns a call that trains for a moment."""
    return [
        "train", folder, "--group", GROUP, "--model", "small_cnn", "--weights", "none", "--image-size", "32",
        "--epochs", "2", "--name", "tiny",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """A home with one trained model; its servers are gone afterwards."""
    place = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDIMG_HOME", str(place))
        answer = medimg_says(*train_arguments(folder))
        assert answer.code == 0, answer.err
        yield Trained(place, answer)
        for endpoint in medimg.backend("local").endpoints():
            endpoint.delete()


@pytest.mark.slow
def test_train_prints_data_report_paths_and_the_next_commands(trained: Trained) -> None:
    """What a user needs after training is on the screen, and true."""
    out = trained.answer.out
    assert "72 images, 2 classes, binary, 32×32 px" in out
    assert "Does this image show NODULE rather than CLEAR?" in out
    report = re.search(r"^report +(.+)$", out, re.MULTILINE)
    assert report is not None
    assert Path(report[1]).read_text(encoding="utf-8").startswith("<!")
    assert f"medimg deploy {trained.job}" in out
    assert "tiny" in trained.answer.err, "progress goes to standard error, so that the output can be kept"


@pytest.mark.slow
def test_training_again_attaches_to_the_job_that_is_done(trained: Trained, folder: Path) -> None:
    """The same call does no work twice."""
    answer = medimg_says(*train_arguments(folder))
    assert f"An identical job is done already: {trained.job}" in answer.out
    assert len(medimg.backend("local").jobs()) == 1


@pytest.mark.slow
def test_evaluate_scores_a_split_and_writes_the_page(trained: Trained, folder: Path, tmp_path: Path) -> None:
    """A model is named by its job or by its folder; both give the same figures."""
    page = tmp_path / "page.html"
    by_job = medimg_says("evaluate", trained.job, folder, "--group", GROUP, "--split", "val", "--html", page)
    assert by_job.code == 0, by_job.err
    assert "validation images" in by_job.out
    assert str(page) in by_job.out
    assert page.read_text(encoding="utf-8").startswith("<!")
    path = medimg.backend("local").job(trained.job).model.path
    by_path = medimg_says("evaluate", path, folder, "--group", GROUP, "--split", "val")
    assert by_path.out.splitlines()[:3] == by_job.out.splitlines()[:3]


@pytest.mark.slow
def test_compare_models_takes_the_stored_predictions_or_scores_both_on_images(
    trained: Trained, folder: Path, tmp_path: Path
) -> None:
    """A model compared with itself is no better; images are scored anew and each look at test is counted."""
    model = medimg.backend("local").job(trained.job).model
    page = tmp_path / "compared.html"
    stored = medimg_says("compare-models", trained.job, model.path, "--html", page)
    assert stored.code == 0, stored.err
    assert stored.out.startswith("Both models rank the cases the same.")
    assert str(page) in stored.out and page.read_text(encoding="utf-8").startswith("<!")
    looks = model.test_looks
    scored = medimg_says("compare-models", trained.job, trained.job, folder, "--group", GROUP, "--json")
    assert scored.code == 0, scored.err
    found = json.loads(scored.out)
    assert [one["difference"] for one in found["differences"]] == [0.0] * 5
    assert (found["split"], found["images"]) == ("test", model.report.splits["test"].n)
    assert model.test_looks == looks + 2


@pytest.mark.slow
def test_compare_models_says_what_is_missing(trained: Trained) -> None:
    """Options of images without images, and a split that was not kept, are named."""
    lost = medimg_says("compare-models", trained.job, trained.job, "--group", GROUP)
    assert lost.code == 2 and "--group: these describe images" in lost.err
    absent = medimg_says("compare-models", trained.job, trained.job, "--split", "train")
    assert absent.code == 1 and "no stored predictions of train, only of test, val" in absent.err


@pytest.mark.slow
def test_predict_answers_for_every_image_and_gives_the_reason_for_a_rejected_one(
    trained: Trained, folder: Path, tmp_path: Path
) -> None:
    """One bad file in a hundred costs that file only, and the exit code tells."""
    good = sorted(folder.rglob("test/*/*.png"))[:2]
    broken = tmp_path / "broken [1].png"
    broken.write_bytes(good[0].read_bytes()[:200])
    answer = medimg_says("predict", good[0], broken, tmp_path / "absent.png", good[1])
    assert answer.code == 1
    assert len(re.findall(r"│ (?:CLEAR|NODULE) +│ .*NODULE 0\.\d{4}", answer.out)) == 2
    assert re.search(r"broken \[1\]\.png +│ rejected +│ .*\[truncated\]", answer.out)
    assert re.search(r"absent\.png +│ rejected +│ +│ no such file.*\[missing\]", answer.out)
    assert answer.out.count("rejected") == 2
    assert medimg_says("predict", *good).code == 0


@pytest.mark.slow
def test_predict_as_json_is_what_the_library_says(trained: Trained, folder: Path, tmp_path: Path) -> None:
    """Scripts read the same numbers to the last digit."""
    image = sorted(folder.rglob("test/*/*.png"))[0]
    answer = medimg_says("predict", image, tmp_path / "absent.png", "--json", "--model", trained.job)
    first, second = json.loads(answer.out)
    expected = medimg.backend("local").job(trained.job).model.predict(image)
    assert first["image"] == str(image)
    assert (first["label"], first["probabilities"]) == (expected.label, expected.probabilities)
    assert second == {
        "image": str(tmp_path / "absent.png"),
        "error": "no such file. Check the path and the folder it starts from",
        "code": "missing",
    }


@pytest.mark.slow
def test_deploy_tells_how_to_ask_and_to_delete_without_showing_the_key(
    trained: Trained, folder: Path, tmp_path: Path
) -> None:
    """The printed curl line works as it stands, and its answer names the registered version.

    The key is in a file, and on the screen only when asked for.
    """
    image = sorted(folder.rglob("test/*/*.png"))[0]
    assert medimg_says("register", trained.job, "--name", "tiny").out == "tiny/1\n"
    answer = medimg_says("deploy", "tiny/1", "--name", "tiny-server", "--ttl-hours", "0.5")
    assert answer.code == 0, answer.err
    key = (trained.home / "endpoints" / "tiny-server" / "key").read_text()
    assert key not in answer.out + answer.err
    assert "medimg rm tiny-server" in answer.out
    assert "it deletes itself after 0.5 h" in answer.out
    line = re.search(r"^ask +(curl .+)$", answer.out, re.MULTILINE)
    assert line is not None
    if shutil.which("curl"):
        command = line[1].replace("@IMAGE", f"@'{image}'")
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["label"] in ("CLEAR", "NODULE")
        assert json.loads(done.stdout)["version"] == "tiny/1"
    assert key in medimg_says("deploy", trained.job, "--name", "tiny-server", "--ttl-hours", "0.5", "--show-key").out

    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not an image")
    asked = medimg_says("predict", image, broken, "--endpoint", "tiny-server", "--json")
    assert asked.code == 1
    good, bad = json.loads(asked.out)
    assert good["label"] in ("CLEAR", "NODULE")
    assert bad["code"] == "not-an-image"
    assert bad["error"].startswith("is no JPEG, PNG")

    listed = medimg_says("ls", "endpoints").out
    assert re.search(r"endpoint +│ tiny-server +│ ready +│ .*http://127\.0\.0\.1:\d+/predict", listed)
    assert medimg_says("rm", "tiny-server", "--yes").out == "deleted endpoint tiny-server\n"
    gone = medimg_says("predict", image, "--endpoint", "tiny-server")
    assert gone.code == 1
    assert "has no endpoint 'tiny-server'" in gone.err
    assert medimg_says("rm", "tiny/1", "--yes").code == 0


@pytest.mark.slow
def test_ls_shows_jobs_and_models_with_status_and_metrics(trained: Trained) -> None:
    """One table of all there is, or of one kind."""
    version = medimg.backend("local").register(medimg.backend("local").job(trained.job), name="listed")
    both = medimg_says("ls").out
    assert re.search(rf"job +│ {trained.job} +│ completed +│ \d+ \w+ +│ auroc \d\.\d{{3}}", both)
    assert re.search(r"model +│ listed/1 +│ registered +│ .*auroc", both)
    assert "listed/1" not in medimg_says("ls", "jobs").out
    version.delete()


@pytest.mark.slow
def test_exports_are_added_to_a_job_and_not_to_a_registered_model(trained: Trained) -> None:
    """The registry has the digest of its own; it says what to type."""
    assert medimg_says("register", "--name", "sealed").out == "sealed/1\n"
    backend = medimg.backend("local")
    assert not options.find_model(backend, trained.job).kept
    assert options.find_model(backend, "sealed/1").kept
    refused = medimg_says("export", "sealed/1", "onnx")
    assert refused.code == 1
    assert re.search(r"In a shell: cp -r \S+ my_model\n +medimg export my_model onnx\n", refused.err)
    assert medimg_says("rm", "sealed/1", "-y").code == 0


@pytest.mark.slow
def test_rm_asks_first_and_a_misspelt_name_deletes_nothing(trained: Trained) -> None:
    """Deleting is for good: it is confirmed, and all names are found before the first goes."""
    backend = medimg.backend("local")
    backend.register(backend.job(trained.job), name="doomed")
    backend.register(backend.job(trained.job), name="doomed")
    refused = medimg_says("rm", "doomed/1", typed="n\n")
    assert refused.code == 1
    assert "model doomed/1 (registered)" in refused.out
    misspelt = medimg_says("rm", "doomed/1", "domed/2", "--yes")
    assert misspelt.code == 1
    assert "there is no job, name/version or endpoint 'domed/2'. Did you mean 'doomed/2'?" in misspelt.err
    assert [version.id for version in backend.models("doomed")] == ["doomed/1", "doomed/2"]
    assert "deleted model doomed/1" in medimg_says("rm", "doomed/1", typed="y\n").out
    assert medimg_says("rm", "doomed/2", "-y").out == "deleted model doomed/2\n"
    assert backend.models("doomed") == ()


@pytest.mark.slow
def test_rm_all_leaves_nothing(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs, models and endpoints go together; in a copy of the home, so that the other tests keep theirs."""
    copy = tmp_path / "home"
    shutil.copytree(trained.home, copy)
    monkeypatch.setenv("MEDIMG_HOME", str(copy))
    assert f"deleted job {trained.job}" in medimg_says("rm", "--all", "--yes").out
    assert medimg.backend("local").inventory() == ()
    assert list((copy / "jobs").iterdir()) == []
    assert (trained.home / "jobs" / trained.job).exists()
