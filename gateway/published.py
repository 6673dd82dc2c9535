"""What the repository shows: every path that nodes and mirrors may be given, from a verified view.

The table is made from verified metadata, never from a folder listing: a file that nobody listed
is given to nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from embrasure import limits
from embrasure.bundle.manifest import parse_manifest
from embrasure.errors import Damaged, EmbrasureError, NotFound
from embrasure.trust import layout
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.source import Source
from embrasure.trust.view import View

TIMESTAMP_FILE = "metadata/timestamp.json"


class FolderTargets:
    """Verified target files out of a source; keeps nothing, so any thread may use it."""

    def target(
        self, view: View, role: str, path: str, source: Source | None, *, limit: int
    ) -> bytes:
        """Return the bytes that `role` lists as `path`; raises NotFound, Damaged."""
        listed = view.target(role, path)
        if listed is None or source is None:
            raise NotFound(path, expected=f"a target of {role}", got="none")
        if listed.length > limit:
            raise Damaged(path, expected=f"at most {limit} bytes", got=listed.length)
        file = layout.target_file(path, listed.sha256)
        raw = b"".join(source.fetch(file, offset=0, limit=listed.length))
        if len(raw) != listed.length or sha256_hex(raw) != listed.sha256:
            raise Damaged(path, expected="the listed bytes", got="others")
        return raw


@dataclass(frozen=True, slots=True)
class Contents:
    """Every repository path of one view. trust: the part that letterboxes may have; packs: of those
    manifests whose blobs are among the paths. They are no files: no mirror is sent one.
    """

    timestamp: int
    paths: frozenset[str]
    trust: frozenset[str]
    packs: frozenset[str] = frozenset()

    def trust_of(self, env: str) -> frozenset[str]:
        """Return what a letterbox of `env` may have: of other environments it knows nothing."""
        return frozenset(path for path in self.trust if _env_of(path) in ("", env))


class Shelf:
    """Computes contents; remembers the blobs of manifests that it has parsed once."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._blobs: dict[str, tuple[str, ...]] = {}

    def contents(self, view: View) -> Contents:
        """Return what `view` shows; raises Damaged when a listed manifest is not there."""
        stamp = view.roles[layout.TIMESTAMP]
        paths: set[str] = {TIMESTAMP_FILE}
        trust: set[str] = {TIMESTAMP_FILE}
        packs: set[str] = set()
        for name, role in view.roles.items():
            files = self._metadata(name, role.version)
            files |= {layout.target_file(path, t.sha256) for path, t in role.targets.items()}
            paths |= files
            if is_trust(name):
                trust |= files
            for path, target in role.targets.items():
                if _is_manifest(path):
                    blobs = self._blobs_of(view, name, path, target.sha256)
                    paths |= set(blobs)
                    if blobs:
                        env, app, _ = path.split("/")
                        packs.add(layout.pack_file(env, app, target.sha256))
        return Contents(stamp.version, frozenset(paths), frozenset(trust), frozenset(packs))

    @staticmethod
    def _metadata(name: str, version: int) -> set[str]:
        first = 1 if name == layout.ROOT else version
        return {layout.metadata_file(name, number) for number in range(first, version + 1)}

    def _blobs_of(self, view: View, role: str, path: str, digest: str) -> tuple[str, ...]:
        if digest not in self._blobs:
            raw = FolderTargets().target(view, role, path, self.source, limit=limits.MANIFEST_BYTES)
            try:
                blobs = parse_manifest(raw).blobs()
            except EmbrasureError:
                # Of another version of this program: nodes judge it, we only pass it on.
                blobs = {}
            self._blobs[digest] = tuple(layout.blob_file(blob) for blob in blobs)
        return self._blobs[digest]


def _env_of(path: str) -> str:
    """Return the environment whose nodes a trust file lists, empty when it lists none."""
    if path.startswith("targets/fleet/"):
        return path.split("/")[2]
    role = path.removesuffix(".json").partition(".")[2]
    return role.removeprefix("fleet-") if role.startswith("fleet-") else ""


def is_trust(role: str) -> bool:
    """Return whether a letterbox needs `role`: it verifies who may post, and nothing else."""
    return role in (*layout.TOP_ROLES, layout.REVOCATIONS) or role.startswith("fleet-")


def _is_manifest(path: str) -> bool:
    parts = path.split("/")
    return len(parts) == 3 and parts[0] not in layout.RESERVED and parts[2].startswith("m-")


def names_of(contents: Mapping[str, Contents]) -> frozenset[str]:
    """Return every path of several contents together."""
    return frozenset(path for found in contents.values() for path in found.paths)
