"""Who is dialled for a certificate: nodes, mirrors and letterboxes with an address, by identity."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select

from embrasure import limits
from embrasure.errors import EmbrasureError, NotFound, Refused
from embrasure.net.dial import Server
from embrasure.net.identity import Identity, Role
from embrasure.net.trustbundle import Trust
from embrasure.trust.directory import Entry
from gateway import tables
from gateway.certificate_rows import Key
from gateway.gates import Ground
from gateway.library import Library
from gateway.parts import EngineParts

_ROLES: dict[str, Role] = {"node": "node", "mirror": "mirror", "letterbox": "letterbox"}


@dataclass(frozen=True, slots=True)
class ListenerAt:
    """One listener, where it is dialled, and whom to believe there. entry: of a node."""

    key: Key
    address: str
    trust: Trust
    entry: Entry | None

    @property
    def identity(self) -> Identity:
        """Whom its certificate must name."""
        return Identity(_ROLES[self.key[0]], self.key[1])

    def server(self, parts: EngineParts) -> Server:
        """Return the listener as something whose certificate can be looked at."""
        who = self.identity
        return Server(self.address, who.role, who.name, self.trust, clock=parts.clock)


def addressed(parts: EngineParts) -> dict[Key, str]:
    """Return the address of every listener that somebody gave one."""
    row = tables.addresses.c
    query = select(tables.addresses).where(row.kind.in_(tuple(_ROLES))).limit(limits.ADDRESSES)
    found = parts.database.all(query)
    return {(one.kind, one.name, one.env): str(one.address) for one in found}


@dataclass(frozen=True, slots=True)
class Believed:
    """What verified files say of one environment: read once for all of its listeners."""

    trust: Trust
    ground: Ground


def believed(parts: EngineParts, library: Library, env: str) -> Believed:
    """Return whom to believe in `env`; raises Unavailable, Refused."""
    of = trust_env(parts, env)
    return Believed(library.trust(of, ""), library.ground(of, ""))


def listener(key: Key, address: str, known: Believed) -> ListenerAt:
    """Return the listener that the verified directory lets this gateway dial.

    Raises Refused (`not-enrolled`) for a node without an active, undenied entry.
    """
    entry = check_entry(known.ground, key[1]) if key[0] == "node" else None
    if entry is not None and entry.env != key[2]:
        raise Refused(f"node {entry.id}", expected=f"an entry of {key[2]}", got=entry.env,
                      reason="not-enrolled")  # fmt: skip
    return ListenerAt(key, address, known.trust, entry)


def check_entry(ground: Ground, name: str) -> Entry:
    """Return the active, undenied directory entry of a node; raises Refused (`not-enrolled`)."""
    entry = ground.entries.get(name)
    if entry is None or entry.state != "active" or name in ground.denied.nodes:
        raise Refused(
            f"node {name}", expected="an active, undenied entry", got="none", reason="not-enrolled"
        )
    return entry


def node_at(parts: EngineParts, library: Library, env: str, name: str) -> ListenerAt:
    """Return the push node of this name; raises NotFound (`no-address`), Refused."""
    key = ("node", name, env)
    address = addressed(parts).get(key)
    if address is None:
        raise NotFound(
            f"address of {name}", expected="one to dial", got="none",
            hint=f"embrasure fleet address node {name} HOST:PORT --env {env}", reason="no-address",
        )  # fmt: skip
    return listener(key, address, believed(parts, library, env))


def all_listeners(
    parts: EngineParts, library: Library
) -> tuple[dict[Key, ListenerAt], dict[Key, EmbrasureError]]:
    """Return every listener that may be dialled, and why the others may not."""
    found: dict[Key, ListenerAt] = {}
    wrong: dict[Key, EmbrasureError] = {}
    envs: dict[str, Believed | EmbrasureError] = {}
    for key, address in addressed(parts).items():
        env = key[2]
        try:
            if env not in envs:
                envs[env] = _tried(parts, library, env)
            known = envs[env]
            if isinstance(known, EmbrasureError):
                raise known
            found[key] = listener(key, address, known)
        except EmbrasureError as problem:
            wrong[key] = problem
    return found, wrong


def _tried(parts: EngineParts, library: Library, env: str) -> Believed | EmbrasureError:
    try:
        return believed(parts, library, env)
    except EmbrasureError as problem:
        return problem


def trust_env(parts: EngineParts, env: str) -> str:
    """Return the environment whose `tls.json` counts for a mirror: its own, else any.

    One repository has one trust domain.
    """
    view = parts.repository.view()
    envs = sorted(name[6:] for name in view.roles if name.startswith("fleet-"))
    return env if env in envs or not envs else envs[0]
