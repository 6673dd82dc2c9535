"""Which trust files a source has: one small unsigned file, a hint, as every word of a source.

`metadata/trust.json` names the newest version of each offline role. A snapshot could not: whoever
holds the online keys may keep it back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from embrasure import limits
from embrasure.errors import NotFound, Refused
from embrasure.fs import Folder
from embrasure.trust import layout
from embrasure.trust.documents import Document, read, write
from embrasure.trust.fetcher import fetch_whole
from embrasure.trust.folder import FolderSource
from embrasure.trust.offline import is_offline
from embrasure.trust.source import Source

_FILE = re.compile(r"metadata/(?P<version>[1-9][0-9]{0,8})\.(?P<role>[a-z][a-z0-9-]{0,80})\.json")
RoleName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,80}$")]
Version = Annotated[int, Meta(ge=1, le=999_999_999)]


class Listing(Document, frozen=True, kw_only=True):
    """Role -> newest version."""

    v: Literal[1]
    type: Literal["trust"]
    roles: Annotated[dict[RoleName, Version], Meta(max_length=limits.DOOR_ROLES)]


def write_listing(roles: Mapping[str, int]) -> bytes:
    """Return the listing file of these offline roles."""
    found = {role: version for role, version in sorted(roles.items()) if is_offline(role)}
    return write(Listing(v=1, type="trust", roles=found))


def read_listing(source: Source) -> Mapping[str, int]:
    """Return role -> version as `source` claims it; raises NotFound, Refused, Unavailable."""
    raw = fetch_whole(source, layout.TRUST_LISTING, limit=limits.DOOR_LISTING_BYTES)
    return read(raw, Listing, limit=limits.DOOR_LISTING_BYTES, document="trust listing").roles


def named(path: str) -> tuple[str, int] | None:
    """Return role and version of an offline role's metadata file, None for another path."""
    found = _FILE.fullmatch(path)
    if found is None or not is_offline(found["role"]):
        return None
    return found["role"], int(found["version"])


def is_trust_path(path: str) -> bool:
    """Return whether `path` may be a trust file: metadata of an offline role, or its document."""
    if named(path) is not None:
        return True
    layout.parse_file(path)
    return path.startswith(("targets/fleet/", "targets/revoked/"))


def check_trust_path(path: str) -> None:
    """Return only when `path` may be a trust file; raises Refused (`not-trust`, `bad-path`)."""
    if not is_trust_path(path):
        raise Refused(path, expected="a trust file", got="another", reason="not-trust")


def newest_of(paths: Iterable[str]) -> dict[str, int]:
    """Return role -> highest version among the metadata files in `paths`."""
    newest: dict[str, int] = {}
    for found in map(named, paths):
        if found is not None:
            newest[found[0]] = max(found[1], newest.get(found[0], 0))
    return newest


class GivenSource:
    """Files that somebody handed over, with a listing made from their names."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = {**files, layout.TRUST_LISTING: write_listing(newest_of(files))}

    def fetch(self, path: str, *, offset: int, limit: int) -> Iterator[bytes]:
        """Yield the bytes of `path` from `offset` on; raises NotFound, Refused (`limit`)."""
        raw = self._files.get(path)
        if raw is None:
            raise NotFound(path, expected="a file that was handed over", got="none")
        if len(raw) - offset > limit:
            raise Refused(path, expected=f"at most {limit} bytes", got="more", reason="limit")
        for start in range(offset, len(raw), limits.BUFFER_BYTES):
            yield raw[start : start + limits.BUFFER_BYTES]


class TrustFolderSource:
    """A folder with trust files (a stick, a mirror's `public`, the security team's own folder)."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._source = folder, FolderSource(folder)

    def fetch(self, path: str, *, offset: int, limit: int) -> Iterator[bytes]:
        """Yield the bytes of `path`; a folder without a listing is listed by its file names."""
        try:
            yield from self._source.fetch(path, offset=offset, limit=limit)
        except NotFound:
            if path != layout.TRUST_LISTING:
                raise
            yield write_listing(newest_in(self._folder))[offset : offset + limit]


def newest_in(folder: Path) -> dict[str, int]:
    """Return role -> highest version of the offline roles in `folder/metadata`; raises NotFound."""
    with Folder.open(folder) as held, held.child("metadata") as metadata:
        return newest_of(f"metadata/{name}" for name in metadata.list())
