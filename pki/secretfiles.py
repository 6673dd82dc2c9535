"""Plaintext in, sealed files out: where a secret may come from and where it may go.

From a private file, a descriptor or a pipe; never from an argument or the environment.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

from embrasure import fs, limits
from embrasure.errors import Misuse
from embrasure.secret.sealed import Sealed, parse_sealed

_HINT = "pipe it in, or use --from FILE or --fd N"


def read_plaintext(*, file: Path | None, fd: int | None) -> bytes:
    """Return the bytes of the secret, as they are; raises Misuse, Denied (`permissions`).

    A file must be ours alone: what others can read is no secret any more.
    """
    if file is not None and fd is not None:
        raise Misuse("secret", expected="one source", got="--from and --fd", hint=_HINT)
    if file is not None:
        return fs.read_file(file, limit=limits.SECRET_PLAIN_BYTES, private=True)
    return _from_descriptor(sys.stdin.fileno() if fd is None else fd)


def _from_descriptor(fd: int) -> bytes:
    found = b""
    try:
        kind = os.fstat(fd).st_mode
        if stat.S_ISCHR(kind) and os.isatty(fd):
            raise Misuse("secret", expected="a pipe or a file", got="a terminal", hint=_HINT)
        while len(found) <= limits.SECRET_PLAIN_BYTES:
            piece = os.read(fd, limits.BUFFER_BYTES)
            if not piece:
                break
            found += piece
    except OSError as problem:
        raise Misuse(
            "secret", expected="an open descriptor", got=problem.strerror, hint=_HINT
        ) from None
    return found


def read_sealed(files: Sequence[Path]) -> list[Sealed]:
    """Return sealed files, still closed; each name once. Raises Misuse, Refused, NotFound."""
    found = [parse_sealed(fs.read_file(file, limit=limits.SECRET_BYTES)) for file in files]
    names = [one.name for one in found]
    if len(set(names)) != len(names):
        raise Misuse("sealed files", expected="each secret once", got=", ".join(sorted(names)))
    return found


def file_name(name: str, version: int) -> str:
    """Return how a sealed file is called by default."""
    return f"{name}-v{version}.sealed.json"


def write_sealed(file: Path, raw: bytes) -> None:
    """`file` is new and holds the sealed bytes; raises Refused (`exists`)."""
    fs.create_file(file.parent, file.name, raw, mode=0o644)


def write_plaintext(file: Path, plain: bytes) -> None:
    """`file` is new, and only we can read it; raises Refused (`exists`)."""
    fs.create_file(file.parent, file.name, plain)
