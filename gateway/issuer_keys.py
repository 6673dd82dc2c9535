"""The issuers that certify a gateway: certificate, and key file or record of a token's key."""

from __future__ import annotations

from embrasure import fs, limits
from embrasure.fs import Folder
from gateway.config import IssuerFiles, Paths
from pki import ca
from pki.folder import TrustFolder
from pki.keyuri import backend_of, keyfile_path, record_path


def copy_issuer(trust: TrustFolder, paths: Paths, role: str) -> str:
    """The gateway has the issuer's certificate and its key, encrypted as it is; return its name.

    A key in a token stays there: its record is copied.
    """
    uri, name = trust.ca_uri(role), f"{role}-ca"
    outside = backend_of(uri) == "keyrecord"
    source = record_path(uri) if outside else keyfile_path(uri)
    raw = fs.read_file(source, limit=limits.KEYFILE_BYTES, private=True)
    fs.replace_file(paths.keys, f"{name}{source.suffix}", raw)
    with Folder.open(paths.keys) as held:
        # Of two the gateway would not know which is meant.
        held.unlink(f"{name}.key" if outside else f"{name}.json", missing_ok=True)
    certificate = ca.pem(trust.certificate(role))
    fs.replace_file(paths.keys, f"{name}.crt", certificate, mode=0o644)
    return name


def has_key(trust: TrustFolder, role: str) -> bool:
    """Return whether the trust folder holds the issuer's key, or the record of one in a token."""
    uri = trust.ca_uri(role)
    return backend_of(uri) == "keyrecord" or keyfile_path(uri).exists()


def issuer_files(trust: TrustFolder, role: str) -> IssuerFiles:
    """Return what `gateway.toml` says of the issuer; paths are the gateway's."""
    outside = backend_of(trust.ca_uri(role)) == "keyrecord"
    key = f"keyrecord:keys/{role}-ca.json" if outside else f"keyfile:keys/{role}-ca.key"
    return IssuerFiles(certificate=f"keys/{role}-ca.crt", key=key)
