"""A machine image holds public data only: no key, no token, no identity that two machines share.

Whoever can read an image, or start one more machine from it, must have gained nothing.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from pathlib import Path

from embrasure import limits
from embrasure.descriptor import explaining
from embrasure.errors import Refused
from embrasure.trust.joining import PREFIX
from node.paths import Paths

# What a secret looks like, wherever it lies. A reader of pieces keeps this much of the last one.
_MARKS: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"-----BEGIN [A-Z0-9 ]{0,32}PRIVATE KEY-----"), "a private key"),
    (re.compile(rb'"kdf":"argon2id"'), "a key file"),
    (re.compile(rb'"receipt":"[0-9a-f]{64}","seal":"'), "the copy of a node's keys"),
    (re.compile(re.escape(PREFIX.encode()) + rb"[a-z2-7]{26}"), "a join token"),
)
_OVERLAP = 128
_HEX = re.compile(rb"\s*(?:[0-9a-f]{64}|[0-9a-f]{192})\s*")  # receipt and seal keys


def check_image(top: Path) -> int:
    """Return how many files of the image at `top` were read; raises Refused for the first secret.

    No link is followed; what cannot be read is an error, never a pass.
    """
    count = 0
    for path in files(top):
        count += 1
        with explaining(str(path)):
            what = secret_in(path) or identity_at(path, top)
        if what:
            raise Refused(
                str(path),
                expected="public data only",
                got=what,
                untouched="the image is as it was",
                hint="`embrasure node init` belongs to the first boot of each machine",
                reason="secret-in-image",
            )
    return count


def files(top: Path) -> Iterator[Path]:
    """Yield every regular file below `top`, sorted; a link is none."""
    for path in sorted(top.iterdir()):
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            yield from files(path)
        elif stat.S_ISREG(mode):
            yield path


def secret_in(path: Path) -> str:
    """Return what secret the file holds, "" for none."""
    held = window = b""
    with path.open("rb") as opened:
        while piece := opened.read(limits.BUFFER_BYTES):
            window = held + piece
            for mark, what in _MARKS:
                if mark.search(window):
                    return what
            held = window[-_OVERLAP:]
    if path.suffix == ".key" and len(window) <= 256 and _HEX.fullmatch(window):
        return "a raw key"
    return ""


def identity_at(path: Path, top: Path) -> str:
    """Return what makes the file one node's own, "" for nothing."""
    paths = Paths(top)
    if {paths.keys, paths.tls, paths.state, paths.serving} & set(path.parents):
        return "the keys or the state of a node"
    if path in (paths.enrolled, paths.statement, paths.join):
        return "the enrolment of a node"
    return ""
