"""A gateway's folder and its `gateway.toml`: names of keys, never keys; no switch ends a check."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta
from nacl.public import PrivateKey

from embrasure import fs, limits
from embrasure.config import read_toml
from embrasure.errors import Misuse, Refused
from embrasure.net.identity import IssuerName, check_domain, check_name
from embrasure.trust import layout

FILE = "gateway.toml"
Uri = Annotated[str, Meta(min_length=1, max_length=1024)]
Address = Annotated[str, Meta(pattern=r"^(\[[0-9a-f:]+\]|[a-z0-9.-]+):[0-9]{1,5}$")]


# One key, or while it is rotated the new and the old one; the published root says which signs.
Keys = Uri | Annotated[tuple[Uri, ...], Meta(min_length=1, max_length=8)]


class Online(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """URIs of the keys that sign online; gates: by environment."""

    snapshot: Keys
    timestamp: Keys
    gates: dict[str, Keys]

    def uris(self) -> list[str]:
        """Return the URI of every key."""
        found = (self.snapshot, self.timestamp, *self.gates.values())
        return [uri for one in found for uri in ((one,) if isinstance(one, str) else one)]


class IssuerFiles(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One TLS intermediate: the file of its certificate, the URI of its key."""

    certificate: str
    key: Uri


class Issuers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The intermediates by which a gateway certifies itself, to nodes and to operators.

    node, mirror: by which it renews the certificates of those it dials; without them that is
    done by hand. operator: certifies operators who log in; only beside `login`.
    """

    gateway: IssuerFiles
    admin: IssuerFiles
    node: IssuerFiles | None = None
    mirror: IssuerFiles | None = None
    operator: IssuerFiles | None = None

    def held(self) -> dict[IssuerName, IssuerFiles]:
        """Return the intermediates that are there, by name."""
        every: tuple[tuple[IssuerName, IssuerFiles | None], ...] = (
            ("gateway", self.gateway),
            ("admin", self.admin),
            ("node", self.node),
            ("mirror", self.mirror),
            ("operator", self.operator),
        )
        return {name: files for name, files in every if files is not None}


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `gateway.toml` says. Paths are relative to its folder.

    listen: where operators dial; login: where those without a certificate do, a port of its own
    tls_key: of the identity that dials, when it lies in a token; else a new one in memory each day
    """

    name: str
    domain: str
    listen: Address
    login: Address | None = None
    collect_key_file: str
    online: Online
    issuers: Issuers
    tls_key: Uri | None = None


@dataclass(frozen=True, slots=True)
class Paths:
    """The folder of one gateway. `repository` alone may be shown to anybody."""

    folder: Path

    @property
    def repository(self) -> Path:
        """What is published."""
        return self.folder / "repository"

    @property
    def incoming(self) -> Path:
        """Trust files that a later `gateway init` brought; published at the next start."""
        return self.folder / "incoming"

    @property
    def state(self) -> Path:
        """Database, journal, own verified view: 0700."""
        return self.folder / "state"

    @property
    def keys(self) -> Path:
        """Encrypted key files and the collect key: 0700."""
        return self.folder / "keys"

    @property
    def anchor(self) -> Path:
        """Root version 1."""
        return self.folder / "anchor.json"


def read_config(folder: Path) -> Config:
    """Return the gateway's configuration; raises Misuse, Denied."""
    config = read_toml(folder / FILE, Config, document="gateway")
    check_name(config.name)
    check_domain(config.domain)
    for env in config.online.gates:
        layout.check_env(env)
    if (config.login is None) != (config.issuers.operator is None):
        raise Misuse(
            FILE, expected="`login` and [issuers.operator] together", got="one of them",
            hint="embrasure gateway init DIR --trust TRUST --login HOST:PORT writes both",
        )  # fmt: skip
    return config


def write_config(folder: Path, config: Config) -> None:
    """`gateway.toml` says what `config` says; raises Misuse for text that TOML would not keep."""
    lines = [
        _line("name", config.name),
        _line("domain", config.domain),
        _line("listen", config.listen),
        *([_line("login", config.login)] if config.login else []),
        _line("collect_key_file", config.collect_key_file),
        *([_line("tls_key", config.tls_key)] if config.tls_key is not None else []),
        "\n[online]",
        _line("snapshot", config.online.snapshot),
        _line("timestamp", config.online.timestamp),
        "\n[online.gates]",
        *(_line(env, uri) for env, uri in sorted(config.online.gates.items())),
    ]
    for name, issuer in config.issuers.held().items():
        lines += [
            f"\n[issuers.{name}]",
            _line("certificate", issuer.certificate),
            _line("key", issuer.key),
        ]
    fs.replace_file(folder, FILE, ("\n".join(lines) + "\n").encode("utf-8"))


def _line(key: str, value: str | tuple[str, ...]) -> str:
    if not isinstance(value, str):
        return f"{key} = [{', '.join(_text(key, item) for item in value)}]"
    return f"{key} = {_text(key, value)}"


def _text(key: str, value: str) -> str:
    if not value.isprintable() or '"' in value or "\\" in value:
        raise Misuse(f"{FILE}: {key}", expected="plain text", got=value)
    return f'"{value}"'


def read_collect_key(folder: Path, config: Config) -> PrivateKey:
    """Return the key that receipts are sealed to; raises Refused, Denied (not ours alone)."""
    raw = fs.read_file(folder / config.collect_key_file, limit=limits.KEYFILE_BYTES, private=True)
    try:
        return PrivateKey(bytes.fromhex(raw.decode("ascii").strip()))
    except ValueError:
        raise Refused("collect key", expected="64 hex digits", got="something else") from None
