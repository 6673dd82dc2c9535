"""The publisher: the gateway's repository folder, and the only code that signs its online roles.

What is published was first verified, whole, by the same client that nodes run. Files become
visible in one step: the timestamp is written last.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Mapping, Set
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from securesystemslib.signer import Signer
from tuf.api.metadata import Root, Snapshot, Targets, Timestamp

from embrasure import fs, limits
from embrasure.clock import Clock, now
from embrasure.errors import Denied, EmbrasureError, NotFound, Refused
from embrasure.trust import layout
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.client import TrustClient
from embrasure.trust.folder import FolderSource
from embrasure.trust.view import View
from gateway import metadata as form
from gateway.overlay import Overlay, fetch_all

FILE_MODE, FOLDER_MODE = 0o644, 0o755  # public: any web server may read it
TIMESTAMP_EVERY = timedelta(hours=6)
GATES_EVERY = timedelta(days=1)
TIMESTAMP_LIFE = timedelta(seconds=limits.TIMESTAMP_SECONDS)
SNAPSHOT_LIFE = timedelta(seconds=limits.SNAPSHOT_SECONDS)
GATES_LIFE = timedelta(seconds=limits.GATES_SECONDS)


@dataclass(frozen=True, slots=True)
class Online:
    """The signers of the online roles; gates: by environment."""

    snapshot: Signer
    timestamp: Signer
    gates: Mapping[str, Signer]


@dataclass(slots=True)
class _Staged:
    """What the next publication changes: files, role -> version, env -> gate path -> bytes."""

    files: dict[str, bytes]
    roles: dict[str, int]
    gates: dict[str, dict[str, bytes]]

    def __bool__(self) -> bool:
        return bool(self.roles or self.gates)


class Repository:
    """An open repository.

    folder: served to nodes and mirrors; state: 0700, holds the gateway's own verified view.
    """

    def __init__(
        self, folder: Path, *, state: Path, anchor: bytes, online: Online, clock: Clock = now
    ) -> None:
        self.folder, self.anchor = folder, anchor
        self._state, self._online, self.clock = state, online, clock
        self._lock = threading.RLock()
        self._staged = _Staged({}, {}, {})
        self.client = TrustClient(state / "tuf", anchor, clock=clock)
        self._view: View | None = None
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
        return self._file({}, role, version)

    def published_version(self, role: str) -> int:
        """Return the version of `role` that is published, 0 for none."""
        found = self._view.role(role) if self._view else None
        return found.version if found else self._listed().get(role, 0)

    def gate_signer(self, env: str) -> Signer:
        """Return the key that signs gates and orders of `env`; raises Denied."""
        signer = self._online.gates.get(env)
        if signer is None:
            raise Denied(
                f"environment {env}",
                expected=f"a key for {layout.gates_role(env)}",
                got="none in gateway.toml",
                reason="no-gate-key",
            )
        return signer

    # --- changing ----------------------------------------------------------------------------

    def open(self) -> None:
        """The view is verified; what a crash or a long sleep left behind is signed again."""
        with self._lock:
            try:
                self._view = self._refresh()
            except EmbrasureError:
                # No timestamp yet, an expired one, or a publication that a crash cut short.
                self._publish(snapshot=True)
            self.renew()

    def stage_role(self, role: bytes, documents: Mapping[str, bytes]) -> None:
        """The next publication lists this signed approval role.

        documents: target path -> bytes of what it lists and the repository lacks
        """
        signed = form.read_metadata(role, Targets, "approval role").signed
        name = self._role_of(signed, documents)
        with self._lock:
            self._staged.roles[name] = signed.version
            self._staged.files[layout.metadata_file(name, signed.version)] = role
            for path, raw in documents.items():
                self._staged.files[layout.target_file(path, sha256_hex(raw))] = raw

    @staticmethod
    def _role_of(signed: Targets, documents: Mapping[str, bytes]) -> str:
        """Delegated metadata does not hold its own name: its plan's path does."""
        for path in signed.targets:
            env, _, rest = path.partition("/")
            app, _, name = rest.partition("/")
            if name == "plan.json" and path in documents:
                return layout.app_role(layout.check_env(env), layout.check_app(app))
        raise Refused("approval role", expected="a plan", got="none", reason="bad-schema")

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

    def renew(self) -> bool:
        """Sign again what grows old: the timestamp every 6 h, snapshot and gates every day."""
        with self._lock:
            last, listed = self._timestamp(), self._listed()
            if last is None:
                return False
            targets = self._delegated({}, listed)
            old = any(
                layout.gates_role(env) in form.delegated_names(targets)
                and self._is_old(env, listed, targets)
                for env in self._online.gates
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
        staged, self._staged = self._staged, _Staged({}, {}, {})
        files = dict(staged.files)
        listed = self._listed()
        roles = listed | staged.roles
        at = self.clock()
        for env in self._due_gates(staged, roles):
            role = layout.gates_role(env)
            self._add_gates(files, roles, role, staged.gates.get(env, {}), at)
        self._add_top(files, roles, at, snapshot=snapshot or roles != listed)
        changed = {role for role, version in roles.items() if listed.get(role) != version}
        self._verify(files, roles, changed)
        self._write(files)
        self._view = self._refresh()
        return self._view

    def _due_gates(self, staged: _Staged, roles: Mapping[str, int]) -> list[str]:
        """Environments with new gates, and those whose gates file is absent, old or orphaned."""
        targets = self._delegated(staged.files, roles)
        known = form.delegated_names(targets)
        return sorted(
            env
            for env in self._online.gates
            if layout.gates_role(env) in known
            and (env in staged.gates or self._is_old(env, roles, targets))
        )

    def _is_old(self, env: str, roles: Mapping[str, int], targets: Targets) -> bool:
        role = layout.gates_role(env)
        if role not in roles:
            return True
        raw = self._file({}, role, roles[role])
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
    ) -> None:
        former = None
        if role in roles:
            raw = self._read(layout.metadata_file(role, roles[role]), form.limit_of(role))
            former = form.read_metadata(raw, Targets, role).signed
        roles[role] = self._next(role, roles.get(role, 0))
        signed = form.make_gates(former, gates, version=roles[role], at=at)
        signer = self.gate_signer(role.removeprefix("gates-"))
        files[layout.metadata_file(role, roles[role])] = form.sign(signed, signer, role=role)
        for path, raw in gates.items():
            files[layout.target_file(path, sha256_hex(raw))] = raw

    def _add_top(
        self, files: dict[str, bytes], roles: Mapping[str, int], at: datetime, *, snapshot: bool
    ) -> None:
        last = self._timestamp()
        number = 0 if last is None else last.snapshot_meta.version
        if snapshot or last is None:
            number = self._next(layout.SNAPSHOT, number)
            made = form.make_snapshot(roles, version=number, at=at)
            raw = form.sign(made, self._online.snapshot, role=layout.SNAPSHOT)
            files[layout.metadata_file(layout.SNAPSHOT, number)] = raw
        else:
            raw = self._read(layout.metadata_file(layout.SNAPSHOT, number), limits.SNAPSHOT_BYTES)
        version = self._next(layout.TIMESTAMP, 0 if last is None else last.version)
        stamp = form.make_timestamp(raw, number, version=version, at=at)
        files["metadata/timestamp.json"] = form.sign(
            stamp, self._online.timestamp, role=layout.TIMESTAMP
        )

    def _next(self, role: str, published: int) -> int:
        """The next version: above what is published, and above what our own client has seen."""
        held = self._view.role(role) if self._view else None
        return max(published, held.version if held else 0) + 1

    def _verify(
        self, files: Mapping[str, bytes], roles: Mapping[str, int], changed: Set[str]
    ) -> None:
        """Return only when a fresh node would accept all of it, each changed document included."""
        with tempfile.TemporaryDirectory(dir=self._state, prefix="check-") as folder:
            client = TrustClient(Path(folder) / "tuf", self.anchor, clock=self.clock)
            source = Overlay(files, self.source())
            view = client.refresh(source, roles=self._loadable(files, roles))
            for role in sorted(changed):
                found = view.role(role)
                if found is None or found.version != roles[role]:
                    why = self.problems.get(role, "no delegation")
                    raise Refused(role, expected="to verify", got=why, reason="orphan")
                for path in found.targets:
                    _check_document(client, view, role, path, source)

    def _delegated(self, files: Mapping[str, bytes], roles: Mapping[str, int]) -> Targets:
        """The targets file, staged or published."""
        if layout.TARGETS not in roles:
            raise Refused("repository", expected="a targets file", got="none", reason="no-trust")
        raw = self._file(files, layout.TARGETS, roles[layout.TARGETS])
        return form.read_metadata(raw, Targets, layout.TARGETS).signed

    def _loadable(self, files: Mapping[str, bytes], roles: Mapping[str, int]) -> list[str]:
        """Delegated roles that will verify now. One that expired, or lost its signatures, must
        not keep every other one from being published; nodes wait for that role alone.
        """
        targets = self._delegated(files, roles)
        names = form.delegated_names(targets)
        problems = {}
        for name in sorted(set(names) & set(roles)):
            raw = self._file(files, name, roles[name])
            problem = form.problem_of(raw, name, targets, at=self.clock())
            if problem:
                problems[name] = problem
        self.problems = problems
        return sorted((set(names) & set(roles)) - set(problems))

    def _file(self, files: Mapping[str, bytes], role: str, version: int) -> bytes:
        path = layout.metadata_file(role, version)
        return files.get(path) or self._read(path, form.limit_of(role))

    def _write(self, files: Mapping[str, bytes]) -> None:
        """Every file is on disk; the timestamp, which makes them visible, is the last one."""
        last = "metadata/timestamp.json"
        with fs.Folder.open(self.folder) as top:
            for path in sorted(files, key=lambda name: (name == last, name)):
                layout.parse_file(path)
                folder, _, name = path.rpartition("/")
                inner = top
                for part in folder.split("/"):
                    inner = inner.ensure(part, mode=FOLDER_MODE)
                inner.replace(name, files[path], mode=FILE_MODE)

    def _refresh(self) -> View:
        return self.client.refresh(self.source(), roles=self._loadable({}, self._listed()))

    def _listed(self) -> dict[str, int]:
        """Role -> version: what the current snapshot lists, or before the first one, the newest
        file of each role. Read from our own disk; `_verify` judges what comes of it.
        """
        last = self._timestamp()
        if last is None:
            return self._newest()
        path = layout.metadata_file(layout.SNAPSHOT, last.snapshot_meta.version)
        raw = self._read(path, limits.SNAPSHOT_BYTES)
        return form.listed_roles(form.read_metadata(raw, Snapshot, layout.SNAPSHOT).signed)

    def _newest(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for file in (self.folder / "metadata").glob("*.*.json"):
            with suppress(EmbrasureError, ValueError):
                layout.parse_file(f"metadata/{file.name}")
                number, role, _ = file.name.split(".")
                if role not in (layout.ROOT, layout.SNAPSHOT):
                    found[role] = max(found.get(role, 0), int(number))
        known = {layout.TARGETS, *form.delegated_names(self._delegated({}, found))}
        return {role: version for role, version in found.items() if role in known}

    def _timestamp(self) -> Timestamp | None:
        raw = fetch_all(self.source(), "metadata/timestamp.json", limit=limits.TIMESTAMP_BYTES)
        if raw is None:
            return None
        return form.read_metadata(raw, Timestamp, layout.TIMESTAMP).signed

    def _read(self, path: str, limit: int) -> bytes:
        return fs.read_file(self.folder / path, limit=limit)

    def root_version(self) -> int:
        """Return the version of the newest root file in the folder."""
        names = [file.name.split(".")[0] for file in (self.folder / "metadata").glob("*.root.json")]
        return max((int(name) for name in names if name.isdigit()), default=0)

    def root(self) -> Root:
        """Return the newest root as it lies in the folder."""
        path = layout.metadata_file(layout.ROOT, self.root_version())
        return form.read_metadata(self._read(path, limits.ROOT_BYTES), Root, layout.ROOT).signed


def _check_document(client: TrustClient, view: View, role: str, path: str, source: Overlay) -> None:
    """Return only when the listed document can be fetched as it is listed; raises Refused."""
    try:
        client.target(view, role, path, source, limit=limits.MANIFEST_BYTES)
    except NotFound:
        raise Refused(
            path, expected=f"the document that {role} lists", got="none", reason="missing"
        ) from None
