"""Where a mirror or a letterbox keeps its things, and what its own file tells it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from embrasure import limits
from embrasure.config import read_toml
from embrasure.errors import Refused
from embrasure.fs import Folder, read_file
from embrasure.net.certificates import check_pair, load_certificates
from embrasure.net.credentials import Pair
from embrasure.net.identity import check_domain, check_name
from embrasure.net.pairfile import read_pair
from embrasure.net.profile import check_names
from embrasure.trust import layout
from embrasure.trust.anchor import parse_anchor

Kind = Literal["mirror", "letterbox"]
Address = Annotated[str, Meta(pattern=r"^(\[[0-9a-f:]+\]|[a-z0-9.-]+):[0-9]{1,5}$")]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`mirror.toml` or `letterbox.toml`.

    ingest: where the gateway dials (gRPC); read: where nodes fetch or post (HTTPS);
    door: where anybody below a CA root brings trust files (gRPC).
    """

    kind: Kind
    name: str
    domain: str
    env: str
    ingest: Address = "127.0.0.1:0"
    read: Address = "127.0.0.1:0"
    door: Address = "127.0.0.1:0"


@dataclass(frozen=True, slots=True)
class Paths:
    """The folder of one mirror or letterbox. `public` alone may be shown to anybody."""

    root: Path

    @property
    def public(self) -> Path:
        """What is verified; any web server may serve it."""
        return self.root / "public"

    @property
    def inbox(self) -> Path:
        """What came, and is not verified yet."""
        return self.root / "inbox"

    @property
    def tuf(self) -> Path:
        """The TUF client's own state: versions below which nothing is taken."""
        return self.root / "tuf"

    @property
    def posts(self) -> Path:
        """A letterbox's uncollected posts."""
        return self.root / "posts"

    @property
    def denied(self) -> Path:
        """What revocations denied so far, in two copies: entries only ever come."""
        return self.root / "denied"

    @property
    def tls_key(self) -> Path:
        """The TLS key, 0600."""
        return self.root / "tls.key"

    @property
    def tls_chain(self) -> Path:
        """The TLS certificate."""
        return self.root / "tls.crt"

    @property
    def renewed(self) -> Path:
        """The key and chain of the last renewal, one PEM file, 0600."""
        return self.root / "renewed.pem"

    @property
    def anchor(self) -> Path:
        """Root version 1: the fleet that this mirror belongs to."""
        return self.root / "anchor.json"

    @property
    def issuer(self) -> Path:
        """The gateway issuer, believed until the first `tls.json` was verified."""
        return self.root / "gateway-issuer.pem"

    @property
    def ca_root(self) -> Path:
        """The CA root of the fleet, for the door; `tls.json` adds to it."""
        return self.root / "ca-root.pem"

    @property
    def lock(self) -> Path:
        """Held by the one process that writes here."""
        return self.root / "lock"


def config_name(kind: Kind) -> str:
    """Return the name of the configuration file."""
    return f"{kind}.toml"


def load_config(root: Path, kind: Kind) -> Config:
    """Return the configuration in `root`; raises Misuse, Denied."""
    config = read_toml(root / config_name(kind), Config, document=kind)
    check_name(config.name)
    check_domain(config.domain)
    layout.check_env(config.env)
    return config


@dataclass(frozen=True, slots=True)
class Shown:
    """What the listeners show: the pair, and the files that OpenSSL reads it from."""

    pair: Pair
    chain: Path
    key: Path

    @property
    def ends(self) -> datetime:
        """When it expires."""
        return load_certificates(self.pair.chain_pem, what="certificate")[0].not_valid_after_utc


def load_shown(paths: Paths) -> Shown:
    """Return the certificate on disk that lives longest: as issued by hand, or as renewed.

    Raises Denied (permissions), Refused (`pem`, `pair`).
    """
    key = read_file(paths.tls_key, limit=limits.KEYFILE_BYTES, private=True)
    chain = read_file(paths.tls_chain, limit=limits.TLS_BUNDLE_BYTES)
    found = [Shown(Pair(key, chain), paths.tls_chain, paths.tls_key)]
    renewed = read_pair(paths.renewed)
    if renewed is not None:
        found.append(Shown(renewed, paths.renewed, paths.renewed))
    return max(found, key=lambda one: one.ends)


def create(
    root: Path,
    config: Config,
    *,
    anchor: bytes,
    key: bytes,
    chain: bytes,
    issuer: bytes,
    ca_root: bytes | None = None,
) -> None:
    """`root` is a new mirror or letterbox that believes `anchor` and shows nothing yet.

    Raises Refused (`exists`, `pair`, `pem`, ...) before anything is written where possible.
    """
    check_name(config.name)
    check_domain(config.domain)
    layout.check_env(config.env)
    parse_anchor(anchor)
    check_pair(key, chain, what="TLS")
    load_certificates(issuer, what="gateway issuer")
    if ca_root is not None:
        load_certificates(ca_root, what="CA root")
    paths = Paths(root)
    # Another user's web server may pass through to `public`, and list nothing on the way.
    with Folder.open(root, create=True, mode=0o711) as folder:
        if folder.has(config_name(config.kind)):
            raise Refused(
                str(root), expected="a folder without a mirror", got="one", reason="exists"
            )
        for name, mode in (("inbox", 0o700), ("tuf", 0o700), ("public", 0o755)):
            folder.ensure(name, mode=mode).close()
        with folder.child("public") as shown, shown.ensure("metadata", mode=0o755) as metadata:
            metadata.replace("1.root.json", anchor, mode=0o444)
        folder.replace(paths.tls_key.name, key, mode=0o600)
        folder.replace(paths.tls_chain.name, chain, mode=0o644)
        folder.replace(paths.anchor.name, anchor, mode=0o644)
        folder.replace(paths.issuer.name, issuer, mode=0o644)
        if ca_root is not None:
            folder.replace(paths.ca_root.name, ca_root, mode=0o644)
        # The last file: without it there is no mirror here.
        folder.create(config_name(config.kind), _toml(config).encode("ascii"), mode=0o644)


def _toml(config: Config) -> str:
    """Return `config` as TOML; every value was checked to be of plain characters."""
    return "".join(f'{name} = "{getattr(config, name)}"\n' for name in config.__struct_fields__)


def check_own_leaf(chain: bytes, *, kind: Kind, name: str, domain: str) -> None:
    """Return only when the certificate is of this very service; raises Refused (`identity`).

    Nobody would talk to a service with another's certificate: better said at once.
    """
    leaf = load_certificates(chain, what="TLS chain")[0]
    found = check_names(leaf, role=kind, domain=domain)
    if found.name != name:
        raise Refused(
            "tls.crt",
            expected=f"the certificate of {kind}/{name}",
            got=str(found),
            untouched="no folder was made",
            hint=f"embrasure pki issue {kind}/{name} TRUST --out DIR",
            reason="identity",
        )
