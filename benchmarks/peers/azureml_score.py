"""The scoring script of azureml-inference-server-http, with the raw body as its documentation takes files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from azureml_inference_server_http.api.aml_request import rawhttp
from azureml_inference_server_http.api.aml_response import AMLResponse

sys.path.insert(0, str(Path(__file__).parent))

from network import Network, opened

network: Network


def init() -> None:
    """Loads the network, once a process."""
    global network
    network = Network()


@rawhttp
def run(request: Any) -> AMLResponse:
    """Answers one image."""
    return AMLResponse({"output": network.output(opened(request.get_data(False)))}, 200, json_str=True)
