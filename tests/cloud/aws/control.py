"""The side door: what tests tell the emulator and ask of it, as JSON under /_emulator/."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from werkzeug.wrappers import Request, Response

from .cloud import Cloud
from .faults import Faults
from .journal import Journal
from .quotas import Quotas
from .schedules import Schedules
from .state import forget, state
from .training import TrainingJobs

__all__ = ["Control"]


class Part(Protocol):
    """A part of the emulator that keeps something."""

    def close(self, region: str | None = None) -> None:
        """Ends and forgets all of a region, or of all."""


class Control:
    """Answers the handle; see `Emulator` for what each does.

    Args:
        cloud: The emulator.
        faults: What goes wrong.
        journal: What was called.
        quotas: What may be used.
        schedules: What is done later.
        parts: What keeps something; the training jobs first.
    """

    def __init__(
        self,
        cloud: Cloud,
        faults: Faults,
        journal: Journal,
        quotas: Quotas,
        schedules: Schedules,
        parts: Sequence[Part],
    ) -> None:
        self._cloud = cloud
        self._faults = faults
        self._journal = journal
        self._quotas = quotas
        self._parts = parts
        self._schedules = schedules
        self._verbs: dict[str, Callable[[Mapping[str, Any]], Any]] = {
            "faults": lambda given: faults.add(given),
            "clear_faults": self._clear,
            "calls": lambda given: journal.since(given["mark"]),
            "count": lambda _: journal.count(),
            "state": lambda given: state(cloud, given["region"]),
            "advance": self._advance,
            "reset_clock": lambda _: cloud.clock.reset(),
            "interrupt_spot": lambda given: _training(parts).run(given["region"], given["job"]).interrupt(),
            "quota": lambda given: quotas.set(given["region"], given["name"], given["value"]),
            "settings": self._set,
            "reset_region": lambda given: self._reset(given["region"]),
        }

    def answer(self, environ: dict[str, Any]) -> Response:
        """Answers one request."""
        verb = environ["PATH_INFO"].rpartition("/")[2]
        given = json.loads(Request(environ).get_data() or b"{}")
        if verb not in self._verbs:
            return Response(f"no such verb: {verb}", 404)
        try:
            return Response(json.dumps(self._verbs[verb](given)), content_type="application/json")
        except Exception as error:
            return Response(f"{type(error).__name__}: {error}", 400)

    def _clear(self, given: Mapping[str, Any]) -> None:
        self._faults.clear()
        self._quotas.reset()
        self._cloud.settings.capacity_errors = 0

    def _advance(self, given: Mapping[str, Any]) -> None:
        self._cloud.clock.advance(given["seconds"])
        self._schedules.fire()

    def _set(self, given: Mapping[str, Any]) -> None:
        for name, value in given.items():
            if not hasattr(self._cloud.settings, name):
                raise ValueError(f"no such setting: {name}")
            setattr(self._cloud.settings, name, value)

    def _reset(self, region: str) -> None:
        for part in self._parts:
            part.close(region)
        forget(region)


def _training(parts: Sequence[Part]) -> TrainingJobs:
    return next(part for part in parts if isinstance(part, TrainingJobs))
