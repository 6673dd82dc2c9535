"""An operator's folder: `context.toml` and the public files that it names."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from embrasure import fs
from pki import signers
from pki.keyuri import backend_of, record_path


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Whose context, for which gateway. key: URI of the signing key, as seen from here."""

    gateway: str
    domain: str
    person: str
    key: str
    login: str = ""


def write_files(out: Path, *, anchor: bytes, admin: bytes) -> None:
    """The folder has root version 1 and the issuers that may certify gateways to operators."""
    fs.replace_file(out, "anchor.json", anchor, mode=0o644)
    fs.replace_file(out, "admin-ca.pem", admin, mode=0o644)


def write_context(out: Path, wish: Wish) -> None:
    """The folder has `context.toml`; its paths are relative to it."""
    values = {
        "gateway": wish.gateway,
        "domain": wish.domain,
        "person": wish.person,
        "anchor": "anchor.json",
        "admin_issuer": "admin-ca.pem",
        "tls_cert": "tls.crt",
        "tls_key": "tls.key",
        "key": _relative(wish.key, out),
        "state": "state",
        **({"login": wish.login} if wish.login else {}),
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
