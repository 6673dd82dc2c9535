"""What ends when: one row for each certificate, role, key and token, and the warning before it.

Inventory, doctor, the gateway's log and its metrics all judge by this one file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.x509.oid import NameOID

from embrasure import limits
from embrasure.advice import HERE, Where, command_of
from embrasure.clock import write_time
from embrasure.errors import shown
from embrasure.trust import layout

State = Literal["quiet", "expiring", "expired"]

# Kind -> how long before its end it is told.
WINDOWS: Mapping[str, int] = {
    "ca-root": limits.WARN_CA_ROOT_SECONDS,
    "issuer": limits.WARN_ISSUER_SECONDS,
    "boot": limits.WARN_CA_ROOT_SECONDS,
    "gateway": limits.WARN_GATEWAY_LEAF_SECONDS,
    "gateway-admin": limits.WARN_SERVICE_LEAF_SECONDS,
    "node": limits.WARN_NODE_LEAF_SECONDS,
    "mirror": limits.WARN_SERVICE_LEAF_SECONDS,
    "letterbox": limits.WARN_SERVICE_LEAF_SECONDS,
    "operator": limits.WARN_OPERATOR_LEAF_SECONDS,
    "root": limits.WARN_ROOT_SECONDS,
    "targets": limits.WARN_ROOT_SECONDS,
    "fleet": limits.WARN_FLEET_SECONDS,
    "revocations": limits.WARN_REVOCATIONS_SECONDS,
    "approval": limits.WARN_APPROVAL_SECONDS,
    "gates": limits.WARN_SNAPSHOT_SECONDS,
    "snapshot": limits.WARN_SNAPSHOT_SECONDS,
    "timestamp": limits.WARN_TIMESTAMP_SECONDS,
    "token": 0,
    "key": 0,
}
_SILENT = frozenset({"token"})  # one that is not used in time is void, and harms nobody
_DAY = 86400
_LIVES: Mapping[str, int] = {
    "root": 365 * _DAY,
    "targets": 365 * _DAY,
    "fleet": 180 * _DAY,
    "revocations": 30 * _DAY,
    "approval": 180 * _DAY,
    "gates": limits.GATES_SECONDS,
    "snapshot": limits.SNAPSHOT_SECONDS,
    "timestamp": limits.TIMESTAMP_SECONDS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing that somebody holds.

    kind: a key of `WINDOWS`; what: as people read it; name: the role or identity that it is of;
    until: None for what has no end (keys); life_s: from its making to its end; command: what to
    run before then; place: where it was found
    """

    kind: str
    what: str
    name: str
    holder: str
    until: datetime | None
    life_s: int
    command: str
    place: str
    issuer: str = ""
    serial: str = ""
    action: str = "renew"

    @property
    def title(self) -> str:
        """What it is, with the version of a role."""
        is_role = self.kind in _LIVES and self.serial
        return f"{self.what} v{self.serial}" if is_role else self.what

    def window_s(self, expiring_s: float | None = None) -> int:
        """Return how long before its end it is told; expiring_s: asked for, instead of its own.

        What lives less than twice as long as asked for keeps its own: a 7-day certificate is
        always inside 14 days, and an alarm that always rings is none.
        """
        if expiring_s is None or self.life_s < 2 * expiring_s:
            return WINDOWS[self.kind]
        return int(expiring_s)

    def left_s(self, at: datetime) -> int | None:
        """Return the seconds to its end, below zero after it."""
        return None if self.until is None else int((self.until - at).total_seconds())

    def state(self, at: datetime, expiring_s: float | None = None) -> State:
        """Return whether it must be told at `at`."""
        left = self.left_s(at)
        if left is None or self.kind in _SILENT or left > self.window_s(expiring_s):
            return "quiet"
        return "expired" if left <= 0 else "expiring"

    def as_json(self, at: datetime, expiring_s: float | None = None) -> dict[str, object]:
        """Return the row of `--json`."""
        return {
            "kind": self.kind,
            "what": self.what,
            "name": self.name,
            "holder": self.holder,
            "issuer": self.issuer,
            "serial": self.serial,
            "not_after": "" if self.until is None else write_time(self.until),
            "life_s": self.life_s,
            "window_s": self.window_s(expiring_s),
            "left_s": self.left_s(at),
            "state": self.state(at, expiring_s),
            "action": self.action,
            "command": self.command,
            "place": self.place,
        }

    def sentence(self, at: datetime) -> str:
        """Return one line that says what ends when."""
        if self.until is None:
            return f"{self.title}: {self.holder}"
        verb = "expired" if self.until <= at else "expires"
        return f"{self.title} of {self.holder} {verb} at {write_time(self.until)}"


def told(items: Iterable[Item], at: datetime, expiring_s: float | None = None) -> list[Item]:
    """Return what has ended or ends inside its window, the soonest first."""
    found = [item for item in items if item.state(at, expiring_s) != "quiet"]
    return sorted(found, key=lambda item: (item.left_s(at) or 0, item.what, item.holder))


def role_item(
    role: str,
    *,
    version: int,
    until: datetime | None,
    holder: str,
    place: str | Path,
    where: Where = HERE,
) -> Item:
    """Return the row of one metadata role; until: None when its file is elsewhere."""
    kind = role_kind(role)
    return Item(
        kind=kind,
        what=f"role {role}",
        name=role,
        holder=holder,
        issuer="root" if role in layout.TOP_ROLES else "targets",
        serial=str(version) if version else "",
        until=until,
        life_s=_LIVES[kind],
        action="sign again",
        command=command_of(kind, role, where),
        place=str(place),
    )


def role_kind(role: str) -> str:
    """Return the kind of a metadata role."""
    if role in WINDOWS:
        return role
    head, _, rest = role.partition("-")
    return head if rest and head in ("fleet", "gates") else "approval"


def certificate_item(
    cert: x509.Certificate, *, place: str | Path, where: Where = HERE, state: str = ""
) -> Item:
    """Return the row of one certificate; names in it are shown, never believed.

    state: of an issuer in a rotation, such as `prepared`
    """
    kind, holder = _names(cert)
    starts, until = cert.not_valid_before_utc, cert.not_valid_after_utc
    return Item(
        kind=kind,
        what=f"certificate {kind} ({state})" if state else f"certificate {kind}",
        name=holder,
        holder=holder,
        issuer=_common_name(cert.issuer) or holder,
        serial=f"{cert.serial_number:x}",
        until=until,
        life_s=int((until - starts).total_seconds()),
        action="replace" if kind in ("issuer", "ca-root") else "renew",
        command=command_of(kind, holder, where),
        place=str(place),
    )


def _names(cert: x509.Certificate) -> tuple[str, str]:
    """Return kind and holder."""
    try:
        basic = cert.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        basic = None
    if basic is not None and basic.ca:
        kind = "issuer" if basic.path_length == 0 else "ca-root"
        return kind, _common_name(cert.subject)
    try:
        names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        uris = []
    path = uris[0].removeprefix("spiffe://").partition("/")[2] if uris else ""
    role = path.partition("/")[0]
    if cert.issuer == cert.subject:
        return "boot", shown(path)
    return (role if role in WINDOWS else "boot"), shown(path)


def _common_name(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return shown(found[0].value).removeprefix("embrasure ") if found else ""
