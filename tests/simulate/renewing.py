"""The gateway's renewals alone: real repository, journal and database; listeners are real too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import delete, insert

from gateway import certificate_rows as inventory
from gateway import tables
from gateway.certificate_rows import Held
from gateway.certifying import Certifier
from gateway.library import Library
from gateway.parts import EngineParts
from gateway.renewals import Renewals
from pki.ca import Issuer
from tests.simulate.authority import Authority
from tests.simulate.engine import SimIdentity
from tests.simulate.gateway import SimGateway
from tests.simulate.repository import SimRepository


@dataclass
class SimRenewals:
    """One gateway that does nothing but look at certificates."""

    gateway: SimGateway
    renewals: Renewals

    def address(self, kind: str, name: str, port: int) -> None:
        """Dial `name` at this port from now on."""
        row = tables.addresses.c
        with self.gateway.database.write() as connection:
            connection.execute(delete(tables.addresses).where(row.kind == kind, row.name == name))
            connection.execute(
                insert(tables.addresses).values(
                    kind=kind, name=name, env=self.gateway.sim.env, address=f"127.0.0.1:{port}"
                )
            )

    def held(self, kind: str, name: str) -> Held:
        """Return the row of one listener."""
        return inventory.listed(self.gateway.database)[(kind, name, self.gateway.sim.env)]

    def notes(self, act: str) -> list[str]:
        """Return the results that the journal has under `act`."""
        found = [line.decode() for line in self.gateway.journal.lines(0)]
        return [line for line in found if f'"act":"{act}"' in line]


def certifier(authority: Authority, sim: SimRepository, *names: str) -> Certifier:
    """Return who signs for listeners, by these issuers of the test's authority."""
    issuers = {}
    for name in names or ("node", "mirror"):
        found = authority.issuers[name]
        issuers[name] = Issuer(name, authority.domain, found.certificate, found.key)  # type: ignore[arg-type]  # names of ours
    return Certifier(issuers, sim.clock)  # type: ignore[arg-type]  # names of ours


@contextmanager
def renewing(
    folder: Path, sim: SimRepository, authority: Authority, *, holds: bool = True
) -> Iterator[SimRenewals]:
    """Yield the renewals of a gateway in `folder`; holds: it has the issuers of listeners."""
    gateway = SimGateway(folder, sim)
    parts = EngineParts(
        name="g1",
        database=gateway.database,
        journal=gateway.journal,
        repository=gateway.repository,
        proposals=gateway.proposals,
        identity=SimIdentity(authority),
        certifier=certifier(authority, sim) if holds else None,
        clock=sim.clock,
    )
    try:
        yield SimRenewals(gateway, Renewals(parts, Library(gateway.repository)))
    finally:
        gateway.close()
