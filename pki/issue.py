"""Issue a TLS identity into a folder, and for an operator the context that the commands read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509

from embrasure import fs
from embrasure.clock import Clock, write_time
from embrasure.errors import Misuse
from embrasure.net.identity import PROFILES
from pki import ca, contextfile, issued, leaf, profiles, store
from pki.folder import TrustFolder
from pki.passphrase import PassphraseSource


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and the folder that it lies in."""

    role: str
    name: str
    folder: Path
    serial: int
    until: datetime

    def as_json(self) -> dict[str, object]:
        """Return what `--json` shows."""
        return {
            "identity": f"{self.role}/{self.name}",
            "folder": str(self.folder),
            "serial": f"{self.serial:x}",
            "not_after": write_time(self.until),
        }

    def as_text(self) -> str:
        """Return what a person sees."""
        return f"{self.role}/{self.name}: {self.folder}/tls.crt, until {write_time(self.until)}"


def issue(
    trust: TrustFolder,
    identity: str,
    out: Path,
    *,
    csr: Path | None,
    source: PassphraseSource,
    clock: Clock,
    root: int | None = None,
) -> Issued:
    """`out` has `tls.crt` (leaf, issuer), `tls.key` unless a request was given; see `Issued`.

    root: the number of the CA root that the chain ends at; None: the one that counts

    A later call renews: both files are replaced. Raises Misuse, Refused, Denied.
    """
    who = profiles.parse_identity(identity)
    if who.role == "node":
        raise Misuse(identity, expected="another role", got="a node", hint="embrasure pki enrol")
    issuer = trust.issuer(PROFILES[who.role].issuer, source, root=root)
    store.make_folder(out)
    if csr is None:
        key, chain = leaf.fresh_leaf(issuer, identity, clock)
        fs.replace_file(out, "tls.key", key)
    else:
        public = ca.parse_request(fs.read_file(csr, limit=16384))
        chain = leaf.chain_of(ca.issue_leaf(identity, public, issuer, clock), issuer)
    fs.replace_file(out, "tls.crt", chain, mode=0o644)
    made = x509.load_pem_x509_certificates(chain)[0]
    issued.record(trust.path, identity, made, at=clock())
    return Issued(who.role, who.name, out, made.serial_number, made.not_valid_after_utc)


def write_context(
    trust: TrustFolder,
    made: Issued,
    *,
    gateway: str | None,
    key: str | None,
    login: str | None = None,
) -> None:
    """The operator's folder has anchor, admin issuer and, when asked for, `context.toml`."""
    out = made.folder
    # Two during a rotation: the gateway changes over while operators work.
    admin = b"".join(map(ca.pem, trust.authorities().issuers("admin")))
    contextfile.write_files(out, anchor=trust.anchor, admin=admin)
    if gateway is None and key is None:
        return
    own = trust.path / "keys" / f"{made.name}.key"
    if key is None and own.exists():
        key = f"keyfile:{own}"
    if gateway is None or key is None:
        raise Misuse("context", expected="--gateway and --key together", got="one of them")
    contextfile.write_context(
        out,
        contextfile.Wish(
            gateway=gateway, domain=trust.domain, person=made.name, key=key, login=login or ""
        ),
    )
