"""A thief with the whole gateway: its folder, its database, every online key. Here he forges.

He runs the gateway's own code on a copy, so he signs whatever the gateway can sign. What he lacks
is k operators' signatures and the receipts of honest nodes. `demo.dial` then dials nodes.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import msgspec
from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import Metadata, TargetFile, Targets

from demo.fleet import ENV, PASSPHRASE, DemoNode, Fleet
from embrasure.clock import now, write_time
from embrasure.trust import layout
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.documents import write
from embrasure.trust.gate import Gate
from embrasure.trust.plan import NamedNode, Plan
from gateway import metadata as form
from gateway.proposals import Approved, Proposals
from gateway.run import Opened, opened

DATABASE = "gateway.db"


@dataclass(frozen=True, slots=True)
class Forgery:
    """A forged repository, the plan and gate that an order would name, and the real gate key."""

    folder: Path
    plan: str
    gate: str
    signer: Signer


class Thief:
    """Each attack begins with a copy of the gateway and ends with a forged repository.

    plan: digest of a plan that k operators approved and nobody has started
    """

    def __init__(self, fleet: Fleet, plan: str) -> None:
        self.fleet, self.plan = fleet, plan
        self.role = layout.app_role(ENV, fleet.app)
        self.plan_path = layout.plan_path(ENV, fleet.app)

    def invent(self) -> Forgery:
        """A release of his own, under the honest version number, signed with a key of his own."""

        def change(plan: Plan) -> Plan:
            return msgspec.structs.replace(plan, title="invented", settings={"OWNED": "1"})

        return self._forge("invent", change, CryptoSigner.generate_ed25519())

    def retarget(self, victim: DemoNode) -> Forgery:
        """The approved plan with another canary, under the operators' own signatures."""

        def change(plan: Plan) -> Plan:
            other = NamedNode(id=victim.id, key=plan.waves[0].nodes[0].key)
            canary = msgspec.structs.replace(plan.waves[0], nodes=(other,))
            return msgspec.structs.replace(plan, waves=(canary, *plan.waves[1:]))

        return self._forge("retarget", change, None)

    def skip_canary(self) -> Forgery:
        """The approved plan, untouched, with every wave opened and no receipt to show for it."""
        folder = self._copy("skip")
        with opened(folder, _passphrase) as gateway:
            approved = self._approved(gateway)
            plan = approved.release.plan
            gate = _gate(plan, self.plan, open_wave=len(plan.waves) - 1)
            return self._publish(gateway, approved, gate)

    # --- how -------------------------------------------------------------------------------------

    def _forge(self, name: str, change: Callable[[Plan], Plan], signer: Signer | None) -> Forgery:
        """Publish the honest role with a gate for the forged plan, then put the forged files in its
        place: without `signer` the operators' signatures stay on bytes they never saw.
        """
        folder = self._copy(name)
        with opened(folder, _passphrase) as gateway:
            approved = self._approved(gateway)
            raw = write(change(approved.release.plan))
            gate = _gate(approved.release.plan, sha256_hex(raw), open_wave=0)
            forgery = self._publish(gateway, approved, gate)
        metadata = form.read_metadata(approved.role, Targets, self.role)
        metadata.signed.targets[self.plan_path] = TargetFile.from_data(
            self.plan_path, raw, ["sha256"]
        )
        if signer is not None:
            metadata.sign(signer)
        _put(forgery.folder, layout.target_file(self.plan_path, sha256_hex(raw)), raw)
        self._put_role(forgery.folder, metadata)
        return forgery

    def _put_role(self, folder: Path, metadata: Metadata[Targets]) -> None:
        name = layout.metadata_file(self.role, metadata.signed.version)
        _put(folder, name, metadata.to_bytes())

    def _copy(self, name: str) -> Path:
        """Return a copy of the gateway's folder, its database as it is at this moment."""
        real, folder = self.fleet.folder / "gateway", self.fleet.folder / "thief" / name
        ignored = shutil.ignore_patterns(f"{DATABASE}*", "ports.json")
        shutil.copytree(real, folder, symlinks=True, ignore=ignored)
        for database in real.rglob(DATABASE):
            copy = folder / database.relative_to(real)
            with closing(sqlite3.connect(database)) as old, closing(sqlite3.connect(copy)) as new:
                old.backup(new)
        return folder

    def _approved(self, gateway: Opened) -> Approved:
        proposals = Proposals(gateway.database, gateway.journal, gateway.repository, gateway.blobs)
        return proposals.approved(ENV, self.fleet.app, self.plan)

    def _publish(self, gateway: Opened, approved: Approved, gate: Gate) -> Forgery:
        raw = write(gate)
        gateway.repository.stage_role(approved.role, approved.documents)
        gateway.repository.set_gate(ENV, self.fleet.app, raw)
        gateway.repository.publish()
        signer = gateway.repository.gate_signer(ENV)
        return Forgery(gateway.repository.folder, gate.plan, sha256_hex(raw), signer)


def _passphrase(name: str) -> bytes:
    return PASSPHRASE.encode()


def _gate(plan: Plan, digest: str, *, open_wave: int) -> Gate:
    """Return a gate that opens these waves of a plan and proves nothing."""
    return Gate(
        v=1, type="gate", root=plan.root, env=plan.env, app=plan.app, plan=digest, seq=plan.seq,
        gseq=1, state="open", open_wave=open_wave, attempt=1, evidence=(), after_evidence=(),
        issued=write_time(now()), audit_head="0" * 64, code="", reason="",
    )  # fmt: skip


def _put(folder: Path, path: str, raw: bytes) -> None:
    place = folder / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(raw)
