"""Where a node keeps everything, below one prefix: `/` in production, any folder in development."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path


@dataclass(frozen=True)  # no slots: each path is put together once, a poll asks for dozens
class Paths:
    """Every path of a node; nothing else spells one."""

    prefix: Path

    @cached_property
    def config(self) -> Path:
        """The node owner's folder: what he writes, and nobody else."""
        return self.prefix / "etc" / "embrasure"

    @cached_property
    def node_toml(self) -> Path:
        """Who this node is and where its servers are."""
        return self.config / "node.toml"

    @cached_property
    def anchor(self) -> Path:
        """The root metadata, version 1, that names the fleet."""
        return self.config / "anchor.json"

    @cached_property
    def enrolled(self) -> Path:
        """The security team's answer to this node's statement."""
        return self.config / "enrolled.json"

    @cached_property
    def statement(self) -> Path:
        """What this node says of itself, to be carried to the security team."""
        return self.config / "statement.json"

    @cached_property
    def gateway_issuer(self) -> Path:
        """The gateway issuer, PEM: whom to believe before the first `tls.json`."""
        return self.config / "gateway-ca.pem"

    @cached_property
    def join(self) -> Path:
        """The MAC of a join token over the statement."""
        return self.config / "join.json"

    @cached_property
    def apps(self) -> Path:
        """One file for each app that the owner lets run here."""
        return self.config / "apps.d"

    @cached_property
    def data(self) -> Path:
        """All that the node itself writes, apart from releases."""
        return self.prefix / "var" / "lib" / "embrasure"

    @cached_property
    def tuf(self) -> Path:
        """Trusted metadata."""
        return self.data / "tuf"

    @cached_property
    def state(self) -> Path:
        """Receipt chain, last orders."""
        return self.data / "state"

    @cached_property
    def taken(self) -> Path:
        """The enrolment answer that this node took, its signature checked."""
        return self.state / "enrolled.json"

    @cached_property
    def floors(self) -> Path:
        """Values that only rise: seq, gseq, oseq, time, denials."""
        return self.state / "floors"

    @cached_property
    def blobs(self) -> Path:
        """Plain contents by digest. Beside the releases, and no name of an app: in a unit that may
        write to both folders each would be a mount of its own, and no file has names on two.
        """
        return self.opt / ".blobs"

    @cached_property
    def journal(self) -> Path:
        """One state record for each app."""
        return self.data / "journal"

    @cached_property
    def outbox(self) -> Path:
        """Receipts that nobody has taken yet."""
        return self.data / "outbox"

    @cached_property
    def sent(self) -> Path:
        """The last receipts that were taken: a repeated order is answered with them."""
        return self.data / "sent"

    @cached_property
    def lock(self) -> Path:
        """Lock files."""
        return self.data / "lock"

    @cached_property
    def keys(self) -> Path:
        """The node's own private keys."""
        return self.data / "keys"

    @cached_property
    def logs(self) -> Path:
        """What the apps print."""
        return self.data / "logs"

    @cached_property
    def tls_key(self) -> Path:
        """The key of the push listener, PEM: the network side's own, unlike all other keys."""
        return self.tls / "tls.key"

    @cached_property
    def boot_cert(self) -> Path:
        """The self-signed certificate shown before enrolment, PEM."""
        return self.state / "boot.crt"

    @cached_property
    def tls_chain(self) -> Path:
        """The certificate chain from the enrolment, PEM."""
        return self.state / "tls.crt"

    @cached_property
    def tls(self) -> Path:
        """What the network side alone has: its key, its renewed certificate, its lock."""
        return self.data / "tls"

    @cached_property
    def renewed(self) -> Path:
        """The key and chain of the last renewal, one PEM file."""
        return self.tls / "renewed.pem"

    @cached_property
    def tls_bundle(self) -> Path:
        """The newest verified TLS trust bundle, canonical JSON."""
        return self.state / "tls.json"

    @cached_property
    def tls_denials(self) -> Path:
        """Who must not speak TLS, as last verified, canonical JSON."""
        return self.state / "tls-denials.json"

    @cached_property
    def told(self) -> Path:
        """The newest time that verified files told, which the network side may read."""
        return self.state / "time.json"

    @cached_property
    def receipt_key(self) -> Path:
        """The Ed25519 seed that signs receipts, 64 hex digits."""
        return self.keys / "receipt.key"

    @cached_property
    def seal_key(self) -> Path:
        """The private key that secrets are sealed to, 192 hex digits (X25519 alone: 64)."""
        return self.keys / "seal.key"

    @cached_property
    def identity(self) -> Path:
        """Who this node said it is when it was made."""
        return self.keys / "identity.json"

    @cached_property
    def key_copy(self) -> Path:
        """A second copy of the identity and the private keys, which heals the first."""
        return self.keys / "copy"

    @cached_property
    def serving(self) -> Path:
        """What the last whole start ran with: the owner's files, and who this node is."""
        return self.data / "serving"

    @cached_property
    def run(self) -> Path:
        """Sockets and what does not outlive a boot."""
        return self.prefix / "run" / "embrasure"

    @cached_property
    def net(self) -> Path:
        """What the network side writes into the run folder: in production a folder of its own."""
        own = self.run / "net"
        return own if own.is_dir() else self.run

    @cached_property
    def metrics(self) -> Path:
        """Figures for a textfile collector, which other users may read."""
        return self.run / "metrics"

    @cached_property
    def credentials(self) -> Path:
        """Plaintext secrets of what runs; in memory where `/run` is."""
        return self.run / "credentials"

    @cached_property
    def opt(self) -> Path:
        """One folder for each app."""
        return self.prefix / "opt" / "embrasure"

    def installed(self) -> list[str]:
        """Return the apps that have a folder here, sorted."""
        found = self.opt.iterdir() if self.opt.is_dir() else ()
        return sorted(one.name for one in found if one.is_dir() and not one.name.startswith("."))

    @cached_property
    def holds(self) -> Path:
        """What the owner holds, and until when."""
        return self.config / "holds.json"

    @cached_property
    def pins(self) -> Path:
        """Which releases the owner keeps."""
        return self.config / "pins.json"

    def app_toml(self, app: str) -> Path:
        """The owner's word on one app."""
        return self.apps / f"{app}.toml"

    def app(self, app: str) -> Path:
        """Releases, `current` and data of one app."""
        return self.opt / app

    def releases(self, app: str) -> Path:
        """The folders of one app's releases."""
        return self.app(app) / "releases"

    def release(self, app: str, release: str) -> Path:
        """One release."""
        return self.releases(app) / release

    def current(self, app: str) -> Path:
        """The link to the release that runs: the only thing that a switch changes."""
        return self.app(app) / "current"

    def shared(self, app: str) -> Path:
        """The app's data: no release, no roll-back and no collection touches it."""
        return self.app(app) / "shared"

    def folders(self) -> tuple[Path, ...]:
        """Every folder that must be there before the node works."""
        return (
            self.config, self.apps, self.tuf, self.state, self.floors, self.blobs, self.journal,
            self.outbox, self.sent, self.lock, self.keys, self.tls, self.logs, self.run, self.opt,
            self.serving,
        )  # fmt: skip
