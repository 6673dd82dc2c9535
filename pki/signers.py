"""Open a private key by its URI: code above this module never sees key bytes, nor where they are.

A key file says itself what it may do; of a key in a token or a key service the record on this
machine says it (`pki.keyrecords`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from securesystemslib.signer import Signer

from embrasure import fs, limits
from embrasure.errors import Denied, EmbrasureError
from pki import keyfile, keyrecords, keyuri, services
from pki.keyfacts import KeyFacts, Opened, check_use, public_key
from pki.keyfile import OpenedFile
from pki.keyrecords import KeyRecord
from pki.keyuri import as_uri as as_uri
from pki.keyuri import keyfile_path as keyfile_path
from pki.keyuri import within as within
from pki.passphrase import PassphraseSource
from pki.signerkey import SignerKey as SignerKey


def facts_of(uri: str) -> KeyFacts:
    """Return what is known of the key at `uri` without opening it; raises NotFound, Refused."""
    if keyuri.backend_of(uri) == "keyfile":
        raw = fs.read_file(keyfile_path(uri), limit=limits.KEYFILE_BYTES, private=True)
        return keyfile.header_of(raw)
    return keyrecords.of(uri)


def open_key(
    uri: str,
    passphrase: Callable[[str], bytes],
    *,
    purpose: keyfile.Purpose | None = None,
    root: str | None = None,
) -> Opened:
    """Return the key at `uri` when it serves `purpose` in the fleet `root`.

    root: id of the fleet; a key not yet bound to one passes. Raises Denied, Refused, Misuse.
    """
    if keyuri.backend_of(uri) == "keyfile":
        return open_file(uri, passphrase, purpose=purpose, root=root)
    record = keyrecords.of(uri)
    check_use(record, purpose=purpose, root=root)
    return Opened(record, _signer_of(_settled(uri, record), record, passphrase))


def open_signer(
    uri: str,
    passphrase: Callable[[str], bytes],
    *,
    purpose: keyfile.Purpose | None = None,
    root: str | None = None,
) -> Signer:
    """Return the signer at `uri`; see `open_key`."""
    return open_key(uri, passphrase, purpose=purpose, root=root).signer


def named(uri: str, folder: Path) -> str:
    """Return what a file in `folder` means by `uri`; raises Denied (`library`).

    The file may have been carried here: it chooses no library that runs in this process.
    """
    keyrecords.check_library(uri)
    return within(uri, folder)


def open_bound(
    uri: str, passphrase: Callable[[str], bytes], *, purpose: keyfile.Purpose, root: str
) -> Signer:
    """Return the signer at `uri`, whose key serves the fleet `root` from now on and no other."""
    opened = open_key(uri, passphrase, purpose=purpose, root=root)
    # A key file or record on a medium that cannot be written signs all the same.
    with suppress(EmbrasureError):
        bind(uri, opened, root)
    return opened.signer


def open_file(
    uri: str,
    passphrase: Callable[[str], bytes],
    *,
    purpose: keyfile.Purpose | None = None,
    root: str | None = None,
) -> OpenedFile:
    """Return the key in a key file; see `open_key`."""
    path = keyfile_path(uri)
    raw = fs.read_file(path, limit=limits.KEYFILE_BYTES, private=True)
    header = keyfile.parse(raw)
    check_use(header, purpose=purpose, root=root)
    tries = passphrase.tries if isinstance(passphrase, PassphraseSource) else 1
    for left in reversed(range(tries)):
        try:
            return keyfile.open_bytes(raw, passphrase(f"passphrase of {header.label} ({path})"))
        except Denied as problem:
            if problem.reason != "passphrase" or left == 0:
                raise
    raise Denied(f"key file of {header.label}", expected="its passphrase", got="none")


def bind(uri: str, opened: Opened, root: str) -> bool:
    """Return whether the key now says that it serves the fleet `root` and no other.

    False when it said so already. The same passphrase, salt and cost stay.
    """
    header = opened.header
    if header.root == root:
        return False
    check_use(header, purpose=None, root=root)
    if isinstance(opened, OpenedFile):
        path = keyfile_path(uri)
        fs.replace_file(path.parent, path.name, keyfile.rebind(opened, root))
    elif isinstance(header, KeyRecord):
        named = keyuri.backend_of(uri) == "keyrecord"
        keyrecords.bind(header, root, file=keyuri.record_path(uri) if named else None)
    return True


def _settled(uri: str, record: KeyRecord) -> str:
    """Return the URI to open: as asked for, with what the record knows of library and PIN file."""
    if keyuri.backend_of(uri) == "keyrecord":
        keyrecords.check_library(record.uri)
    if keyuri.backend_of(uri) != "hsm":
        return record.uri
    asked, known = keyuri.parse_token(uri), keyuri.parse_token(record.uri)
    return str(
        keyuri.TokenUri(
            id=asked.id,
            token=asked.token,
            module=asked.module or known.module,
            pin_source=asked.pin_source or known.pin_source,
        )
    )


def _signer_of(uri: str, facts: KeyFacts, passphrase: Callable[[str], bytes]) -> Signer:
    """Return a signer whose every signature verifies under the recorded key (`CheckedSigner`)."""
    public = public_key(facts)
    if keyuri.backend_of(uri) == "hsm":
        keyuri.check_installed("hsm")
        from pki import tokenkeys  # its library is an extra

        return tokenkeys.open_signer(keyuri.parse_token(uri), public, passphrase)
    return services.open_signer(uri, public)
