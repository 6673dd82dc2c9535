"""Repository files on disk (`metadata/`, `targets/`), as the trust folder and each draft hold them.

Every path passes `layout.parse_file` before it touches the disk.
"""

from __future__ import annotations

from pathlib import Path

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Targets
from tuf.api.serialization import DeserializationError

from embrasure import fs, limits
from embrasure.errors import Damaged, NotFound, Refused
from embrasure.folder import Folder
from embrasure.trust import layout
from embrasure.trust.canonical import check_depth, sha256_hex

AnyMetadata = Metadata[Root] | Metadata[Targets]
DOCUMENT_BYTES = limits.SHARD_BYTES  # the largest target file of a security role


def make_folder(path: Path) -> None:
    """`path` is a folder; what is made on the way is private to us."""
    with Folder.open(path, create=True):
        pass


def remove_folder(path: Path) -> None:
    """There is nothing at `path`."""
    if path.exists():
        with Folder.open(path.parent) as above:
            above.remove_tree(path.name)


def write(folder: Path, path: str, data: bytes) -> None:
    """`path` below `folder` holds `data`; what is there already must be the same bytes."""
    layout.parse_file(path)
    target = folder / path
    make_folder(target.parent)
    try:
        if fs.read_file(target, limit=len(data)) == data:
            return
    except NotFound:
        fs.create_file(target.parent, target.name, data)
        return
    raise Refused(path, expected="the same bytes as before", got="others", reason="equivocation")


def read(folder: Path, path: str, *, limit: int) -> bytes:
    """Return the bytes of `path` below `folder`; raises NotFound, Refused."""
    layout.parse_file(path)
    return fs.read_file(folder / path, limit=limit)


def versions(folder: Path, role: str) -> list[int]:
    """Return the versions of `role` that lie in `folder/metadata`, lowest first."""
    found = []
    for file in (folder / "metadata").glob(f"*.{role}.json"):
        number = file.name.partition(".")[0]
        if number.isascii() and number.isdigit() and file.name == f"{int(number)}.{role}.json":
            found.append(int(number))
    return sorted(found)


def limit_of(role: str) -> int:
    """Return the most bytes that metadata of `role` may have."""
    known = {layout.ROOT: limits.ROOT_BYTES, layout.TARGETS: limits.TARGETS_BYTES}
    return known.get(role, limits.DELEGATED_BYTES)


def read_metadata(folder: Path, role: str, version: int) -> AnyMetadata:
    """Return one metadata file, parsed; its signatures are the caller's to check."""
    raw = read(folder, layout.metadata_file(role, version), limit=limit_of(role))
    found = parse_metadata(raw, role)
    if found.signed.version != version:
        raise Damaged(f"{version}.{role}.json", expected=f"version {version}", got="another")
    return found


def parse_metadata(raw: bytes, role: str) -> AnyMetadata:
    """Return the metadata in `raw`, of the type that `role` has; raises Refused."""
    check_depth(raw, role)
    try:
        found = _of_type(raw, role)
    except (DeserializationError, RepositoryError):
        raise Refused(role, expected="TUF metadata", got="something else") from None
    wanted = layout.ROOT if role == layout.ROOT else layout.TARGETS
    if found.signed.type != wanted:
        raise Refused(role, expected=wanted, got=found.signed.type)
    return found


def _of_type(raw: bytes, role: str) -> AnyMetadata:
    return (
        Metadata[Root].from_bytes(raw) if role == layout.ROOT else Metadata[Targets].from_bytes(raw)
    )


def as_root(found: AnyMetadata) -> Root:
    """Return the root in `found`; raises Refused."""
    if not isinstance(found.signed, Root):
        raise Refused("metadata", expected="root", got=found.signed.type)
    return found.signed


def as_targets(found: AnyMetadata) -> Targets:
    """Return the targets in `found`; raises Refused."""
    if not isinstance(found.signed, Targets):
        raise Refused("metadata", expected="targets", got=found.signed.type)
    return found.signed


def signed_digest(found: AnyMetadata) -> str:
    """Return the SHA-256 of the bytes that are signed; of root version 1, it names the fleet."""
    return sha256_hex(found.signed_bytes)


def read_targets(folder: Path, targets: Targets) -> dict[str, bytes]:
    """Return every target file that `targets` lists, by its path; raises NotFound, Refused."""
    found = {}
    for path, entry in targets.targets.items():
        digest = entry.hashes.get("sha256", "")
        raw = read(folder, layout.target_file(path, digest), limit=DOCUMENT_BYTES)
        if sha256_hex(raw) != digest or len(raw) != entry.length:
            raise Refused(path, expected=f"sha256:{digest[:16]}", got="other bytes")
        found[path] = raw
    return found
