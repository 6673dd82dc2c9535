"""A join token as a node is given it: from a descriptor or a private file, and never kept."""

from __future__ import annotations

from pathlib import Path

from embrasure import limits
from embrasure.descriptor import read_bounded
from embrasure.errors import Misuse, Refused
from embrasure.fs import read_file


def read_token(*, fd: int | None, file: Path | None) -> str:
    """Return the token, "" when none is given; raises Misuse, Denied, Refused (`bad-token`)."""
    if fd is not None and file is not None:
        raise Misuse("join token", expected="--token-fd or --token-file", got="both",
                     hint="give one of them")  # fmt: skip
    if file is not None:
        raw = read_file(file, limit=limits.JOIN_TOKEN_BYTES, private=True)
    elif fd is not None:
        raw = read_bounded(fd, limit=limits.JOIN_TOKEN_BYTES, thing="--token-fd")
    else:
        return ""
    try:
        return raw.decode("ascii").strip()
    except UnicodeDecodeError:
        raise Refused(
            "join token",
            expected="ASCII text",
            got="other bytes",
            reason="bad-token",
            hint="the file must hold the one line of `embrasure pki token`, and nothing else",
        ) from None
