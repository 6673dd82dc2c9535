"""What this machine knows of keys that lie in no file: one small record a key.

A key in a token or a key service cannot say whose it is and which fleet it serves. The record says
it, made when its public half is exported, and bound to a fleet at the first signature.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from embrasure import fs, limits
from embrasure.errors import Denied, NotFound, Refused
from embrasure.folder import Folder
from embrasure.trust.documents import read, write
from pki import keyuri
from pki.keyfacts import KeyFacts, check_use, public_key

VARIABLE = "EMBRASURE_KEYS"
_Uri = Annotated[str, Meta(min_length=1, max_length=limits.KEY_URI_CHARACTERS)]


class KeyRecord(KeyFacts, frozen=True, kw_only=True):
    """One key outside files. uri: where it is, with the module and PIN file of a token."""

    v: Literal[1]
    type: Literal["key-record"]
    uri: _Uri


def folder() -> Path:
    """Return where the records of this user are."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    home = os.environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local" / "state") / "embrasure" / "keys"


def keep(record: KeyRecord) -> KeyRecord:
    """The record is on disk; return it. It is the only one of its key, and of its place.

    A key that is known already keeps its fleet. Raises Denied for another purpose, Refused.
    """
    public_key(record)
    where = folder()
    for known in all_records():
        if known.keyid == record.keyid:
            check_use(known, purpose=record.purpose, root=record.root or None)
            record = msgspec.structs.replace(record, root=known.root)
    with Folder.open(where, create=True, mode=0o700) as held:
        for known in all_records():
            if known.keyid != record.keyid and address(known.uri) == address(record.uri):
                held.unlink(f"{known.keyid}.json")
        held.replace(f"{record.keyid}.json", write(record))
    return record


def bind(record: KeyRecord, root: str, *, file: Path | None = None) -> None:
    """The record says that its key serves the fleet `root` and no other; raises Denied.

    file: where it is, when not in the user's folder
    """
    check_use(record, purpose=None, root=root)
    where = file or folder() / f"{record.keyid}.json"
    fs.replace_file(where.parent, where.name, write(msgspec.structs.replace(record, root=root)))


def of(uri: str) -> KeyRecord:
    """Return the record of a URI that names no key file: the file itself, or the user's record."""
    if keyuri.backend_of(uri) == "keyrecord":
        return read_record(keyuri.record_path(uri))
    return at(uri)


def at(uri: str) -> KeyRecord:
    """Return the record of the key at `uri`; raises NotFound (`key-record`)."""
    for record in all_records():
        if address(record.uri) == address(uri):
            return record
    raise NotFound(
        uri,
        expected=f"a record of this key in {folder()}",
        got="none",
        hint=f"embrasure keys export '{uri}' NAME --purpose PURPOSE",
        reason="key-record",
    )


def check_library(uri: str) -> None:
    """Return only when this machine, too, names the PKCS#11 library of `uri`: its environment, or a
    record of this user. Raises Denied (`library`).

    For URIs out of files: a library runs in this process, and a folder that was carried must not
    choose it.
    """
    if keyuri.backend_of(uri) != "hsm":
        return
    module = keyuri.parse_token(uri).module
    if module and module not in {*keyuri.named_modules(), *_modules(all_records())}:
        raise Denied(
            f"PKCS#11 module {module}",
            expected="a library that this machine names itself",
            got="one that only a file names",
            hint=f"export {keyuri.MODULE_VARIABLES[0]}=LIBRARY, if it is the right one",
            reason="library",
        )


def _modules(known: Iterable[KeyRecord]) -> Iterator[str]:
    for record in known:
        if keyuri.backend_of(record.uri) == "hsm":
            yield keyuri.parse_token(record.uri).module


def all_records() -> list[KeyRecord]:
    """Return every record of this user; raises Refused, Denied (others could have written it)."""
    where = folder()
    files = sorted(where.glob("*.json")) if where.is_dir() else []
    if len(files) > limits.KEY_RECORDS:
        raise Refused(str(where), expected=f"{limits.KEY_RECORDS} records", got=len(files))
    return [_read(file) for file in files]


def read_record(file: Path) -> KeyRecord:
    """Return the record in a file that only we can read and write; raises Refused, Denied."""
    return parse_record(fs.read_file(file, limit=limits.KEYFILE_BYTES, private=True))


def parse_record(raw: bytes) -> KeyRecord:
    """Return the record in `raw`, whose key id is its own; raises Refused."""
    found = read(raw, KeyRecord, limit=limits.KEYFILE_BYTES, document="key record")
    public_key(found)
    if keyuri.backend_of(found.uri) in ("keyfile", "keyrecord"):
        raise Refused("key record", expected="a key that lies in no file", got=found.uri)
    return found


def write_record(where: Path, name: str, record: KeyRecord, *, root: str) -> None:
    """`where/name` is the record, bound to the fleet `root`; raises Denied, Refused (`exists`)."""
    check_use(record, purpose=None, root=root)
    fs.create_file(where, name, write(msgspec.structs.replace(record, root=root)))


def _read(file: Path) -> KeyRecord:
    found = read_record(file)
    if file.name != f"{found.keyid}.json":
        raise Refused(str(file), expected=f"{found.keyid[:12]}....json", got=file.name)
    return found


def address(uri: str) -> str:
    """Return what two URIs of one key have in common: not where its library and its PIN are."""
    if keyuri.backend_of(uri) == "hsm":
        return keyuri.parse_token(uri).plain
    return uri
