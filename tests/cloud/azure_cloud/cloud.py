"""What the parts of the emulator share, and who answers for which host."""

from __future__ import annotations

import fnmatch
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clock import Clock

from .arm import Arm
from .azurite import Azurite
from .calls import Answer, AzureError, Request
from .certificates import Certificates
from .faults import Faults
from .journal import Journal
from .login import Login
from .operations import Operations
from .schemas import Schemas

__all__ = ["Cloud", "Handler", "Settings"]

Handler = Callable[[Request], Answer]


@dataclass
class Settings:
    """What tests may change while the emulator runs.

    Attributes:
        page_size: Items on a page of a list.
        operation_seconds: That a long-running operation takes at least.
        poll_seconds: That clients are told to wait between two questions about an operation.
        grace_seconds: Between SIGTERM and SIGKILL.
        enforce_roles: Whether role assignments are checked for the test's own login, too: without one it may do
            nothing.
        recreates_deleted: Whether a version of an asset that was deleted may be made again. Azure's registries refuse
            it; of workspaces nothing is known.
    """

    page_size: int = 30
    operation_seconds: float = 0.05
    poll_seconds: float = 0.1
    grace_seconds: float = 30.0
    enforce_roles: bool = False
    recreates_deleted: bool = True


@dataclass(frozen=True)
class _Route:
    pattern: str
    path: str
    handler: Handler
    token: bool


class Cloud:
    """The emulator's parts that others use.

    Args:
        root: Its folder.
        azurite: The folder of `node_modules` that has Azurite.
        schemas: The archive of Microsoft's schemas; None: bodies are not checked.

    Attributes:
        proxy: The address of the proxy, "http://127.0.0.1:PORT"; set when the server listens.
        lock: Held while hooks of a `Kind` run, and by whoever changes a record.
        arm: Azure Resource Manager: `arm.serve(kind)`.
        azurite: Blob Storage: see `Azurite`.
        clock: The time that workflows see.
        login: Makes and reads tokens.
        operations: What takes time.
        allows: Tells whether a principal may do an action ("Microsoft.…/onlineEndpoints/delete") to what has an ARM id.
        cores: Returns how many cores of a family of machines may be used.
        verbs: What tests tell the emulator, by name: each is given the JSON as a mapping and returns JSON.
        closes: Called with a workspace's id in small letters when it is reset, or None when the emulator ends; the
            kinds of `arm` are closed before these.
        tells: What `state` shows beside the kinds of `arm`, by name: each is given a workspace's id or None.
        registered: The namespaces of Azure's services that the subscription may use, in small letters.
        clears: Called when tests take back all faults.
    """

    def __init__(self, root: Path, azurite: Path, schemas: Path | None = None) -> None:
        self.root = root
        self.proxy = ""
        self.settings = Settings()
        self.clock = Clock()
        self.lock = threading.RLock()
        self.certificates = Certificates(root / "certificates")
        self.login = Login()
        self.journal = Journal()
        self.faults = Faults()
        self.schemas = Schemas(schemas)
        self.azurite = Azurite(root / "azurite", azurite)
        self.operations = Operations(self)
        self.arm = Arm(self)
        self.allows: Callable[[str, str, str], bool] = lambda *_: True
        self.cores: Callable[[str], int] = lambda _: 100
        self.verbs: dict[str, Callable[[Mapping[str, Any]], Any]] = {}
        self.closes: list[Callable[[str | None], None]] = []
        self.tells: dict[str, Callable[[str | None], list[str]]] = {}
        self.clears: list[Callable[[], None]] = []
        self.registered: set[str] = set()
        self._routes: list[_Route] = []
        self.serve_host("management.azure.com", self.arm.answer)
        self.serve_host("login.microsoftonline.com", self.login.answer, token=False)
        status = r"/subscriptions/[^/]+/providers/.+/[a-z]*OperationsStatus/([^/]+)"
        self.arm.function("GET", status, self.operations.status)

    # -- what parts use -----------------------------------------------------------------------------------------------

    def serve_host(self, pattern: str, handler: Handler, *, path: str = "/", token: bool = True) -> None:
        """Answers for hosts; without that, a host is refused by the proxy.

        Args:
            pattern: Of the name, such as "*.api.azureml.ms".
            handler: What answers; it may raise AzureError or NoAnswerError.
            path: Only paths that begin so, whatever their case; the longest that fits wins.
            token: Whether a bearer token is asked for and `Request.caller` set from it.
        """
        self._routes.append(_Route(pattern, path.lower(), handler, token))

    def environment(self) -> dict[str, str]:
        """Returns how a process reaches the emulator, and nothing else."""
        authority = str(self.certificates.authority)
        return {
            "HTTPS_PROXY": self.proxy, "https_proxy": self.proxy, "HTTP_PROXY": self.proxy, "http_proxy": self.proxy,
            "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost",
            "REQUESTS_CA_BUNDLE": authority, "SSL_CERT_FILE": authority,
        }  # fmt: skip

    def call(self, request: Request) -> Answer:
        """Answers a request as if it had come over the network, with faults and in the journal.

        Whoever calls this from inside sets `request.caller` to the id of the principal that asks.
        """
        entry = self.journal.begin(request)
        fault = self.faults.meet(request)
        if fault is None:
            answer = self._perform(request)
        else:
            entry.fault = "after" if fault.after else "before"
            if fault.after:
                self._perform(request)
            answer = fault.answer(request)
        entry.status = answer.status
        return answer

    def close_workspace(self, id: str) -> None:
        """Ends everything that runs in a workspace."""
        for close in [*(kind.close for kind in self.arm.kinds.values()), *self.closes]:
            close(id.lower())

    def close(self) -> None:
        """Ends everything that runs."""
        for close in [*(kind.close for kind in self.arm.kinds.values()), *self.closes]:
            close(None)
        self.azurite.close()

    # -- who answers --------------------------------------------------------------------------------------------------

    def knows(self, host: str) -> bool:
        """Tells whether anything answers for a host."""
        return any(fnmatch.fnmatchcase(host, route.pattern) for route in self._routes)

    def _perform(self, request: Request) -> Answer:
        try:
            route = self._route(request)
            if route.token and not request.caller:
                request.caller = self.login.caller(request)
            return route.handler(request)
        except AzureError as error:
            return Answer.of(error, request)

    def _route(self, request: Request) -> _Route:
        path = re.sub("/+", "/", request.path.lower())
        fitting = [
            route
            for route in self._routes
            if fnmatch.fnmatchcase(request.host, route.pattern) and path.startswith(route.path)
        ]
        if not fitting:
            raise AzureError("NotFound", f"Nothing answers for {request.method} {request.host}{request.path}", 404)
        return max(fitting, key=lambda route: len(route.path))
