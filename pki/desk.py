"""Edit several roles at once and leave them as drafts, each complete for its signers."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from embrasure.clock import Clock
from embrasure.errors import Misuse
from embrasure.trust import layout
from pki import drafts, lint, roles, store
from pki.drafts import Draft
from pki.folder import TrustFolder
from pki.store import AnyMetadata


class Desk:
    """The next versions of some roles. Nothing is on disk before `write`.

    A draft that nobody has signed is edited further; a signed one is not touched (Denied).
    """

    def __init__(self, trust: TrustFolder, clock: Clock) -> None:
        self.trust = trust
        self._clock = clock
        self._open: dict[str, AnyMetadata] = {}
        self._documents: dict[str, dict[str, bytes]] = {}

    def targets(self, role: str = layout.TARGETS) -> Targets:
        """Return the next version of a targets role, for editing; new when there was none."""
        return store.as_targets(self._edit(role))

    def root(self) -> Root:
        """Return the next version of root, for editing; raises Damaged when there is none."""
        return store.as_root(self._edit(layout.ROOT))

    def document(self, role: str, path: str) -> bytes:
        """Return a target file as it stands; raises Misuse when there is none."""
        self._edit(role)
        found = self._documents[role].get(path)
        if found is None:
            raise Misuse(role, expected=f"the document {path}", got="none")
        return found

    def documents(self, role: str) -> dict[str, bytes]:
        """Return all target files of a role as they stand, by path."""
        self._edit(role)
        return dict(self._documents[role])

    def put(self, role: str, path: str, raw: bytes) -> None:
        """The next version of `role` lists `path` with these bytes."""
        self.targets(role).targets[path] = TargetFile.from_data(path, raw, ["sha256"])
        self._documents[role][path] = raw

    def edits(self, role: str) -> bool:
        """Return whether the next version of `role` is being edited here."""
        return role in self._open

    def write(self) -> list[Draft]:
        """The edited roles are drafts on disk; return them in order of delegation.

        Raises Refused, with nothing written, when one of them is unsound.
        """
        at = self._clock()
        for role, found in self._open.items():
            life = roles.check_drafted(role).life_s
            found.signed.expires = at + timedelta(seconds=life)
            draft = Draft(self._folder(role), role, found, self._documents[role])
            # What nobody may sign is not even drafted.
            lint.check_content(draft, root_id=self.trust.root_id, at=at)
        for role, found in self._open.items():
            drafts.write(self._folder(role), role, found, self._documents[role])
        refresh_bases(self.trust)
        return [drafts.load(self._folder(role), role) for role in drafts.in_order(self._open)]

    def _folder(self, role: str) -> Path:
        return self.trust.path / "drafts" / role

    def _edit(self, role: str) -> AnyMetadata:
        if role not in self._open:
            roles.check_drafted(role)
            self._open[role] = self._next(role)
            self._documents[role] = self.trust.documents(role) if role != layout.ROOT else {}
        return self._open[role]

    def _next(self, role: str) -> AnyMetadata:
        draft = self.trust.draft(role)
        if draft is not None:
            drafts.check_unsigned(draft)
            return draft.metadata
        held = self.trust.held(role)
        if held is None:
            return Metadata(Root()) if role == layout.ROOT else Metadata(Targets())
        found = copy.deepcopy(held)
        found.signatures.clear()
        found.signed.version += 1
        return found


def refresh_bases(trust: TrustFolder) -> None:
    """Every open draft carries what is in force now, and the drafts that delegate it."""
    for draft in trust.drafts():
        drafts.write_base(draft.folder, _base_files(trust, draft.role))


def _base_files(trust: TrustFolder, role: str) -> Iterator[tuple[str, bytes]]:
    for version in store.versions(trust.path, layout.ROOT):
        yield _held_file(trust, layout.ROOT, version)
    if role != layout.ROOT:
        yield from _draft_file(trust, layout.ROOT)
    for name in dict.fromkeys((layout.TARGETS, role)):
        if role != layout.ROOT and store.versions(trust.path, name):
            yield _held_file(trust, name, store.versions(trust.path, name)[-1])
    if role not in (layout.ROOT, layout.TARGETS):
        yield from _draft_file(trust, layout.TARGETS)
        held = trust.held(role)
        if held is not None:
            targets = store.as_targets(held)
            for path, raw in store.read_targets(trust.path, targets).items():
                yield layout.target_file(path, targets.targets[path].hashes["sha256"]), raw


def _held_file(trust: TrustFolder, role: str, version: int) -> tuple[str, bytes]:
    path = layout.metadata_file(role, version)
    return path, store.read(trust.path, path, limit=store.limit_of(role))


def _draft_file(trust: TrustFolder, role: str) -> Iterator[tuple[str, bytes]]:
    draft = trust.draft(role)
    if draft is not None:
        yield layout.metadata_file(role, draft.version), draft.metadata.to_bytes()
