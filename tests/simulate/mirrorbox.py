"""A mirror without its listeners, and what a gateway publishes on it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from embrasure.clock import now
from embrasure.errors import Refused
from embrasure.trust import layout
from embrasure.trust.door import Door
from embrasure.trust.folder import FolderSource
from mirror.inbox import TIMESTAMP, Inbox, accept_all
from mirror.letterbox import accept_trust
from mirror.publish import Publisher, Scope
from mirror.standing import Standing
from mirror.verify import Checked, check_repository
from tests.simulate.repository import SimRepository

FLEET = "fleet-dev"
SHOP = {"code/main": b"#!/bin/sh\n" * 100, "code/empty": b"", "config/a": b"a"}


class Box:
    """A mirror without its listeners."""

    def __init__(self, folder: Path, repo: SimRepository, scope: Scope | None = None) -> None:
        self.folder = folder
        self.shown: list[Checked] = []
        self.anchor = repo.anchor
        (folder / "public").mkdir(parents=True, exist_ok=True)
        (folder / "tuf").mkdir(mode=0o700, exist_ok=True)
        accepts = accept_all if scope is None else accept_trust("dev")
        self.inbox = Inbox(folder / "inbox", folder / "public", accepts=accepts)
        self.publisher = Publisher(
            self.inbox,
            folder / "tuf",
            anchor=repo.anchor,
            scope=scope or Scope(roles=None, needs=FLEET),
            clock=repo.clock,
            shown=self.shown.append,
        )
        door = Door(self.publisher.client)
        self.inbox.counts = Standing(door, folder / "inbox", folder / "public").counts

    def put(self, path: str, body: bytes, *, offset: int = 0) -> None:
        """The whole body is uploaded."""
        with self.inbox.upload(path, offset=offset) as upload:
            upload.append(body[offset:])
            upload.finish()

    def send(self, files: Mapping[str, bytes]) -> None:
        """Whatever it lacks of `files` is uploaded; what it refuses is not."""
        for path, body in files.items():
            with contextlib.suppress(Refused):
                if path != TIMESTAMP and self.inbox.held(path) is not None:
                    self.put(path, body)

    def publish(self, repo: SimRepository) -> int:
        """Return the timestamp version that is shown now."""
        self.send(repo.files)
        return self.publisher.publish(repo.files[TIMESTAMP])

    def public(self) -> dict[str, bytes]:
        """Return all that is shown."""
        root = self.folder / "public"
        files = (path for path in root.rglob("*") if path.is_file())
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}

    def seen_by_a_new_node(self) -> int:
        """Return the timestamp version that a new node verifies with all that it needs."""
        found = check_repository(
            FolderSource(self.folder / "public"),
            anchor=self.anchor,
            clock=now,
            roles=None,
            keep=frozenset({FLEET}),
            check_blob=lambda digest, length: self.check_blob(digest, length),
        )
        return found.view.roles[layout.TIMESTAMP].version

    def check_blob(self, digest: str, length: int) -> None:
        """The blob is shown, and as long."""
        assert len(self.public()[layout.blob_file(digest)]) == length


def published() -> SimRepository:
    """Return a repository of one node and one app whose first release is published."""
    found = SimRepository()
    node = found.add_node(labels={"tier": "web"})
    found.add_app("shop")
    plan = found.set_plan(found.add_release("shop", SHOP), canary=[node])
    found.set_gate(plan, open_wave=0)
    found.publish()
    return found


def grow(repo: SimRepository, version: str = "2.0") -> None:
    """A second release is published."""
    release = repo.add_release("shop", {"code/main": version.encode() * 50}, version=version)
    plan = repo.set_plan(release, canary=[next(iter(repo.nodes.values()))])
    repo.set_gate(plan, open_wave=0)
    repo.publish()
