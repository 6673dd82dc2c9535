"""A thief with the whole gateway: its repository and every online key. Here he forges.

He signs whatever the gateway can sign. What he lacks is k operators' signatures and the receipts
of honest nodes. `demo.dial` then speaks to nodes as the gateway does.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec
from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import Metadata, Snapshot, TargetFile, Targets, Timestamp

from demo.fleet import ENV, PASSPHRASE, DemoNode, Fleet
from embrasure import limits
from embrasure.clock import now
from embrasure.trust import layout
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.documents import write
from embrasure.trust.fetcher import fetch_whole
from embrasure.trust.folder import FolderSource
from embrasure.trust.gate import Gate, parse_gate
from embrasure.trust.plan import NamedNode, Plan, parse_plan
from gateway import metadata as form
from pki.folder import TrustFolder
from pki.signers import open_signer

AHEAD = 1  # above the honest versions: enough to be taken, few enough to be overtaken


@dataclass(frozen=True, slots=True)
class Forgery:
    """A forged repository, and the plan and gate that an order would name."""

    folder: Path
    plan: str
    gate: str


def online_signer(trust: TrustFolder, name: str) -> Signer:
    """Return one of the gateway's online keys, as whoever stole it would open it."""
    uri = f"keyfile:{trust.path / 'online' / name}.key"
    return open_signer(uri, lambda _: PASSPHRASE.encode(), purpose="online", root=trust.root_id)


class Thief:
    """Each attack begins with a copy of the gateway's repository and ends with a forged one."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        trust = TrustFolder.open(fleet.trust)
        self.snapshot = online_signer(trust, "snapshot")
        self.timestamp = online_signer(trust, "timestamp")
        self.gates = online_signer(trust, f"gates-{ENV}")
        self.plan_path = layout.plan_path(ENV, fleet.app)
        self.gate_path = layout.gate_path(ENV, fleet.app)
        self.role = layout.app_role(ENV, fleet.app)

    # --- the attacks -----------------------------------------------------------------------------

    def invent(self) -> Forgery:
        """A release of his own, under the honest version number, signed with a key of his own."""
        folder = self._copy("invent")
        plan, gate = self._current(folder)
        fake = msgspec.structs.replace(plan, title="invented", settings={"OWNED": "1"})
        return self._forge(folder, fake, gate, signer=CryptoSigner.generate_ed25519())

    def retarget(self, victim: DemoNode) -> Forgery:
        """The approved plan with another canary, under the operators' own signatures."""
        folder = self._copy("retarget")
        plan, gate = self._current(folder)
        other = NamedNode(id=victim.id, key=plan.waves[0].nodes[0].key)
        canary = msgspec.structs.replace(plan.waves[0], nodes=(other,))
        moved = msgspec.structs.replace(plan, waves=(canary, *plan.waves[1:]))
        return self._forge(folder, moved, gate, signer=None)

    def skip_canary(self) -> Forgery:
        """The approved plan, untouched, with every wave opened and no receipt to show for it."""
        folder = self._copy("skip")
        plan, gate = self._current(folder)
        return self._publish(folder, gate, plan=gate.plan, open_wave=len(plan.waves) - 1)

    # --- how -------------------------------------------------------------------------------------

    def _copy(self, name: str) -> Path:
        folder = self.fleet.folder / "thief" / name
        shutil.copytree(self.fleet.folder / "gateway" / "repository", folder)
        return folder

    def _forge(self, folder: Path, plan: Plan, gate: Gate, *, signer: Signer | None) -> Forgery:
        """List `plan` in the approval role; without `signer` the old signatures stay on it."""
        metadata = self._newest(folder, self.role)
        raw = write(plan)
        metadata.signed.targets[self.plan_path] = _listed(self.plan_path, raw)
        if signer is not None:
            metadata.sign(signer)
        put(folder, layout.target_file(self.plan_path, sha256_hex(raw)), raw)
        name = layout.metadata_file(self.role, metadata.signed.version)
        put(folder, name, metadata.to_bytes())
        return self._publish(folder, gate, plan=sha256_hex(raw), open_wave=0)

    def _publish(self, folder: Path, gate: Gate, *, plan: str, open_wave: int) -> Forgery:
        """Open the gate; sign gates, snapshot and timestamp with the stolen keys."""
        opened = msgspec.structs.replace(
            gate, plan=plan, state="open", open_wave=open_wave, gseq=gate.gseq + AHEAD, evidence=()
        )
        at, role, raw = now(), layout.gates_role(ENV), write(opened)
        held = self._newest(folder, role).signed
        gates = form.make_gates(held, {self.gate_path: raw}, version=held.version + AHEAD, at=at)
        put(folder, layout.target_file(self.gate_path, sha256_hex(raw)), raw)
        name = layout.metadata_file(role, gates.version)
        put(folder, name, form.sign(gates, self.gates, role=role))
        self._sign_top(folder, {role: gates.version}, at)
        return Forgery(folder, plan, sha256_hex(raw))

    def _sign_top(self, folder: Path, changed: dict[str, int], at: datetime) -> None:
        last, old = _timestamp(folder).signed, _snapshot(folder).signed
        roles = form.listed_roles(old) | changed
        snapshot = form.make_snapshot(roles, version=old.version + AHEAD, at=at)
        raw = form.sign(snapshot, self.snapshot, role=layout.SNAPSHOT)
        put(folder, layout.metadata_file(layout.SNAPSHOT, snapshot.version), raw)
        stamp = form.make_timestamp(raw, snapshot.version, version=last.version + AHEAD, at=at)
        put(
            folder,
            layout.metadata_file(layout.TIMESTAMP, 0),
            form.sign(stamp, self.timestamp, role=layout.TIMESTAMP),
        )

    def _current(self, folder: Path) -> tuple[Plan, Gate]:
        plan = _target(folder, self._newest(folder, self.role).signed, self.plan_path)
        gates = self._newest(folder, layout.gates_role(ENV)).signed
        return parse_plan(plan), parse_gate(_target(folder, gates, self.gate_path))

    @staticmethod
    def _newest(folder: Path, role: str) -> Metadata[Targets]:
        version = form.listed_roles(_snapshot(folder).signed)[role]
        raw = _read(folder, layout.metadata_file(role, version), limits.DELEGATED_BYTES)
        return form.read_metadata(raw, Targets, role)


def _timestamp(folder: Path) -> Metadata[Timestamp]:
    name = layout.metadata_file(layout.TIMESTAMP, 0)
    raw = _read(folder, name, limits.TIMESTAMP_BYTES)
    return form.read_metadata(raw, Timestamp, layout.TIMESTAMP)


def _snapshot(folder: Path) -> Metadata[Snapshot]:
    version = _timestamp(folder).signed.snapshot_meta.version
    raw = _read(folder, layout.metadata_file(layout.SNAPSHOT, version), limits.SNAPSHOT_BYTES)
    return form.read_metadata(raw, Snapshot, layout.SNAPSHOT)


def _target(folder: Path, role: Targets, path: str) -> bytes:
    digest = role.targets[path].hashes["sha256"]
    return _read(folder, layout.target_file(path, digest), limits.PLAN_BYTES)


def _listed(path: str, raw: bytes) -> TargetFile:
    return TargetFile.from_data(path, raw, ["sha256"])


def _read(folder: Path, path: str, limit: int) -> bytes:
    return fetch_whole(FolderSource(folder), path, limit=limit)


def put(folder: Path, path: str, raw: bytes) -> None:
    """Write one file of a forged repository."""
    place = folder / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(raw)
