"""What to type before a thing ends: one command a kind, made here and never told by anybody else.

Every part of it that is not ours is quoted: whoever pastes the line runs that verb and no other.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

_BY_GATEWAY = frozenset({"gates", "snapshot", "timestamp", "gateway", "gateway-admin"})
_BY_PEOPLE = frozenset({"root", "targets", "fleet", "revocations"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """The folders that a command names; capitals stand for what the reader knows better."""

    trust: str | Path = "TRUST"
    gateway: str | Path = "GATEWAY"
    out: str | Path = "DIR"
    env: str = "ENV"
    context: str | Path = ""


HERE = Where()


def command_of(kind: str, name: str, where: Where = HERE) -> str:
    """Return the command that renews or replaces what is of `kind`.

    kind: a key of `embrasure.expiry.WINDOWS`; name: the role, or the identity `ROLE/NAME`
    """
    if kind in _BY_GATEWAY:
        return verb("gateway", "run", where.gateway)
    if kind in _BY_PEOPLE:
        return verb("trust", "renew", where.trust, "--role", name)
    if kind == "approval":
        return verb("release", "propose", "BUNDLE", "--plan", "PLAN")
    if kind == "node":
        return verb("fleet", "recover", name.removeprefix("node/"), "--env", where.env)
    if kind in ("mirror", "letterbox"):
        return verb("pki", "issue", name, where.trust, "--out", where.out)
    if kind == "operator":
        return verb("login", *(["--context", where.context] if where.context else []))
    if kind in ("key", "boot"):
        return verb("pki", "enrol", "STATEMENT", where.trust)
    if kind == "token":
        return verb("pki", "join", name, where.trust, "--env", where.env)
    if kind == "ca-root":
        return verb("pki", "ca", "rotate", where.trust)
    return verb("pki", "issuer", "rotate", name.removesuffix("-ca"), where.trust)


def verb(*words: str | Path) -> str:
    """Return `embrasure WORDS`, each word quoted for a shell."""
    return shlex.join(["embrasure", *map(str, words)])
