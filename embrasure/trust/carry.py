"""Trust files out of a folder, ready to be carried: to a door, or into another folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tuf.api.metadata import Metadata, Targets

from embrasure import limits
from embrasure.errors import NotFound, Refused
from embrasure.fs import Folder
from embrasure.trust import layout
from embrasure.trust.canonical import check_depth
from embrasure.trust.directory import shard_of
from embrasure.trust.fetcher import fetch_whole
from embrasure.trust.listing import TrustFolderSource, named, read_listing, write_listing
from embrasure.trust.offline import is_offline
from embrasure.trust.policy import parse_policy
from embrasure.trust.workflow.updater import OUTSIDE


def carried(folder: Path) -> dict[str, bytes]:
    """Return the newest trust files in `folder`, by repository path: root steps, each other offline
    role, the documents it lists. Nothing is verified: whoever takes them does that.

    A document that is not there is left out. Raises NotFound, Refused.
    """
    source = TrustFolderSource(folder)
    listing = {r: v for r, v in read_listing(source).items() if is_offline(r)}
    last = listing.pop(layout.ROOT, 1)
    files: dict[str, bytes] = {}
    for version in range(max(2, last - limits.ROOT_STEPS + 1), last + 1):
        path = layout.metadata_file(layout.ROOT, version)
        files[path] = fetch_whole(source, path, limit=limits.ROOT_BYTES)
    for role, version in listing.items():
        path = layout.metadata_file(role, version)
        files[path] = fetch_whole(source, path, limit=limits.TARGETS_BYTES)
        for document in documents_of(files[path], role):
            try:
                files[document] = fetch_whole(source, document, limit=limits.DOOR_DOCUMENT_BYTES)
            except NotFound:
                continue
    if not files:
        raise NotFound(str(folder), expected="trust files below metadata/", got="none")
    return files


def for_node(files: Mapping[str, bytes], *, env: str, node: str) -> dict[str, bytes]:
    """Return those of `files` that tell one node who it is: the roles and documents of its
    environment, of the directory its own shard. Raises Refused for a policy that cannot be read.
    """
    inside, shard = f"targets/fleet/{env}/", ""
    for path, raw in files.items():
        if path.startswith(inside) and path.endswith(".policy.json"):
            shard = shard_of(node, parse_policy(raw).shards)

    def wanted(path: str) -> bool:
        found = named(path)
        if found is not None:
            return is_offline(found[0], env)
        if path.startswith("targets/revoked/"):
            return path.endswith(f".{env}.json")
        return path.startswith(inside) and ("/dir/" not in path or path.endswith(f".{shard}.json"))

    return {path: raw for path, raw in files.items() if wanted(path)}


def documents_of(raw: bytes, role: str) -> list[str]:
    """Return the repository paths of what the metadata `raw` lists; raises Refused."""
    check_depth(raw, role)
    try:
        signed = Metadata[Targets].from_bytes(raw).signed
        return [
            layout.target_file(path, target.hashes["sha256"])
            for path, target in signed.targets.items()
        ]
    except OUTSIDE as problem:
        raise Refused(role, expected="metadata", got=problem, reason="bad-metadata") from None


def lay_down(files: Mapping[str, bytes], folder: Path) -> None:
    """`folder` has the trust files `files` and a listing of them: a stick, or a web server's root.

    The listing comes last: who reads meanwhile sees the former one, or the whole.
    """
    Folder.open(folder, create=True, mode=0o755).close()
    roles: dict[str, int] = {}
    for path, raw in sorted(files.items(), key=lambda item: item[0].startswith("metadata/")):
        layout.parse_file(path)
        _replace(folder, path, raw)
        number, _, name = path.removeprefix("metadata/").removesuffix(".json").partition(".")
        if path.startswith("metadata/"):
            roles[name] = max(int(number), roles.get(name, 0))
    _replace(folder, layout.TRUST_LISTING, write_listing(roles))


def _replace(top: Path, path: str, raw: bytes) -> None:
    folder, _, name = path.rpartition("/")
    with Folder.open(top) as held:
        inner = held
        opened: list[Folder] = []
        try:
            for part in folder.split("/"):
                inner = inner.ensure(part, mode=0o755)
                opened.append(inner)
            inner.replace(name, raw, mode=0o644)
        finally:
            for one in opened:
                one.close()
