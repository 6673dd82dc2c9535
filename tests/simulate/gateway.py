"""A gateway's inside on a simulated fleet: real repository, database, journal; no network.

gateway = SimGateway(folder, sim)              # sim: SimRepository with apps and nodes
draft = gateway.draft("shop", by="anna")       # what anna's machine would build
name = gateway.propose(draft)
gateway.approve(name, "ben")
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec

from embrasure.bundle.store import BlobStore
from embrasure.trust.documents import write
from embrasure.trust.plan import Plan
from gateway.audit import Journal
from gateway.database import Database
from gateway.grounds import Grounds
from gateway.keyring import Online
from gateway.proposals import Proposals
from gateway.releases import Release, build_role, check_release
from gateway.repository import Repository
from gateway.statements import Decision, make_statement
from tests.simulate.releases import SimRelease, make_release
from tests.simulate.repository import SimRepository

_ONLINE = ("timestamp", "snapshot", "gates-")


def online_of(sim: SimRepository) -> Online:
    """Return the online signers of a simulated fleet."""
    gates = {
        role.removeprefix("gates-"): signers[0]
        for role, signers in sim.signers.items()
        if role.startswith("gates-")
    }
    return Online(
        snapshot=sim.signers["snapshot"][0],
        timestamp=sim.signers["timestamp"][0],
        gates=gates,
    )


def trust_files(sim: SimRepository) -> dict[str, bytes]:
    """Return what the security team's folder holds: nothing that is signed online or by k."""
    apps = {f"{env}-{app}" for env, policy in sim.policies.items() for app in policy.apps}

    def offline(path: str) -> bool:
        name = path.removeprefix("metadata/").removesuffix(".json").rpartition(".")[2]
        if path.startswith("metadata/"):
            return name not in apps and not name.startswith(_ONLINE)
        return path.startswith(("targets/fleet/", "targets/revoked/"))

    return {path: data for path, data in sim.files.items() if offline(path)}


def write_trust(sim: SimRepository, folder: Path) -> None:
    """`folder` is a repository folder with the trust files of `sim`."""
    for path, data in trust_files(sim).items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


@dataclass(frozen=True, slots=True)
class Draft:
    """What a proposer's machine sends."""

    by: str
    release: Release
    statement: bytes


class SimGateway:
    """One gateway process's parts, without its listener and its roll-out engine."""

    def __init__(self, folder: Path, sim: SimRepository) -> None:
        self.sim, self.folder, self.clock = sim, folder, sim.clock
        self._held = ExitStack()
        self.database = Database(folder / "state")
        self._held.callback(self.database.close)
        self.journal = Journal(
            folder / "state", self.database, root=sim.root_id, actor="gateway/g1", clock=sim.clock
        )
        self._held.callback(self.journal.close)
        if not (folder / "repository").exists():
            write_trust(sim, folder / "repository")
        self.repository = Repository(
            folder / "repository",
            state=folder / "state",
            anchor=sim.anchor,
            online=online_of(sim),
            journal=self.journal,
            clock=sim.clock,
        )
        self.repository.open()
        self.blobs = BlobStore(folder / "repository" / "blobs", mode=0o755)
        self._held.callback(self.blobs.close)
        self.proposals = Proposals(
            self.database, self.journal, self.repository, self.blobs, clock=sim.clock
        )

    def close(self) -> None:
        """Everything is closed, as after a clean stop."""
        self._held.close()

    def grounds(self, app: str = "shop") -> Grounds:
        """Return the verified facts about an app of the first environment."""
        return self.proposals.grounds(self.sim.env, app)

    def upload(self, release: SimRelease) -> None:
        """The release's manifest and blobs are stored."""
        for name, data in {**release.blobs, release.digest: release.raw}.items():
            if not self.blobs.has(name, length=len(data)):
                with self.blobs.writer(name, length=len(data)) as writer:
                    writer.write(data)
                    writer.commit()
        self.blobs.sync()

    def plan_for(self, release: SimRelease, *, by: str, seq: int) -> Plan:
        """Return an honest plan of `by`: the first node is the canary, then all."""
        canary = next(iter(self.sim.nodes.values()))
        plan = self.sim.draft_plan(release, canary=[canary], seq=seq)
        return msgspec.structs.replace(plan, proposer=by)

    def draft(self, app: str = "shop", *, by: str = "anna", version: str = "1.0") -> Draft:
        """Return what `by`'s machine would send for a small release of `app`; it is uploaded."""
        release = make_release(app, version=version)
        self.upload(release)
        seq = self.proposals.reserve(self.sim.env, app, person=by)
        return self.draft_of(self.plan_for(release, by=by, seq=seq), release, by=by)

    def draft_of(self, plan: Plan, release: SimRelease, *, by: str) -> Draft:
        """Return the proposal of exactly this plan."""
        grounds, raw = self.grounds(plan.app), write(plan)
        role = build_role(
            raw,
            release.raw,
            env=plan.env,
            app=plan.app,
            version=plan.seq,
            kept=grounds.kept,
            at=self.clock(),
        )
        found = check_release(
            role,
            raw,
            release.raw,
            root=grounds.root,
            env=plan.env,
            app=plan.app,
            kept=grounds.kept,
            now=self.clock(),
        )
        return Draft(by, found, self.statement(found, by, "propose"))

    def statement(
        self, release: Release, by: str, decision: Decision, *, comment: str = ""
    ) -> bytes:
        """Return the sealed word of `by`, who has his own key."""
        return make_statement(
            release,
            self.grounds(release.app),
            self.sim.person(by).signer,
            decision=decision,
            comment=comment,
            shown="0" * 64,
            at=self.clock(),
        )

    def propose(self, draft: Draft, *, supersede: bool = False, person: str = "") -> str:
        """Return the id of the proposal, sent by `person` (default: who drafted it)."""
        return self.proposals.propose(
            draft.release.env,
            draft.release.app,
            draft.release.role_raw,
            draft.release.plan_raw,
            draft.statement,
            person=person or draft.by,
            supersede=supersede,
        )

    def approve(self, draft: Draft, by: str) -> str:
        """Return the state after `by` has signed."""
        signature = self.sim.person(by).signer.sign(draft.release.signed_bytes)
        return self.proposals.approve(
            draft.release.plan_digest[:16],
            bytes.fromhex(signature.signature),
            self.statement(draft.release, by, "approve"),
            person=by,
        )
