"""A listener's key and chain in one file, so that no crash leaves a key without its certificate."""

from __future__ import annotations

from pathlib import Path

from embrasure import limits
from embrasure.errors import NotFound, Refused
from embrasure.fs import Folder, read_file
from embrasure.net.credentials import Pair

_CHAIN = b"-----BEGIN CERTIFICATE-----"


def write_pair(path: Path, pair: Pair) -> None:
    """The file at `path` (0600) holds `pair` now and after a crash; else it is as it was."""
    with Folder.open(path.parent, create=True, mode=0o700) as folder:
        folder.replace(path.name, pair.key_pem + pair.chain_pem)


def read_pair(path: Path) -> Pair | None:
    """Return the pair in the file at `path`, None when there is no such file.

    Raises Refused (`pem`, `pair`), Denied (`permissions`).
    """
    return None if (parts := _parts(path, private=True)) is None else Pair(*parts)


def read_chain(path: Path) -> bytes | None:
    """Return the chain alone, whoever else may read the file: for those who only look."""
    return None if (parts := _parts(path, private=False)) is None else parts[1]


def _parts(path: Path, *, private: bool) -> tuple[bytes, bytes] | None:
    try:
        raw = read_file(path, limit=limits.TLS_BUNDLE_BYTES, private=private)
    except NotFound:
        return None
    key, mark, chain = raw.partition(_CHAIN)
    if not mark:
        raise Refused(str(path), expected="a key and its chain", got="else", reason="pem")
    return key, mark + chain
