"""The metadata door of a mirror or letterbox: trust files are verified, obeyed, and shown.

They come over the door's own listener or out of a folder. `public/metadata/trust.json` names the
newest of them, so that nodes find what no snapshot lists yet.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import grpc
from cryptography import x509

from embrasure import limits
from embrasure.errors import EmbrasureError, NotFound
from embrasure.fs import Folder
from embrasure.net.credentials import Pair
from embrasure.net.door import DoorKeys, Outcome, door_server, outcome_of
from embrasure.net.server import bind
from embrasure.trust import layout
from embrasure.trust.client import TrustClient
from embrasure.trust.door import Door, Taken
from embrasure.trust.folder import FolderSource
from embrasure.trust.listing import GivenSource, write_listing
from embrasure.trust.offline import Offline
from embrasure.trust.source import Source
from embrasure.trust.view import Role
from mirror.config import Config, Paths
from mirror.inbox import make_folders, size_of
from mirror.standing import Standing
from mirror.verify import read_target

LOG = logging.getLogger(__name__)
Learn = Callable[[dict[str, bytes], Role | None], None]
Roots = Callable[[], list[x509.Certificate]]


class Held:
    """The offline roles of one service, kept beside its TUF client. Processes may share it."""

    def __init__(self, paths: Paths, config: Config, client: TrustClient) -> None:
        env = "" if config.kind == "mirror" else config.env
        self.door = Door(client, env=env)
        self.standing = Standing(self.door, paths.inbox, paths.public)
        self._paths, self._config = paths, config
        self._turn = threading.Lock()

    def take(self, source: Source) -> Taken:
        """Return what `source` had that is newer; a mirror shows it.

        Raises Refused, Unavailable.
        """
        with self._turn:
            found = self.door.take(source)
            self.show()
            return found

    def show(self) -> None:
        """A mirror shows the newest trust files, and a listing that names them."""
        if self._config.kind != "mirror":
            return
        held = self.door.newest()
        for path, raw in self._files(held):
            put_public(self._paths.public, path, raw, self.standing)
        roles = {role: held.version(role) for role in held.files}
        put_listing(self._paths.public, write_listing(roles))

    def _files(self, held: Offline) -> list[tuple[str, bytes]]:
        """Return path and bytes of every file that the listing promises, documents first."""
        found: list[tuple[str, bytes]] = []
        for role in held.files:
            for path, target in held.listed(role).items():
                raw = self._document(held, role, path)
                if raw is not None:
                    found.append((layout.target_file(path, target.sha256), raw))
        for version in range(2, held.version(layout.ROOT) + 1):
            found.append((layout.metadata_file(layout.ROOT, version), self.door.root(version)))
        for role in held.files:
            if role != layout.ROOT:
                found.append((layout.metadata_file(role, held.version(role)), held.files[role]))
        return found

    def documents(self) -> tuple[dict[str, bytes], Role | None]:
        """Return what the newest fleet role and revocations say, and the role of the latter.

        Nothing of a role of which one document is lost: half a directory would shut nodes out.
        """
        held = self.door.newest()
        found: dict[str, bytes] = {}
        for role in (layout.fleet_role(self._config.env), layout.REVOCATIONS):
            raws = {path: self._document(held, role, path) for path in held.listed(role)}
            if None not in raws.values():
                found.update({path: raw for path, raw in raws.items() if raw is not None})
        return found, self.door.role_view(held, layout.REVOCATIONS)

    def _document(self, held: Offline, role: str, path: str) -> bytes | None:
        """Return a document that came by the door or was published; None when it is lost."""
        try:
            return self.door.document(held, role, path)
        except NotFound:
            try:
                source = FolderSource(self._paths.public)
                return read_target(source, path, held.listed(role)[path])
            except EmbrasureError:
                return None


class Doorway:
    """The door's listener in a running service, and its eye on what came by a folder.

    learn: obeys documents, called in a thread; roots: the CA roots that the door lets in by; news:
    called in a thread once newer files are shown.
    """

    def __init__(
        self,
        held: Held,
        config: Config,
        *,
        learn: Learn,
        roots: Roots,
        news: Callable[[], object] = bool,
    ) -> None:
        self._held, self._config, self._learn, self._roots = held, config, learn, roots
        self._news = news
        self._server: grpc.aio.Server | None = None
        self._keys: DoorKeys | None = None
        self._stamp: tuple[object, ...] = ()
        self._obeying = threading.Lock()

    def obey(self) -> None:
        """What was taken since the last look holds, whoever took it; wrong files change nothing."""
        with self._obeying:
            try:
                stamp = self._held.door.stamp()
                if stamp != self._stamp:
                    self._held.show()
                    documents, revoked = self._held.documents()
                    if documents:
                        self._learn(documents, revoked)
                    self._stamp = stamp
                    self._news()
            except (EmbrasureError, OSError) as problem:
                LOG.warning("trust files cannot be used, the old ones stay: %s", problem)

    def take(self, files: Mapping[str, bytes]) -> Outcome:
        """Return what became of a delivery; what it brought holds already."""
        found = self._held.take(GivenSource(files))
        self.obey()
        return outcome_of(found)

    async def open(self, pair: Pair) -> int | None:
        """Return the door's port, None while no CA root is known: then nobody could come in."""
        if self._server is not None or not self._roots():
            return None
        self._keys = DoorKeys(pair, self._roots, domain=self._config.domain)
        self._server = door_server(self.take, self._roots, domain=self._config.domain)
        port = bind(self._server, self._config.door, self._keys)
        await self._server.start()
        return port

    def swap(self, pair: Pair) -> None:
        """New connections see `pair`."""
        if self._keys is not None:
            self._keys.swap(pair)

    async def close(self) -> None:
        """Nothing is taken any more."""
        if self._server is not None:
            await self._server.stop(limits.STOP_SECONDS / 10)

    async def watch(self, opened: Callable[[int], None], pair: Callable[[], Pair]) -> None:
        """Until cancelled: what comes by a folder is obeyed; the door opens once it can."""
        while True:
            await asyncio.sleep(limits.DOOR_RELOAD_SECONDS)
            await asyncio.to_thread(self.obey)
            port = await self.open(pair())
            if port is not None:
                opened(port)


def put_public(public: Path, path: str, raw: bytes, standing: Standing) -> None:
    """`path` is shown; what was shown before under that name stays while it counts."""
    if size_of(public, path) is not None and standing.counts(path):
        return
    folder, _, name = path.rpartition("/")
    with make_folders(public, folder) as inner:
        inner.replace(name, raw, mode=0o444)


def put_listing(public: Path, raw: bytes) -> None:
    """The listing is `raw`."""
    with Folder.open(public) as held, held.ensure("metadata", mode=0o755) as metadata:
        name = layout.TRUST_LISTING.rpartition("/")[2]
        if not metadata.has(name) or metadata.read(name, limit=limits.DOOR_LISTING_BYTES) != raw:
            metadata.replace(name, raw, mode=0o444)
