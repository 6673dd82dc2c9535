"""A trust client of one machine, its folder, its clock, and a repository that it refreshes from."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from embrasure.errors import EmbrasureError
from embrasure.trust.client import TrustClient
from embrasure.trust.view import View
from tests.simulate.repository import SimRepository

START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
ROLES = ("fleet-dev", "revocations", "gates-dev", "dev-shop")


@dataclass(slots=True)
class Time:
    """A clock that tests set."""

    at: datetime = START

    def __call__(self) -> datetime:
        return self.at

    def pass_(self, **spans: float) -> None:
        """So much later."""
        self.at += timedelta(**spans)


class Bench:
    """A repository with one app, and a client folder."""

    def __init__(self, folder: Path) -> None:
        self.time = Time()
        self.repo = SimRepository(clock=self.time)
        self.node = self.repo.add_node(labels={"tier": "web"})
        self.repo.add_app("shop")
        self.release = self.repo.add_release("shop")
        self.plan = self.repo.set_plan(self.release, canary=[self.node])
        self.repo.set_gate(self.plan)
        self.repo.publish()
        self.folder = folder / "tuf"
        self.source = self.repo.source()

    def client(self) -> TrustClient:
        """Return the client of a process that begins."""
        return TrustClient(self.folder, self.repo.anchor, clock=self.time)

    def refresh(self, source: object = None, roles: tuple[str, ...] = ROLES) -> View:
        """A new process each time: nothing but the disk is remembered."""
        return self.client().refresh(source or self.source, roles=roles)  # type: ignore[arg-type]  # any source

    def refused(self, source: object = None, roles: tuple[str, ...] = ROLES) -> EmbrasureError:
        """Return what a refresh is refused with."""
        with pytest.raises(EmbrasureError) as found:
            self.refresh(source, roles)
        return found.value

    def gate(self, **changes: int) -> None:
        """Another gate for the plan is published."""
        self.repo.set_gate(self.plan, **changes)  # type: ignore[arg-type]  # open_wave, attempt
        self.repo.publish()


def versions(view: View) -> dict[str, int]:
    """Return the version of each role in a view."""
    return {name: role.version for name, role in view.roles.items()}
