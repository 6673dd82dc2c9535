"""Make a bundle: the same input gives the same manifest bytes, on any machine, at any time."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from embrasure.bundle.appfile import APP_FILE, AppFile, describe, read_appfile
from embrasure.bundle.folder import BLOBS, MANIFEST
from embrasure.bundle.manifest import Manifest, parse_manifest
from embrasure.bundle.paths import TOPS
from embrasure.bundle.store import PARTIAL, BlobStore
from embrasure.bundle.tree import Tree, read_tree
from embrasure.errors import Misuse, Refused
from embrasure.fs import Folder
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.documents import write
from embrasure.trust.layout import check_app

_VERSION = re.compile(r"[A-Za-z0-9.+_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Built:
    """A checked manifest, its bytes, and where the bytes of its blobs lie."""

    manifest: Manifest
    raw: bytes
    digest: str  # SHA-256 of `raw`, the release's name everywhere
    folder: Path
    sources: Mapping[str, Path]
    ignored: tuple[str, ...]  # names in the folder that are not shipped


def build(folder: Path, *, app: str | None = None, version: str | None = None) -> Built:
    """Return what `folder` (`app.toml`, `code/`, `config/`) is as a release.

    app, version: win over `app.toml`
    Raises Misuse (no such folder, app.toml), Refused (the tree, as a node would), NotSupported.
    """
    if not folder.is_dir():
        raise Misuse("release", expected="a folder with app.toml and code/", got=folder)
    described = read_appfile(folder)
    folder = folder.resolve()
    with Folder.open(folder) as held:
        tree = read_tree(held)
    if not tree.entries:
        raise Misuse(f"release {folder}", expected="files in code/ or config/", got="none")
    raw = write(_manifest(described, tree, app=app, version=version))
    # The reader that every node uses has the last word on what was built.
    return Built(
        manifest=parse_manifest(raw),
        raw=raw,
        digest=sha256_hex(raw),
        folder=folder,
        sources=tree.sources,
        ignored=tuple(name for name in tree.ignored if name != APP_FILE),
    )


def _manifest(found: AppFile, tree: Tree, *, app: str | None, version: str | None) -> Manifest:
    name, number = app or found.app, version or found.version
    if name is None or number is None:
        missing = "app" if name is None else "version"
        raise Misuse(
            "release",
            expected=f"its {missing}",
            got="neither a flag nor a key in app.toml",
            hint=f"add `{missing} = ...` to app.toml, or --{missing}",
        )
    if not _VERSION.fullmatch(number):
        raise Misuse("release", expected="a version of A-Z a-z 0-9 . + _ -", got=number)
    return describe(found, app=check_app(name), version=number, files=tree.entries)


def write_bundle(built: Built, out: Path) -> bool:
    """Return whether `out` is new; either way it holds exactly this bundle, durable.

    Blobs first, the manifest last: a folder with a manifest is whole.
    Raises Misuse (`exists`: another bundle is there), Refused (`bad-hash`: a file has changed).
    """
    check_out(built, out)
    with Folder.open(out, create=True, mode=0o755) as held:
        if held.has(MANIFEST):
            if held.read(MANIFEST, limit=len(built.raw) + 1) == built.raw:
                _write_blobs(built, out / BLOBS)
                return False
            raise Misuse(
                str(out), expected="no other bundle", got="one", hint="choose another --out"
            )
        _write_blobs(built, out / BLOBS)
        held.create(MANIFEST, built.raw, mode=0o644)
    return True


def check_out(built: Built, out: Path) -> None:
    """Return only when `out` is not inside what is shipped; raises Misuse."""
    target = out.resolve()
    for top in (built.folder / name for name in TOPS):
        if top in (target, *target.parents):
            raise Misuse(str(out), expected=f"a folder outside {top}", got="one inside")


def _write_blobs(built: Built, folder: Path) -> None:
    store = BlobStore(folder, mode=0o755)
    try:
        for digest, length in built.manifest.blobs().items():
            if not store.has(digest, length=length):
                _copy(store, built.sources[digest], digest, length)
        store.sync()
    finally:
        store.close()
    with Folder.open(folder) as held:
        held.remove_tree(PARTIAL)


def _copy(store: BlobStore, source: Path, digest: str, length: int) -> None:
    with Folder.open(source.parent) as folder, store.writer(digest, length=length) as writer:
        try:
            # What an earlier, broken run left is already hashed: go on behind it.
            skip = writer.offset
            for piece in folder.pieces(source.name):
                writer.write(piece[skip:])
                skip = max(0, skip - len(piece))
            writer.commit()
        except Refused as problem:
            raise Refused(
                str(source),
                expected="a file that does not change while it is read",
                got=problem.got,
                hint="build again",
                reason="bad-hash",
            ) from problem
