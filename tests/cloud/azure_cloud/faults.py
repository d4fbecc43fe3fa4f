"""Faults on demand: refusals, answers that are lost, connections that break."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .calls import Answer, AzureError, NoAnswerError, Request

__all__ = ["Fault", "Faults"]


@dataclass
class Fault:
    """What goes wrong with requests that fit.

    Attributes:
        method: Of HTTP; "" any.
        path: A pattern found in the host and path, such as r"management.azure.com/.*/jobs/".
        status: Of the answer; 0: the connection is closed without one.
        code: Azure's word.
        message: Azure's words.
        times: How often, from now on; None: always.
        probability: Of each that fits.
        after: Whether the request is performed before it is answered so.
        headers: Of the answer, such as Retry-After.
    """

    method: str
    path: str
    status: int
    code: str
    message: str
    times: int | None
    probability: float
    after: bool
    headers: dict[str, str]

    def fits(self, request: Request) -> bool:
        """Tells whether a request is meant."""
        meant = self.method in ("", request.method)
        return meant and re.search(self.path, request.host + request.path, re.IGNORECASE) is not None

    def answer(self, request: Request) -> Answer:
        """Returns the answer, or raises where there is none."""
        if self.status == 0:
            raise NoAnswerError
        message = self.message or f"{self.code} was injected into {request.method} {request.path}"
        return Answer.of(AzureError(self.code, message, self.status, headers=self.headers), request)


class Faults:
    """What is wrong with Azure now."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._chance = random.Random(0)
        self._lock = threading.Lock()

    def add(self, given: Mapping[str, Any]) -> None:
        """Adds a fault; see `AzureEmulator.fault`."""
        with self._lock:
            self._faults.append(Fault(**given))

    def clear(self) -> None:
        """Makes everything right again."""
        with self._lock:
            self._faults.clear()
            self._chance.seed(0)

    def meet(self, request: Request) -> Fault | None:
        """Returns what goes wrong with a request, None where nothing does."""
        with self._lock:
            for fault in self._faults:
                if not fault.fits(request) or self._chance.random() >= fault.probability:
                    continue
                if fault.times is not None:
                    if fault.times <= 0:
                        continue
                    fault.times -= 1
                return fault
        return None
