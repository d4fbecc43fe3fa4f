"""The server: finds out what a request asks, does to it what is to go wrong, and lets the right part answer."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from moto.cloudformation.parsing import ResourceMap
from moto.core.exceptions import ServiceException
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import BaseWSGIServer, make_server
from werkzeug.wrappers import Response

from .calls import AwsError, Call, identify, refusal
from .cloud import Cloud
from .control import Control
from .endpoints import Endpoints
from .faults import Faults, NoAnswerError
from .functions import Functions
from .http_api import HttpApis
from .journal import Entry, Journal
from .models import Models
from .packages import ModelPackages
from .policies import Policies
from .prices import Prices
from .quotas import Quotas
from .schedules import INTERNAL, Schedules
from .shapes import answer, validate
from .training import TrainingJobs
from .transform import TransformJobs

__all__ = ["Server"]

Start = Callable[..., Any]
_CHECKED = {"sagemaker"}  # what they are given is checked against AWS's description


_delete_stack = ResourceMap.delete


def _delete_what_is_not_retained(resources: ResourceMap) -> None:
    """Deletes a stack's resources; moto knows only the older of the two words that keep one."""
    for resource in resources._resource_json_map.values():
        if resource.get("DeletionPolicy") == "RetainExceptOnCreate":
            resource["DeletionPolicy"] = "Retain"
    _delete_stack(resources)


ResourceMap.delete = _delete_what_is_not_retained  # type: ignore[method-assign]


class Server:
    """The emulator's server.

    Args:
        root: A folder for what it writes.
        port: Where it listens; 0: anywhere.
        namespaces: Whether containers have an /opt/ml of their own; None: where this machine allows it.
    """

    def __init__(self, root: Path, port: int = 0, namespaces: bool | None = None) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server: BaseWSGIServer = make_server(
            "127.0.0.1", port, self._answer, threaded=True, request_handler=_Handler
        )
        self.url = f"http://127.0.0.1:{self._server.port}"
        self.cloud = Cloud(root, self.url, namespaces)
        self.faults = Faults()
        self.journal = Journal()
        quotas = Quotas(self.cloud)
        training = TrainingJobs(self.cloud, quotas)
        packages = ModelPackages(self.cloud)
        models = Models(self.cloud, packages)
        endpoints = Endpoints(self.cloud, models, quotas)
        functions = Functions(self.cloud)
        self._apis = HttpApis(self.cloud, functions)
        schedules = Schedules(self.cloud)
        transform = TransformJobs(self.cloud, models)
        self._policies = Policies(self.cloud)
        Prices(self.cloud)
        parts = (training, endpoints, models, packages, functions, transform)
        self._control = Control(self.cloud, self.faults, self.journal, quotas, schedules, parts)
        self._conditional = threading.Lock()

    def serve(self) -> None:
        """Answers until the process ends."""
        self._server.serve_forever()

    def close(self) -> None:
        """Ends all containers."""
        self.cloud.containers.close()

    def _answer(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path.startswith("/_emulator/"):
            return self._control.answer(environ)(environ, start)
        if path.startswith("/_apigw/"):
            return self._apis.answer(environ)(environ, start)
        call = identify(environ)
        entry = self.journal.begin(call)
        try:
            response = self._fault(call, entry)
        except NoAnswerError:
            entry.fault = "outage"
            with contextlib.suppress(OSError):
                environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            response = Response(status=500)
        return response(environ, start)

    def _fault(self, call: Call, entry: Entry) -> Response:
        internal = INTERNAL in (call.header("User-Agent") or "")
        entry.fault, error = ("", None) if internal else self.faults.meet(call)
        response = refusal(error, call.service) if error is not None else None
        if error is None or entry.fault == "after":
            performed = self._perform(call)
            response = response or performed
        assert response is not None
        entry.status = response.status_code
        return response

    def _perform(self, call: Call) -> Response:
        operation = self.cloud.operations.get((call.service, call.operation))
        try:
            self._policies.enforce(call)
            if operation is None:
                return self._pass_on(call)
            if call.service in _CHECKED:
                validate(call)
            result = operation(call)
        except AwsError as error:
            return refusal(error, call.service)
        except ServiceException as error:
            return refusal(AwsError(error.code, error.message), call.service)
        if isinstance(result, Response):
            return result
        content = answer(call.service, call.operation, result)
        return Response(content, content_type="application/x-amz-json-1.1")

    def _pass_on(self, call: Call) -> Response:
        """Lets moto answer."""
        if (check := self.cloud.before.get((call.service, call.operation))) is not None:
            check(call)
        # Of several that write what must not exist yet, one may: moto looks and writes in two steps.
        with self._conditional if call.header("If-None-Match") else contextlib.nullcontext():
            response = Response.from_app(self._moto, call.environ, buffered=True)
        follow = self.cloud.after.get((call.service, call.operation))
        if follow is not None and response.status_code < 400:
            follow(call)
        change = self.cloud.edit.get((call.service, call.operation))
        if change is not None and response.status_code < 400:
            content = json.loads(response.data)
            change(call, content)
            response.data = json.dumps(content)
        return response


class _Handler(MotoRequestHandler):
    """Keeps connections open, and says nothing of each request."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Says nothing."""
