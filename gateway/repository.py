"""The publisher: the gateway's repository folder, and the only code that signs its online roles.

What is published was first verified, whole, by the same client that nodes run. Files become
visible in one step: the timestamp is written last.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from securesystemslib.signer import Signer
from tuf.api.metadata import Root, Targets

from embrasure import limits
from embrasure.clock import Clock, now
from embrasure.errors import EmbrasureError, NotFound, Refused
from embrasure.trust import layout
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.client import TrustClient
from embrasure.trust.folder import FolderSource
from embrasure.trust.view import View
from gateway import metadata as form
from gateway.audit import Journal
from gateway.denials import Denials
from gateway.keyring import OnlineKeys, check_environment
from gateway.overlay import Overlay
from gateway.rehearsal import check_changed, rehearsed
from gateway.repository_folder import LAST, RepositoryFolder
from gateway.staged import Staged, check_numbers

TIMESTAMP_EVERY = timedelta(hours=6)
GATES_EVERY = timedelta(days=1)
TIMESTAMP_LIFE = timedelta(seconds=limits.TIMESTAMP_SECONDS)
SNAPSHOT_LIFE = timedelta(seconds=limits.SNAPSHOT_SECONDS)
GATES_LIFE = timedelta(seconds=limits.GATES_SECONDS)


class Repository:
    """An open repository.

    folder: served to nodes and mirrors; state: 0700, holds the gateway's own verified view.
    """

    def __init__(
        self,
        folder: Path,
        *,
        state: Path,
        anchor: bytes,
        online: OnlineKeys,
        journal: Journal,
        clock: Clock = now,
    ) -> None:
        self.folder, self.anchor, self.disk = folder, anchor, RepositoryFolder(folder)
        self._state, self._online, self.clock = state, online, clock
        self._journal = journal
        self._lock = threading.RLock()
        self._staged = Staged()
        self.denials = Denials(state / "denied")
        self.client = TrustClient(state / "tuf", anchor, clock=clock)
        self._view: View | None = None
        self._named: dict[tuple[str, str], frozenset[str]] = {}  # who signs gates, by targets
        self.problems: dict[str, str] = {}  # role -> why nodes cannot use it now

    # --- reading -----------------------------------------------------------------------------

    def source(self) -> FolderSource:
        """Return the published files."""
        return FolderSource(self.folder)

    def view(self) -> View:
        """Return the verified roles as they are published; raises Refused when there are none."""
        if self._view is None:
            raise Refused(
                "repository",
                expected="verified trust files",
                got="none",
                hint="bring newer ones: embrasure trust submit",
                reason="no-trust",
            )
        return self._view

    def document(self, role: str, path: str, *, limit: int) -> bytes:
        """Return a verified target file of the published repository; raises NotFound, Refused."""
        return self.client.target(self.view(), role, path, self.source(), limit=limit)

    def role_file(self, role: str) -> bytes:
        """Return the published metadata file of `role`; raises NotFound."""
        version = self.published_version(role)
        if version == 0:
            raise NotFound(role, expected="a published role", got="none")
        return self.disk.role_file(role, version)

    def published_version(self, role: str) -> int:
        """Return the version of `role` that is published, 0 for none."""
        found = self._view.role(role) if self._view else None
        return found.version if found else self.disk.listed().get(role, 0)

    def gate_signer(self, env: str) -> Signer:
        """Return the key that signs gates and orders of `env` as published; raises Denied."""
        view, role = self._view, layout.gates_role(env)
        if view is None:
            return self._gate_signer(env, None)
        known = (view.roles[layout.TARGETS].sha256, role)
        if known not in self._named:
            # The keys of this very targets file; those of an older one are not asked for again.
            kept = {key: value for key, value in self._named.items() if key[0] == known[0]}
            self._named = {**kept, known: frozenset(self.client.keys(view, role))}
        return self._gate_signer(env, self._named[known])

    def _gate_signer(self, env: str, named: frozenset[str] | None) -> Signer:
        check_environment(self._online, env)
        return self._online.signer(layout.gates_role(env), named)

    # --- changing ----------------------------------------------------------------------------

    def open(self) -> None:
        """The view is verified; what a crash or a long sleep left behind is signed again."""
        with self._lock:
            try:
                self._view = self._refresh()
                self.denials.take(self.client, self._view, self.source())
            except EmbrasureError:
                # No timestamp yet, an expired one, or a publication that a crash cut short.
                self._publish(snapshot=True)
            self.renew()

    @contextmanager
    def change(self) -> Iterator[None]:
        """What is staged inside is this caller's: nobody else publishes, or drops, it meanwhile."""
        with self._lock:
            try:
                yield
            finally:
                self._staged = Staged()

    def stage_role(self, role: bytes, documents: Mapping[str, bytes]) -> None:
        """The next publication lists this signed approval role.

        documents: target path -> bytes of what it lists and the repository lacks
        """
        with self._lock:
            self._staged.add_role(role, documents)

    def set_gate(self, env: str, app: str, gate: bytes) -> None:
        """The next publication lists this gate."""
        self.gate_signer(env)
        with self._lock:
            self._staged.gates.setdefault(env, {})[layout.gate_path(env, app)] = gate

    def stage_trust(self, files: Mapping[str, bytes], roles: Mapping[str, int]) -> None:
        """The next publication brings these trust files (checked by `gateway.adopt`)."""
        with self._lock:
            self._staged.files.update(files)
            self._staged.roles.update(roles)

    def publish(self) -> View:
        """Return the view in which everything staged is published; nothing staged, nothing new.

        Raises Refused when a node would refuse it: then nothing is published and nothing stays
        staged.
        """
        with self._lock:
            return self._publish(snapshot=True) if self._staged or not self._view else self.view()

    def go_above(self, seen: Mapping[str, int]) -> View:
        """Return the view in which each online role is above what was seen (`gateway.renumber`)."""
        with self._lock:
            # One more: a gates file of the same number may have had another content.
            self.client.raise_floors(versions={role: n + 1 for role, n in seen.items()})
            return self._publish(snapshot=True)

    def renew(self) -> bool:
        """Sign again what grows old: the timestamp every 6 h, snapshot and gates every day."""
        with self._lock:
            last, listed = self.disk.timestamp(), self.disk.listed()
            if last is None:
                return False
            targets = self._delegated({}, listed)
            old = any(
                layout.gates_role(env) in form.delegated_names(targets)
                and self._is_old(env, listed, targets)
                for env in self._online.environments
            )
            # The snapshot grows old with the gates: both are signed again every day.
            old = old or self.clock() - self._snapshot_made() >= GATES_EVERY
            if old or self.clock() - (last.expires - TIMESTAMP_LIFE) >= TIMESTAMP_EVERY:
                self._publish(snapshot=old)
                return True
            return False

    def _snapshot_made(self) -> datetime:
        return self.view().roles[layout.SNAPSHOT].expires - SNAPSHOT_LIFE

    # --- how ---------------------------------------------------------------------------------

    def _publish(self, *, snapshot: bool) -> View:
        staged, self._staged = self._staged, Staged()
        what = sorted({*staged.roles, *(layout.gates_role(env) for env in staged.gates)})
        # What cannot be written down first is not signed.
        with self._journal.act("sign", " ".join(what) or layout.TIMESTAMP):
            return self._sign(staged, snapshot=snapshot)

    def _sign(self, staged: Staged, *, snapshot: bool) -> View:
        files = dict(staged.files)
        listed = self.disk.listed()
        check_numbers(staged, listed, files, self.disk)
        roles = listed | staged.roles
        at = self.clock()
        for env in self._due_gates(staged, roles):
            role = layout.gates_role(env)
            named = form.key_ids(self._delegated(staged.files, roles), role)
            signer = self._gate_signer(env, named)
            self._add_gates(files, roles, role, staged.gates.get(env, {}), at, signer)
        self._add_top(files, roles, at, snapshot=snapshot or roles != listed)
        changed = {role for role, version in roles.items() if listed.get(role) != version}
        self._verify(files, roles, changed)
        self.disk.write(files)
        self._view = self._refresh()
        online = {layout.SNAPSHOT, *(layout.gates_role(env) for env in self._online.environments)}
        self.disk.prune({name: r.version for name, r in self._view.roles.items() if name in online})
        return self._view

    def _due_gates(self, staged: Staged, roles: Mapping[str, int]) -> list[str]:
        """Environments with new gates, and those whose gates file is absent, old or orphaned."""
        targets = self._delegated(staged.files, roles)
        known = form.delegated_names(targets)
        return sorted(
            env
            for env in self._online.environments
            if layout.gates_role(env) in known
            and (env in staged.gates or self._is_old(env, roles, targets))
        )

    def _is_old(self, env: str, roles: Mapping[str, int], targets: Targets) -> bool:
        role = layout.gates_role(env)
        if role not in roles or roles[role] < self._floor(role):
            return True
        raw = self.disk.role_file(role, roles[role])
        made = form.read_metadata(raw, Targets, role).signed.expires - GATES_LIFE
        at = self.clock()
        return at - made >= GATES_EVERY or bool(form.problem_of(raw, role, targets, at=at))

    def _add_gates(
        self,
        files: dict[str, bytes],
        roles: dict[str, int],
        role: str,
        gates: Mapping[str, bytes],
        at: datetime,
        signer: Signer,
    ) -> None:
        former = None
        if role in roles:
            held = self._view.role(role) if self._view else None
            raw, targets = self.disk.role_file(role, roles[role]), self._delegated(files, roles)
            former = form.believed_gates(raw, role, targets, own=held.sha256 if held else "")
        # The number of a thief's file counts for nothing: he may have run it up to the end.
        roles[role] = self._next(role, former.version if former else 0)
        signed = form.make_gates(former, gates, version=roles[role], at=at)
        files[layout.metadata_file(role, roles[role])] = form.sign(signed, signer, role=role)
        for path, raw in gates.items():
            files[layout.target_file(path, sha256_hex(raw))] = raw

    def _add_top(
        self, files: dict[str, bytes], roles: Mapping[str, int], at: datetime, *, snapshot: bool
    ) -> None:
        last = self.disk.timestamp()
        number = 0 if last is None else last.snapshot_meta.version
        if snapshot or last is None:
            number = self._next(layout.SNAPSHOT, number)
            made = form.make_snapshot(roles, version=number, at=at)
            raw = form.sign(made, self._top_signer(layout.SNAPSHOT, files), role=layout.SNAPSHOT)
            files[layout.metadata_file(layout.SNAPSHOT, number)] = raw
        else:
            raw = self.disk.role_file(layout.SNAPSHOT, number)
        version = self._next(layout.TIMESTAMP, 0 if last is None else last.version)
        stamp = form.make_timestamp(raw, number, version=version, at=at)
        signer = self._top_signer(layout.TIMESTAMP, files)
        files[LAST] = form.sign(stamp, signer, role=layout.TIMESTAMP)

    def _top_signer(self, role: str, files: Mapping[str, bytes]) -> Signer:
        """The key that the root of this very publication names."""
        version = max(self.disk.root_version(), form.newest(files, layout.ROOT))
        if version == 0:
            return self._online.signer(role, None)
        raw = self._file(files, layout.ROOT, version)
        root = form.read_metadata(raw, Root, layout.ROOT).signed
        return self._online.signer(role, form.key_ids(root, role))

    def _next(self, role: str, published: int) -> int:
        """The next version: above what is published, and above what our own client has seen."""
        held = self._view.role(role) if self._view else None
        return max(published, held.version if held else 0, self._floor(role)) + 1

    def _floor(self, role: str) -> int:
        return self.client.workflow.floors().versions.get(role, 0)

    def _verify(
        self, files: Mapping[str, bytes], roles: Mapping[str, int], changed: Set[str]
    ) -> None:
        """Return only when a fresh node would accept all of it, each changed document included.

        What it denies counts from here on: no crash before the files are written lets a later
        version lift it.
        """
        source, names = Overlay(files, self.source()), self._loadable(files, roles)
        wanted = {role: roles[role] for role in changed}
        with rehearsed(self._state, self.anchor, source, names=names, clock=self.clock) as node:
            check_changed(*node, source, wanted, self.problems)
            self.denials.take(*node, source)

    def _delegated(self, files: Mapping[str, bytes], roles: Mapping[str, int]) -> Targets:
        """The targets file, staged or published."""
        if layout.TARGETS not in roles:
            raise Refused("repository", expected="a targets file", got="none", reason="no-trust")
        raw = self._file(files, layout.TARGETS, roles[layout.TARGETS])
        return form.read_metadata(raw, Targets, layout.TARGETS).signed

    def _loadable(self, files: Mapping[str, bytes], roles: Mapping[str, int]) -> list[str]:
        """Delegated roles that carry their threshold. One that lost its signatures, or expired,
        must not keep every other one from being published; nodes wait for that role alone.
        """
        targets = self._delegated(files, roles)
        found: list[str] = []
        self.problems = {}
        for name in sorted(form.delegated_names(targets) & set(roles)):
            raw = self._file(files, name, roles[name])
            problem = form.problem_of(raw, name, targets, at=self.clock())
            if problem:
                self.problems[name] = problem
            if form.has_threshold(raw, name, targets):
                found.append(name)
        return found

    def _file(self, files: Mapping[str, bytes], role: str, version: int) -> bytes:
        path = layout.metadata_file(role, version)
        return files.get(path) or self.disk.role_file(role, version)

    def _refresh(self) -> View:
        roles = self._loadable({}, self.disk.listed())
        return self.client.refresh(self.source(), roles=roles, tolerate_expired=True)
