"""Builds a release folder from blobs, durable before it has its name, and compares one with its
manifest to the last file, mode and link.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from embrasure.bundle.manifest import Entry, Manifest
from embrasure.bundle.store import BlobStore
from embrasure.descriptor import about, explaining
from embrasure.errors import Damaged, NotFound, Refused
from embrasure.fs import Folder
from node.placing import Placer, Way

STAGING = ".tmp-"
_FOLDER_MODE = 0o555
_DOCUMENT_MODE = 0o444
_FILE_MODES = {"0444": stat.S_IFREG | 0o444, "0555": stat.S_IFREG | 0o555}

What = Entry | bytes | None  # an entry, a document's bytes, or a folder
Listing = dict[str, dict[str, What]]  # folder -> name -> what must be there


@dataclass(frozen=True, slots=True, order=True)
class Drift:
    """One path that is not as its manifest says. `what`: one word."""

    path: str
    what: str


# Who is told of each piece that is hashed in this thread, and may make it wait.
_PACE: ContextVar[Callable[[int], None] | None] = ContextVar("pace", default=None)


@contextmanager
def gently(pace: Callable[[int], None]) -> Iterator[None]:
    """Whatever is hashed in this thread until the block ends goes at `pace`."""
    token = _PACE.set(pace)
    try:
        yield
    finally:
        _PACE.reset(token)


def tick(length: int = 0) -> None:
    """Whoever watches over this thread is told of `length` bytes, and may end its work."""
    if (pace := _PACE.get()) is not None:
        pace(length)


def staging_name(tx: str) -> str:
    """Return the name under which a release is built."""
    return f"{STAGING}{tx}"


def folders_of(manifest: Manifest) -> list[str]:
    """Return every folder of the release, parents first."""
    found = {entry.path for entry in manifest.files if entry.kind == "dir"}
    above = {entry.path.rpartition("/")[0] for entry in manifest.files}
    while above := above - found - {""}:  # each once, however many files it has
        found |= above
        above = {path.rpartition("/")[0] for path in above}
    return sorted(found)


def begin(releases: Folder, *, tx: str, manifest: Manifest) -> Folder:
    """Return the staging folder of `tx`, open: new, with all folders of the release and no file."""
    name = staging_name(tx)
    if releases.has(name):
        releases.remove_tree(name)
    staging = releases.mkdir(name, mode=0o700)
    try:
        for path in folders_of(manifest):
            parent, _, last = path.rpartition("/")
            with _inside(staging, parent) as folder:
                folder.mkdir(last, mode=0o700).close()
    except BaseException:
        staging.close()
        raise
    return staging


def build(
    releases: Folder,
    *,
    tx: str,
    manifest: Manifest,
    documents: Mapping[str, bytes],
    blobs: BlobStore,
    user: int,
    came: Container[str] = (),
    placed: Collection[str] = (),
) -> Counter[Way]:
    """Return how the files came into the staging folder of `tx`, which holds the whole release, on
    disk, and read back. Each byte is hashed here: a copied one, or that of a new twin, between blob
    and file, by the descriptor that nobody else has written to; a shared one when it is read back.

    documents: files beside `code/` and `config/`, byte for byte; user: whom the app runs as;
    came: blobs that this very transaction hashed in memory, wrote, and synced without an error: to
    read them out of the same memory once more would tell nothing new
    placed: paths of such blobs that were written here at once, into the folder of `begin`
    Raises Damaged (a blob is not what its name says, or the disk lost bytes), Failed (`no-space`).
    Nothing of it runs: the folder has no name that `current` could ever point to.
    """
    placer, hashed = Placer(blobs, user=user, each=tick, came=came), set(placed)
    if not placed:
        begin(releases, tx=tx, manifest=manifest).close()
    with placer.twins, releases.child(staging_name(tx)) as staging:
        for path, entries in _by_folder(manifest, "file"):
            with staging.child(path) as folder:
                for entry in entries:
                    tick()
                    if entry.path in placed:
                        placer.ways["hardlink"] += 1
                        continue
                    way = placer.place(folder, entry.path.rpartition("/")[2], entry)
                    if placer.is_hashed(entry, way):
                        hashed.add(entry.path)
        for path, entries in _by_folder(manifest, "link"):
            with staging.child(path) as folder:
                for entry in entries:
                    folder.symlink(entry.target or "", entry.path.rpartition("/")[2])
        for document, raw in documents.items():
            staging.write(document, [raw], mode=_DOCUMENT_MODE)
        for path in reversed(folders_of(manifest)):
            with staging.child(path) as folder:
                folder.chmod(_FOLDER_MODE)
        staging.chmod(_FOLDER_MODE)
        # One sync for all, twins too; an error fails the install, since a second sync would lie.
        staging.syncfs()
        check_built(staging, manifest, documents, hashed=hashed)
    return placer.ways


def _by_folder(manifest: Manifest, kind: str) -> Iterator[tuple[str, list[Entry]]]:
    """Yield each folder with its entries of that kind: a folder is opened once for all of them."""
    found: dict[str, list[Entry]] = {}
    for entry in manifest.files:
        if entry.kind == kind:
            found.setdefault(entry.path.rpartition("/")[0], []).append(entry)
    yield from found.items()


def check_built(
    staging: Folder,
    manifest: Manifest,
    documents: Mapping[str, bytes],
    *,
    hashed: Container[str] = (),
) -> None:
    """Return only when what was written reads back as the manifest says; raises Damaged.

    hashed: paths of files whose bytes were hashed as they were written, a moment ago
    """
    drifts = list(compare(staging, manifest, documents, deep=True, hashed=hashed))
    if drifts:
        raise Damaged(
            str(staging.path),
            expected="the files that were just written",
            got=f"{drifts[0].path}: {drifts[0].what} (and {len(drifts) - 1} more)",
            untouched="the release that runs",
            # Other bytes than were signed: of a blob that rotted, or of a disk that lies.
            reason="bad-hash" if drifts[0].what == "content" else "damaged",
        )


def name_release(releases: Folder, *, tx: str, release: str) -> None:
    """The staged release has its name, on disk; one that has it already must be the same.

    Raises Refused (`bad-link`), Denied (`bad-owner`) for something else in place of our folder.
    """
    with releases.child(staging_name(tx)) as staging:
        staging.check_mine()
    if releases.has(release):
        releases.remove_tree(staging_name(tx))
    else:
        releases.rename(staging_name(tx), releases, release)
    releases.fsync()


def _inside(folder: Folder, path: str) -> Folder:
    return folder.child(path) if path else Folder(os.dup(folder.fd), folder.path)


def compare(
    folder: Folder,
    manifest: Manifest,
    documents: Mapping[str, bytes],
    *,
    deep: bool,
    hashed: Container[str] = (),
) -> Iterator[Drift]:
    """Yield every difference between a release folder and its manifest.

    deep: hash every file but those of `hashed`; else type, mode, owner, length and link targets
    only.
    """
    wanted: dict[str, What] = dict.fromkeys(folders_of(manifest))
    wanted.update({entry.path: entry for entry in manifest.files if entry.kind != "dir"})
    wanted.update(documents)
    listed: Listing = {path: {} for path, what in wanted.items() if what is None}
    listed[""] = {}
    for path, what in wanted.items():
        parent, _, name = path.rpartition("/")
        listed[parent][name] = what
    yield from _Comparison(listed, deep, hashed, os.geteuid()).folder(folder, "")


@dataclass(frozen=True, slots=True)
class _Comparison:
    """One walk: what must be there, which bytes are looked at, whose it all is."""

    listed: Listing
    deep: bool
    hashed: Container[str]
    owner: int

    def folder(self, folder: Folder, path: str) -> Iterator[Drift]:
        """Yield what is wrong with a folder and all below it."""
        if _mode(os.fstat(folder.fd)) != _FOLDER_MODE:
            yield Drift(path or ".", "mode")
        prefix = f"{path}/" if path else ""
        names, wanted = folder.list(), self.listed[path]
        yield from (Drift(f"{prefix}{one}", "missing") for one in sorted(set(wanted) - set(names)))
        yield from (Drift(f"{prefix}{one}", "extra") for one in sorted(set(names) - set(wanted)))
        for name in (name for name in names if name in wanted):
            full, what, found = f"{prefix}{name}", wanted[name], folder.stat(name)
            if what is not None:
                if self._is_settled(found, full, what):
                    continue
                for word in self._one(folder, name, full, what, found):
                    yield Drift(full, word)
            elif not stat.S_ISDIR(found.st_mode):
                yield Drift(full, "type")
            else:
                with folder.child(name) as child:
                    yield from self.folder(child, full)

    def _is_settled(self, found: os.stat_result, full: str, what: Entry | bytes) -> bool:
        """Return whether one look shows all there is to see: most files, and a release has many."""
        return (
            not isinstance(what, bytes)
            and what.kind == "file"
            and found.st_mode == _FILE_MODES.get(what.mode)
            and found.st_size == what.length
            and found.st_uid == self.owner
            and (not self.deep or full in self.hashed)
        )

    def _one(
        self, folder: Folder, name: str, full: str, what: Entry | bytes, found: os.stat_result
    ) -> list[str]:
        """Return a word for each thing that is wrong with a file, a link or a document."""
        words = list[str]()
        if found.st_uid != self.owner:
            words.append("owner")
        if isinstance(what, bytes):
            mode, length, digest = _DOCUMENT_MODE, len(what), hashlib.sha256(what).hexdigest()
        elif what.kind == "link":
            if not stat.S_ISLNK(found.st_mode):
                words.append("type")
            elif folder.readlink(name) != what.target:
                words.append("link")
            return words
        else:
            looked_at = self.deep and full not in self.hashed
            mode, length, digest = int(what.mode, 8), what.length, what.sha256 if looked_at else ""
        if not stat.S_ISREG(found.st_mode):
            return [*words, "type"]
        if _mode(found) != mode:
            words.append("mode")
        if found.st_size != length or (digest and hash_file(folder, name, length) != digest):
            words.append("content")
        return words


def hash_file(folder: Folder, name: str, length: int) -> str:
    """Return the SHA-256 of a file, read in pieces; "" when it cannot be read.

    length: what it seems to have; all that it has is hashed
    """
    hashed, step = hashlib.sha256(), about(length)
    try:
        fd = folder.open_file(name)
    except (NotFound, Refused):
        return ""
    try:
        with explaining(name):
            while piece := os.read(fd, step):
                hashed.update(piece)
                tick(len(piece))
    finally:
        os.close(fd)
    return hashed.hexdigest()


def _mode(found: os.stat_result) -> int:
    return stat.S_IMODE(found.st_mode)
