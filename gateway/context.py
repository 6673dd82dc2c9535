"""An operator's context: which gateway, which fleet, which person, with the names of his files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from embrasure import fs, limits
from embrasure.config import read_toml
from embrasure.errors import Misuse
from embrasure.net.identity import check_domain, check_name
from gateway.address import check_address

_PEM_BYTES = 64 * limits.KIB


class ContextFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`context.toml` as `embrasure pki issue operator/NAME` writes it; paths relative to it.

    gateway: where operators dial; login: where `embrasure login` does, empty for none
    """

    gateway: str
    domain: str
    person: str
    anchor: str
    admin_issuer: str
    tls_cert: str
    tls_key: str
    key: Annotated[str, Meta(min_length=1, max_length=1024)]
    state: str
    login: str = ""


@dataclass(frozen=True, slots=True)
class OperatorContext:
    """A context that was read: files are opened when they are needed."""

    folder: Path
    file: ContextFile

    @property
    def person(self) -> str:
        """Who acts."""
        return self.file.person

    @property
    def domain(self) -> str:
        """The TLS trust domain."""
        return self.file.domain

    @property
    def state(self) -> Path:
        """What this machine remembers: verified metadata, what it signed, the audit head."""
        return self.folder / self.file.state

    def anchor(self) -> bytes:
        """Return root version 1, which pins the fleet; it is never fetched."""
        return fs.read_file(self.folder / self.file.anchor, limit=limits.ROOT_BYTES)

    def admin_issuer(self) -> bytes:
        """Return the one issuer that may certify the gateway's operator listener."""
        return fs.read_file(self.folder / self.file.admin_issuer, limit=_PEM_BYTES)

    def tls(self) -> tuple[bytes, bytes]:
        """Return the operator's TLS key and chain; raises Denied when others may read the key."""
        key = fs.read_file(self.folder / self.file.tls_key, limit=_PEM_BYTES, private=True)
        return key, fs.read_file(self.folder / self.file.tls_cert, limit=_PEM_BYTES)


def read_context(path: Path | None) -> OperatorContext:
    """Return the context at `path`, else the user's default one; raises Misuse, Denied."""
    where = path or _default()
    if where.is_dir():
        where = where / "context.toml"
    if path is None and not where.exists():
        raise Misuse(
            "context",
            expected=f"--context FILE, EMBRASURE_CONTEXT or {where}",
            got="none",
            hint="embrasure pki issue operator/NAME DIR --out OUT --gateway ADDRESS --key KEY",
        )
    file = read_toml(where, ContextFile, document="context")
    check_address(file.gateway)
    if file.login:
        check_address(file.login)
    check_domain(file.domain)
    check_name(file.person)
    return OperatorContext(where.parent, file)


def _default() -> Path:
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "embrasure" / "context.toml"
