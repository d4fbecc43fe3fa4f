"""A workspace in the emulator of Azure as tests of the emulator use it: with the unmodified SDK, or past it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import requests
from azure.ai.ml import MLClient, command
from azure.ai.ml.entities import (
    CodeConfiguration,
    Environment,
    ManagedOnlineDeployment,
    ManagedOnlineEndpoint,
    Model,
)
from azure.identity import ClientSecretCredential
from azure.storage.blob import ContainerClient

if TYPE_CHECKING:
    from azure_cloud.handle import AzureEmulator

__all__ = ["ARM", "Workspace", "until"]

ARM = "https://management.azure.com"
T = TypeVar("T")

_SCORE = """
import json, os, time
from azureml.contrib.services.aml_request import rawhttp
from azureml.contrib.services.aml_response import AMLResponse

def init():
    print("the model:", sorted(os.listdir(os.path.join(os.environ["AZUREML_MODEL_DIR"], "model"))))
    if os.environ.get("BROKEN"):
        raise RuntimeError("the model is broken")

@rawhttp
def run(request):
    body = request.get_data(False)
    if body.startswith(b"sleep "):
        print("sleeping", flush=True)
        time.sleep(float(body[6:]))
    if body == b"no image":
        return AMLResponse(json.dumps({"error": "no image"}), 422)
    return AMLResponse(json.dumps({"bytes": len(body), "by": os.environ["NAME"]}), 200)
"""


def until(ask: Callable[[], T], wanted: Callable[[T], bool], seconds: float = 30.0) -> T:
    """Asks until the answer is the wanted one, and returns it."""
    deadline = time.monotonic() + seconds
    while not wanted(answer := ask()):
        if time.monotonic() > deadline:
            raise AssertionError(f"still {answer!r}")
        time.sleep(0.02)
    return answer


class Workspace:
    """What the tests do in one workspace.

    Args:
        azure: The emulator.
        name: The workspace's.
        folder: For what is uploaded.
    """

    def __init__(self, azure: AzureEmulator, name: str, folder: Path) -> None:
        self.azure = azure
        self.folder = folder
        given = azure.environment
        self.login = ClientSecretCredential(
            given["AZURE_TENANT_ID"], given["AZURE_CLIENT_ID"], given["AZURE_CLIENT_SECRET"]
        )
        self.group = f"/subscriptions/{azure.subscription}/resourceGroups/{azure.resource_group}"
        self.id = f"{self.group}/providers/Microsoft.MachineLearningServices/workspaces/{name}"
        self.ml = MLClient(
            self.login, azure.subscription, azure.resource_group, name, enable_telemetry=False, show_progress=False
        )

    def arm(self, method: str, id: str, body: Any = None, api: str = "2024-10-01") -> requests.Response:
        """Asks Azure Resource Manager."""
        token = self.login.get_token(f"{ARM}/.default").token
        headers = {"Authorization": f"Bearer {token}"}
        return requests.request(method, f"{ARM}{id}?api-version={api}", json=body, headers=headers, timeout=30)

    def environment(self, *packages: str) -> str:
        """Returns the address of an environment that has packages."""
        conda = {"name": "e", "channels": ["conda-forge"], "dependencies": ["python=3.11", {"pip": list(packages)}]}
        name = f"e{abs(hash(packages))}"
        self.ml.environments.create_or_update(
            Environment(name=name, version="1", image="mcr.microsoft.com/azureml/base", conda_file=conda)
        )
        return f"azureml:{name}:1"

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def submit(self, name: str, script: str, line: str = "", packages: tuple[str, ...] = (), **options: Any) -> None:
        """Submits a job that runs a script of Python."""
        code = self.folder / name
        code.mkdir()
        (code / "main.py").write_text(script)
        job = command(
            name=name, code=str(code), command=f"exec python main.py {line}", environment=self.environment(*packages),
            instance_type="Standard_NC4as_T4_v3", experiment_name="tests", **options,
        )  # fmt: skip
        self.ml.jobs.create_or_update(job)

    def status(self, name: str) -> str:
        """Returns a job's status."""
        return str(self.arm("GET", f"{self.id}/jobs/{name}").json()["properties"]["status"])

    def end(self, name: str) -> str:
        """Waits for a job's end and returns its status."""
        return until(lambda: self.status(name), lambda status: status in ("Completed", "Failed", "Canceled"))

    def details(self, name: str) -> dict[str, Any]:
        """Returns what run history tells of a job."""
        token = self.login.get_token(f"{ARM}/.default").token
        url = f"https://westeurope.api.azureml.ms/history/v1.0{self.id}/runs/{name}/details"
        found: dict[str, Any] = requests.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=30).json()
        return found

    def log(self, name: str, file: str = "user_logs/std_log.txt") -> str:
        """Returns what a job wrote until now."""
        url = self.details(name)["logFiles"].get(file)
        return requests.get(url, timeout=30).text if url else ""

    def blobs(self, store: str = "workspaceblobstore") -> ContainerClient:
        """Returns the container of a datastore."""
        found = self.arm("GET", f"{self.id}/datastores/{store}").json()["properties"]
        key = self.arm("POST", f"{self.id}/datastores/{store}/listSecrets").json()["key"]
        return ContainerClient(
            f"https://{found['accountName']}.blob.core.windows.net", found["containerName"], credential=key
        )

    def files(self, folder: str, store: str = "workspaceblobstore") -> list[str]:
        """Returns the relative paths of the blobs in a folder."""
        with self.blobs(store) as container:
            return sorted(blob.name.removeprefix(folder) for blob in container.list_blobs(name_starts_with=folder))

    # -- endpoints ----------------------------------------------------------------------------------------------------

    def serve(self, name: str, auth: str = "key", **tags: str) -> None:
        """Makes an endpoint."""
        endpoint = ManagedOnlineEndpoint(name=name, auth_mode=auth, tags=tags)
        self.ml.online_endpoints.begin_create_or_update(endpoint).result()

    def deploy(self, endpoint: str, name: str, **options: Any) -> None:
        """Makes a deployment of the scoring script above and returns when it is ready."""
        code, model = self.folder / "score", self.folder / "model"
        for folder in (code, model):
            folder.mkdir(exist_ok=True)
        (code / "score.py").write_text(_SCORE)
        (model / "weights").write_text("weights")
        variables = {"NAME": name, **options.pop("variables", {})}
        deployment = ManagedOnlineDeployment(
            name=name, endpoint_name=endpoint, model=Model(path=str(model), name="m", version="1"),
            environment=self.environment("azureml-inference-server-http>=1.5,<2"),
            code_configuration=CodeConfiguration(code=str(code), scoring_script="score.py"),
            instance_type="Standard_DS3_v2", instance_count=1, environment_variables=variables, **options,
        )  # fmt: skip
        self.ml.online_deployments.begin_create_or_update(deployment).result()

    def route(self, endpoint: str, **traffic: int) -> None:
        """Sends an endpoint's traffic to deployments."""
        found = self.ml.online_endpoints.get(endpoint)
        found.traffic = traffic
        self.ml.online_endpoints.begin_create_or_update(found).result()

    def ask(self, endpoint: str, body: bytes, key: str | None = None, to: str | None = None) -> requests.Response:
        """Asks an endpoint, with its key unless another is given."""
        key = key or self.ml.online_endpoints.get_keys(endpoint).primary_key
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "image/png"}
        headers |= {"azureml-model-deployment": to} if to else {}
        url = f"https://{endpoint}.westeurope.inference.ml.azure.com/score"
        return requests.post(url, body, headers=headers, timeout=30)
