"""Verify what came, then show it: new files first, the timestamp last, in one rename.

A mirror never goes back, never changes a shown file, and shows no byte that it did not verify.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from embrasure import limits
from embrasure.clock import Clock
from embrasure.errors import EmbrasureError, Refused
from embrasure.fs import Folder, read_file
from embrasure.trust import layout
from embrasure.trust.client import TrustClient
from embrasure.trust.folder import FolderSource
from embrasure.trust.view import Role, View
from mirror.inbox import TIMESTAMP, Inbox, size_of
from mirror.verify import Checked, check_repository, manifests_of, read_target

LOG = logging.getLogger(__name__)
Shown = Callable[[Checked], None]


@dataclass(frozen=True, slots=True)
class Scope:
    """What a service publishes: roles (None: all) of one environment, and whose documents it uses.

    needs: a role without which there is nothing to show.
    """

    roles: Sequence[str] | None
    needs: str


class Publisher:
    """Moves verified sets from the inbox to `public`, one at a time.

    shown: called with each set after it is visible.
    """

    def __init__(
        self,
        inbox: Inbox,
        tuf: Path,
        *,
        anchor: bytes,
        scope: Scope,
        clock: Clock,
        shown: Shown,
    ) -> None:
        self.inbox = inbox
        self._anchor = anchor
        self._scope = scope
        self._clock = clock
        self._shown = shown
        self.client = TrustClient(tuf, anchor, clock=clock)
        self._mutex = threading.Lock()
        self._known: frozenset[str] = frozenset()

    def publish(self, timestamp: bytes) -> int:
        """Return the version of the timestamp that is shown now.

        Raises Refused: nothing new is visible, and the metadata that came is dropped.
        Steps: 1 timestamp beside the rest, 2 against what was shown before, 3 as a new node sees
        it, 4 bytes durable, 5 files, 6 timestamp, 7 tell those who wait.
        """
        with self._mutex:
            # 1.
            self.inbox.put_timestamp(timestamp)
            source = FolderSource(self.inbox.folder, self.inbox.public)
            try:
                # 2. and 3.
                checked = self._verify(source)
            except EmbrasureError:
                self.inbox.drop_metadata()
                raise
            # 4. to 6.
            self._show(checked, timestamp)
            self._known = manifests_of(checked.view)
            # 7.
            self._shown(checked)
            self.inbox.sweep(before=self._clock().timestamp() - limits.INBOX_SECONDS)
            return checked.view.roles[layout.TIMESTAMP].version

    def shown_version(self) -> int:
        """Return the timestamp version that is shown now, 0 for none; a hint for the long poll."""
        try:
            raw = read_file(self.inbox.public / TIMESTAMP, limit=limits.TIMESTAMP_BYTES)
            held = self.client.held()
        except EmbrasureError:
            return 0
        found = held.roles[layout.TIMESTAMP]
        return found.version if self.client.role_bytes(held, layout.TIMESTAMP) == raw else 0

    def _verify(self, source: FolderSource) -> Checked:
        """Return the verified set in inbox and `public` together."""
        roles = self._scope.roles
        try:
            held = self.client.refresh(source, roles=roles, tolerate_expired=True)
        except Refused as problem:
            if problem.reason != "threshold":
                raise
            roles = self._with_threshold(source)
            held = self.client.refresh(source, roles=roles, tolerate_expired=True)
        checked = check_repository(
            source,
            anchor=self._anchor,
            clock=self._clock,
            roles=roles,
            keep=frozenset({self._scope.needs, layout.REVOCATIONS}),
            check_blob=self._check_blob,
            known=self._known,
        )
        check_same(held, checked.view)
        if checked.view.role(self._scope.needs) is None:
            raise Refused(
                "repository", expected=f"the role {self._scope.needs}", got="none", reason="scope"
            )
        return checked

    def _with_threshold(self, source: FolderSource) -> list[str]:
        """Return the roles of the scope that have the signatures which `targets` asks for now.

        When stolen keys are replaced, what they signed is orphaned until people sign anew. That
        must not stop the news of it. A role left out here is not shown, and no node takes it.
        """
        listed = self.client.listed(self.client.refresh(source, roles=()))
        scope = self._scope.roles
        found = []
        for role in listed if scope is None else [role for role in listed if role in scope]:
            try:
                self.client.refresh(source, roles=[role], tolerate_expired=True)
            except Refused as problem:
                if problem.reason != "threshold":
                    raise
                LOG.warning("%s is not shown: %s", role, problem)
            else:
                found.append(role)
        return found

    def _check_blob(self, digest: str, length: int) -> None:
        """Return only when the blob is public, or whole and hashed in the inbox."""
        path = layout.blob_file(digest)
        size = size_of(self.inbox.public, path)
        if size is None and self.inbox.is_whole(path):
            size = size_of(self.inbox.folder, path)
        if size != length:
            raise Refused(
                path,
                expected=f"a blob of {length} bytes",
                got="none" if size is None else f"{size} bytes",
                hint="send it, then publish again",
                reason="missing-file",
            )

    def _show(self, checked: Checked, timestamp: bytes) -> None:
        self.inbox.sync()
        for path in checked.files:
            self.inbox.move(path)
        self.inbox.sync()
        with Folder.open(self.inbox.public / "metadata") as metadata:
            metadata.replace("timestamp.json", timestamp, mode=0o444)
        self.inbox.drop(TIMESTAMP)


def check_same(held: View, seen: View) -> None:
    """Return only when a new node sees exactly what this mirror's own client accepted."""
    for name, role in held.roles.items():
        other = seen.roles.get(name)
        if other is None or (other.version, other.sha256) != (role.version, role.sha256):
            raise Refused(name, expected=f"version {role.version}", got="another", reason="mixed")
    if len(seen.roles) != len(held.roles):
        raise Refused("repository", expected="the same roles", got="others", reason="mixed")


def held_role(client: TrustClient, role: str) -> Role | None:
    """Return a role as it was last verified here, for a start; None when nothing is held."""
    try:
        return client.held().role(role)
    except EmbrasureError:
        return None


def held_documents(client: TrustClient, public: Path, role: str) -> dict[str, bytes]:
    """Return the documents of `role` as they were last shown, for a start; none is no error.

    Age does not matter here: a mirror that was off for long must still know its gateway.
    """
    found: dict[str, bytes] = {}
    source = FolderSource(public)
    try:
        view = client.held()
    except EmbrasureError:
        return found
    # Revocations may be wrong or gone without taking the rest away.
    for name in (role, layout.REVOCATIONS):
        held = view.role(name)
        with suppress(EmbrasureError):
            targets = held.targets.items() if held is not None else ()
            found |= {path: read_target(source, path, target) for path, target in targets}
    return found
