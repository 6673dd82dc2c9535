"""Issue a TLS identity into a folder, and for an operator the context that the commands read."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509

from embrasure import fs
from embrasure.clock import Clock, write_time
from embrasure.errors import Misuse
from embrasure.net.identity import PROFILES
from pki import ca, issued, leaf, profiles, signers, store
from pki.folder import TrustFolder
from pki.keyuri import backend_of, record_path
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
) -> Issued:
    """`out` has `tls.crt` (leaf, issuer), `tls.key` unless a request was given; see `Issued`.

    A later call renews: both files are replaced. Raises Misuse, Refused, Denied.
    """
    who = profiles.parse_identity(identity)
    if who.role == "node":
        raise Misuse(identity, expected="another role", got="a node", hint="embrasure pki enrol")
    issuer = trust.issuer(PROFILES[who.role].issuer, source)
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
    fs.replace_file(out, "anchor.json", trust.anchor, mode=0o644)
    fs.replace_file(out, "admin-ca.pem", ca.pem(trust.certificate("admin")), mode=0o644)
    if gateway is None and key is None:
        return
    own = trust.path / "keys" / f"{made.name}.key"
    if key is None and own.exists():
        key = f"keyfile:{own}"
    if gateway is None or key is None:
        raise Misuse("context", expected="--gateway and --key together", got="one of them")
    values = {
        "gateway": gateway,
        "domain": trust.domain,
        "person": made.name,
        "anchor": "anchor.json",
        "admin_issuer": "admin-ca.pem",
        "tls_cert": "tls.crt",
        "tls_key": "tls.key",
        "key": _relative(key, out),
        "state": "state",
        **({"login": login} if login else {}),
    }
    text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
    fs.replace_file(out, "context.toml", text.encode("utf-8"))


def _relative(key: str, out: Path) -> str:
    """Return the key's URI as seen from `out`, where the context lies."""
    uri = signers.as_uri(key)
    if backend_of(uri) == "keyrecord":
        return f"keyrecord:{record_path(uri).resolve()}"
    if backend_of(uri) != "keyfile":
        return uri
    path = signers.keyfile_path(uri)
    if (out / path).exists() and not path.is_absolute():
        return f"keyfile:{path}"
    return f"keyfile:{os.path.relpath(path.resolve(), out.resolve())}"
