"""The inventory of listeners' certificates: what each showed last, and what keeps it from renewal.

Rows are shown to people and decide when a listener is dialled again; they carry no trust.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from sqlalchemy import Row, delete, insert, select

from embrasure import limits
from embrasure.clock import read_time, write_time
from embrasure.errors import shown
from gateway import tables
from gateway.database import Database
from gateway.dialling import pause_s

FIRST_PAUSE_S = 60.0
_JITTER = 0.1
Key = tuple[str, str, str]  # kind, name, env


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """One listener's certificate. Times are None for never; issuer: its key identifier, in hex."""

    kind: str
    name: str
    env: str
    serial: str = ""
    not_before: datetime | None = None
    not_after: datetime | None = None
    issuer: str = ""
    seen: datetime | None = None
    failing: datetime | None = None
    failures: int = 0
    tried: datetime | None = None
    problem: str = ""

    @property
    def key(self) -> Key:
        """What names the listener: the same as in the table of addresses."""
        return self.kind, self.name, self.env

    def due(self) -> datetime | None:
        """Return when it is to be renewed: a third of its life after its start, 10 % about.

        None: nothing of it is known yet. Each serial has its own moment, so a fleet enrolled in one
        hour is not renewed in one.
        """
        if self.not_before is None or self.not_after is None:
            return None
        share = hashlib.sha256(self.serial.encode()).digest()[0] / 255
        third = (self.not_after - self.not_before) / 3
        return self.not_before + third * (1 - _JITTER + 2 * _JITTER * share)

    def rests_until(self) -> datetime | None:
        """Return until when it is left alone after attempts that failed; None: it is not."""
        if not self.failures or self.tried is None:
            return None
        most = limits.RENEWAL_RETRY_SECONDS
        return self.tried + timedelta(
            seconds=pause_s(self.failures, first=FIRST_PAUSE_S, most=most)
        )

    def as_json(self) -> dict[str, object]:
        """Return what operators see."""
        due = self.due()
        return {
            "serial": self.serial,
            "issuer": self.issuer,
            "not_before": _text(self.not_before),
            "not_after": _text(self.not_after),
            "renews": _text(due),
            "seen": _text(self.seen),
            "failing_since": _text(self.failing),
            "problem": self.problem,
        }


def listed(database: Database, env: str | None = None) -> dict[Key, Held]:
    """Return every row of the inventory, or those of one environment."""
    query = select(tables.certificates).limit(limits.ADDRESSES)
    if env is not None:
        query = query.where(tables.certificates.c.env == env)
    found = map(_held, database.all(query))
    return {held.key: held for held in found}


def save(database: Database, held: Held) -> None:
    """The row says what `held` says."""
    row = tables.certificates.c
    mine = (row.kind == held.kind) & (row.name == held.name) & (row.env == held.env)
    values = {
        "kind": held.kind,
        "name": held.name,
        "env": held.env,
        "serial": held.serial,
        "not_before": _text(held.not_before),
        "not_after": _text(held.not_after),
        "issuer": held.issuer,
        "seen": _text(held.seen),
        "failing": _text(held.failing),
        "failures": held.failures,
        "tried": _text(held.tried),
        "problem": held.problem,
    }
    with database.write() as connection:
        connection.execute(delete(tables.certificates).where(mine))
        connection.execute(insert(tables.certificates).values(**values))


def forget(database: Database, keys: list[Key]) -> None:
    """Listeners that are dialled no more have no row."""
    row = tables.certificates.c
    with database.write() as connection:
        for kind, name, env in keys:
            mine = (row.kind == kind) & (row.name == name) & (row.env == env)
            connection.execute(delete(tables.certificates).where(mine))


def seen(key: Key, leaf: x509.Certificate, *, at: datetime) -> Held:
    """Return the row of a listener that showed this leaf."""
    kind, name, env = key
    return Held(
        kind=kind,
        name=name,
        env=env,
        serial=f"{leaf.serial_number:x}",
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
        issuer=_issuer_of(leaf),
        seen=at,
    )


def failed(held: Held, problem: object, *, at: datetime) -> Held:
    """Return the row after one more attempt that failed; what was seen before stays."""
    values: Mapping[str, Any] = {
        "failing": held.failing or at,
        "failures": held.failures + 1,
        "tried": at,
        "problem": shown(problem),
    }
    return Held(**{**_members(held), **values})


def is_alarming(before: Held, after: Held) -> bool:
    """Return whether this very attempt made two days of failures out of less: told once."""
    if after.failing is None or after.tried is None:
        return False
    late = after.failing + timedelta(seconds=limits.RENEWAL_LATE_SECONDS)
    return after.tried >= late and (before.tried is None or before.tried < late)


def _members(held: Held) -> dict[str, Any]:
    return {name: getattr(held, name) for name in Held.__dataclass_fields__}


def _held(row: Row[Any]) -> Held:
    return Held(
        kind=row.kind,
        name=row.name,
        env=row.env,
        serial=row.serial,
        not_before=_time(row.not_before),
        not_after=_time(row.not_after),
        issuer=row.issuer,
        seen=_time(row.seen),
        failing=_time(row.failing),
        failures=row.failures,
        tried=_time(row.tried),
        problem=row.problem,
    )


def _issuer_of(leaf: x509.Certificate) -> str:
    """Return the key identifier by which the leaf names its issuer, in hex."""
    try:
        found = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    except (x509.ExtensionNotFound, ValueError):
        return ""
    return (found.key_identifier or b"").hex()


def _text(at: datetime | None) -> str:
    return "" if at is None else write_time(at)


def _time(text: str) -> datetime | None:
    return read_time(text) if text else None
