"""What apply tells fetch about TLS: the newest verified trust bundle, and who is denied.

Files below `state/`, replaced as a whole; fetch, which may be another user, reads them again every
few seconds, so a denial ends running calls without either process being started again.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from embrasure import limits
from embrasure.aside import set_aside
from embrasure.errors import EmbrasureError, NotFound
from embrasure.fs import Folder, read_file
from embrasure.net.denials import NOTHING, TlsDenials, read_denials, tls_denials, write_denials
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.denied import denied_sets
from embrasure.trust.directory import TlsBundle
from embrasure.trust.documents import Count, Document, read, write
from embrasure.trust.floors import Union
from embrasure.trust.policy import Policy
from node.paths import Paths


class Told(Document, frozen=True, kw_only=True):
    """The time floor, for those who must not see the other floors."""

    v: Literal[1]
    time: Count


def keep_bundle(paths: Paths, tls: TlsBundle) -> None:
    """`tls`, verified and of this fleet, is what fetch reads from now on."""
    _keep(paths.tls_bundle, write(tls), limit=limits.TLS_BUNDLE_BYTES)


def keep_denials(paths: Paths, policy: Policy | None, union: Union, *, root: str, env: str) -> None:
    """What `policy`, verified and of this fleet, and `union` deny is what fetch obeys from now on.

    An entry that a later policy leaves out is lifted; one of the union never is. Without a policy
    that can be read, nothing that was denied is lifted.
    """
    found = tls_denials(denied_sets(policy, union))
    if policy is None:
        found = found.joined(held_denials(paths))
    raw = write_denials(found, root=root, env=env)
    _keep(paths.tls_denials, raw, limit=limits.FLOORS_BYTES)


def keep_time(paths: Paths, seconds: int) -> None:
    """This time, which verified files told, is what fetch knows from now on."""
    raw = write(Told(v=1, time=seconds))
    _keep(paths.told, raw, limit=limits.ORDER_BYTES)


def told_time(paths: Paths) -> datetime:
    """Return the newest time that verified files told; 1970 while there is none."""
    seconds = 0
    with suppress(EmbrasureError):
        raw = read_file(paths.told, limit=limits.ORDER_BYTES, unshared=True)
        seconds = read(raw, Told, limit=limits.ORDER_BYTES, document="time").time
    return datetime.fromtimestamp(seconds, tz=UTC)


def bundle_digest(paths: Paths) -> str:
    """Return the SHA-256 of the `tls.json` that fetch believes, "" while there is none."""
    try:
        return sha256_hex(read_file(paths.tls_bundle, limit=limits.TLS_BUNDLE_BYTES))
    except EmbrasureError:
        return ""


def held_denials(paths: Paths) -> TlsDenials:
    """Return what is denied on TLS; nothing before the first policy was verified."""
    try:
        raw = read_file(paths.tls_denials, limit=limits.FLOORS_BYTES, unshared=True)
    except NotFound:
        return NOTHING
    return read_denials(raw)


def _keep(path: Path, raw: bytes, *, limit: int) -> None:
    with suppress(EmbrasureError):  # whatever is wrong with it, it is made anew
        if read_file(path, limit=limit) == raw:
            return
    with Folder.open(path.parent) as folder:
        set_aside(folder, path.name)
        folder.replace(path.name, raw, mode=0o644)
