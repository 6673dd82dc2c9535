"""Asks the trust core what to do with one app, and keeps every floor that the answer raises."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from logging import getLogger

import msgspec
from securesystemslib.signer import Key

from embrasure import limits
from embrasure.clock import Clock, read_time
from embrasure.errors import EmbrasureError, NotFound, Refused, Unavailable
from embrasure.fs import read_file, replace_file
from embrasure.secret.sealed import parse_sealed
from embrasure.trust import layout
from embrasure.trust.client import TrustClient
from embrasure.trust.decide import NodeState, Verdict, below_ceiling, decide, union_after
from embrasure.trust.floors import AppFloor, Floors
from embrasure.trust.load import Docs, load, roles_for
from embrasure.trust.source import Source
from embrasure.trust.view import View
from embrasure.trust.workflow.verified import delegations
from node import believed, hold, windows
from node.config import windows_of
from node.enrolment import accept_enrolment, is_enrolled, take_enrolment
from node.first_trust import verified_answer
from node.ground import FloorKeeper
from node.identity import Identity, load_seal_key
from node.paths import Paths
from node.releases import secret_document
from node.trusting import Trusting, is_behind
from node.windows import Pause

LOG = getLogger(__name__)

# Verdicts that say nothing about the plan's number: its floor stays.
_BEFORE_SEQUENCE = frozenset(
    {"clock_behind", "not_enrolled", "no_rules", "protocol", "no_plan", "withheld"}
)
# Verdicts that were reached with a gate that counts.
_WITH_GATE = frozenset(
    {"", "paused", "halted", "turn", "expired", "quarantine", "evidence", "window", "window_short",
     "zone"}
)  # fmt: skip

_WAITS = {
    "gate": "waits for the gate of this plan",
    "paused": "the roll-out is paused",
    "turn": "waits for its wave",
}


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict and the documents that it was reached with."""

    verdict: Verdict
    docs: Docs | None = None


class Judge:
    """The trust side of a node: refresh, load, decide, remember."""

    def __init__(
        self,
        paths: Paths,
        identity: Identity,
        floors: FloorKeeper,
        *,
        clock: Clock,
        isolation: int = 0,
    ) -> None:
        self._isolation = isolation
        self._paths = paths
        self._identity = identity
        self._opened: TrustClient | None = None
        self._trusting: Trusting | None = None
        self._opening = threading.RLock()
        self._floors = floors
        self._clock = clock

    @property
    def _client(self) -> TrustClient:
        """Opened at the first decision: damaged trust stops new installs, never a boot."""
        if self._opened is None:
            client = TrustClient(
                self._paths.tuf,
                read_file(self._paths.anchor, limit=limits.ROOT_BYTES),
                clock=self._clock,
                enrolled=is_enrolled(self._paths),
            )
            if client.root_id != self._identity.root_id:
                raise Refused(
                    "trust anchor",
                    expected=self._identity.root_id,
                    got=client.root_id,
                    hint="the anchor is of another fleet",
                    reason="identity",
                )
            self._opened = client
        return self._opened

    @property
    def trusting(self) -> Trusting:
        """The metadata door of this node."""
        with self._opening:
            if self._trusting is None:
                self._trusting = Trusting(self._paths, self._identity, self._client, self._floors)
            return self._trusting

    def enrol(self, raw: bytes, source: Source) -> None:
        """This node is enrolled by the answer `raw`, for which the trust files of `source` vouch.

        Before that nothing is written. Raises what `verified_answer` raises.
        """
        identity = self._identity
        answer = verified_answer(
            raw, source, anchor=self._client.anchor, identity=identity,
            seal=load_seal_key(self._paths).public(epoch=identity.epoch), at=self._clock(),
        )  # fmt: skip
        replace_file(self._paths.config, self._paths.enrolled.name, raw, mode=0o644)
        take_enrolment(self._paths, raw, answer, self._client, self._floors, clock=self._clock)
        try:
            # What they deny counts from now on, not from the first refresh.
            self.trusting.take(source)
        except EmbrasureError as problem:
            LOG.warning("enrolled; trust files: %s [%s]", problem, problem.word)

    def refresh(self, source: Source, app: str) -> View:
        """Return the verified roles that one app's decision needs; raises Refused, Unavailable."""
        return self._refreshed(source, roles_for(self._identity.env, app))

    def refresh_top(self, source: Source) -> View:
        """Return the verified top-level roles, which name the keys of all others."""
        return self._refreshed(source, ())

    def _refreshed(self, source: Source, roles: Sequence[str]) -> View:
        door = self.trusting.door
        try:
            return self._client.refresh(source, roles=roles)
        except Refused as problem:
            if not is_behind(problem, door):
                raise
            raise Unavailable(
                "repository",
                expected="trust files as new as those that came by the door",
                got=f"{problem.thing} {problem.got}",
                untouched="what runs keeps running",
                hint="publish them: embrasure trust submit",
                reason="behind",
            ) from problem

    def held_gate_keys(self) -> Mapping[str, Key]:
        """Return the keys that may sign orders, by the newest targets that were verified here."""
        targets = self.trusting.door.newest().targets
        named = delegations(targets).get(layout.gates_role(self._identity.env))
        if named is None or targets is None or targets.delegations is None:
            return {}
        known = targets.delegations.keys
        return {keyid: known[keyid] for keyid in named.keyids if keyid in known}

    def gate_keys(self, view: View) -> Mapping[str, Key]:
        """Return the keys that may sign orders and gates."""
        return self._client.keys(view, layout.gates_role(self._identity.env))

    def judge(self, app: str, view: View, source: Source) -> Judgement:
        """Return what to do with `app`; every floor that this raises is on disk."""
        identity = self._identity
        if not accept_enrolment(
            self._paths, identity, self._client, view, self._floors, clock=self._clock
        ):
            return Judgement(Verdict("hold", "not_enrolled"))
        docs = load(self._client, view, source, env=identity.env, app=app, node=identity.node)
        newer = self.trusting.newer_revocations(docs.revocations_version)
        if newer is not None:
            docs = replace(docs, revocations=newer[0], revocations_version=newer[1])
        verdict = self.again(docs)
        self._keep_trust(docs, self._remember(docs, verdict))
        return Judgement(verdict, docs)

    def again(self, docs: Docs) -> Verdict:
        """Return the verdict on the same documents at this moment, with the floors as they are."""
        identity, floors = self._identity, self._floors.load()
        now, time_floor = self._clock(), self._time_floor(floors)
        at = max(now, datetime.fromtimestamp(time_floor, tz=UTC))
        state = NodeState(
            node=identity.node,
            env=identity.env,
            epoch=identity.epoch,
            receipt_key=identity.receipt_public,
            isolation=self._isolation,
            busy=False,
            held=bool(hold.held(self._paths, docs.app, at)),
            time_floor=time_floor,
            union=floors.union,
            app=floors.app(docs.app),
        )
        verdict = decide(docs, state, now=now)
        if verdict.kind == "install" and (shut := self._window(docs, verdict.wave)).reason:
            return replace(verdict, kind=shut.kind, reason=shut.reason, stage=True)
        return verdict

    def pause(self, docs: Docs, verdict: Verdict) -> Pause:
        """Return why a staged install waits: what a person reads, and until when."""
        if verdict.reason == "owner":
            until = hold.ends(self._paths, docs.app, self._moment())
            return Pause("owner", "its owner holds it", until, "hold")
        found = self._window(docs, verdict.wave)
        if verdict.reason == found.reason:
            return found
        return Pause(verdict.reason, _WAITS[verdict.reason])

    def _window(self, docs: Docs, wave: int) -> Pause:
        """Return whether the owner's windows have room for this install now."""
        if docs.manifest is None or docs.plan is None:
            raise Refused("window", expected="plan and manifest", got="less", reason="manifest")
        need = windows.needed_seconds(docs.manifest, docs.plan.waves[wave].soak_s)
        found = windows_of(self._paths, docs.app)
        return windows.pause(found, self._moment(), need_s=need)

    def _time_floor(self, floors: Floors) -> int:
        return max(floors.time, self._client.workflow.floors().time)

    def _moment(self) -> datetime:
        """Return the time now; a clock set back reopens no window and lengthens no hold."""
        floor = self._time_floor(self._floors.load())
        return max(self._clock(), datetime.fromtimestamp(floor, tz=UTC))

    def approval(self, docs: Docs) -> bytes:
        """Return the role file that names the manifest, byte for byte as it was verified."""
        return self._client.role_bytes(docs.view, layout.app_role(docs.env, docs.app))

    def held_approval(self, app: str) -> bytes:
        """Return the role file of the app's approval that is held here; raises Refused, Misuse."""
        role = layout.app_role(self._identity.env, app)
        return self._client.role_bytes(self._client.held(), role)

    def held_document(self, digest: str, *, limit: int) -> bytes | None:
        """Return a signed document that is still kept here, None when it is not."""
        return self._client.documents.get(digest, length=limit)

    def secrets(self, docs: Docs, source: Source) -> dict[str, bytes]:
        """Return the sealed files that the approval lists for the manifest, by document name.

        Verified by length and digest like every target; whether they open is asked later. One that
        is withheld, is no sealed file, or comes twice under a name is left out. Raises Unavailable.
        """
        role = layout.app_role(docs.env, docs.app)
        listed = docs.view.role(role)
        wanted = {one.name for one in docs.manifest.secrets} if docs.manifest else set()
        found: dict[str, list[bytes]] = {}
        for path in listed.targets if listed is not None and wanted else ():
            if not layout.is_secret(path):
                continue
            try:
                raw = self._client.target(docs.view, role, path, source, limit=limits.SECRET_BYTES)
                found.setdefault(parse_sealed(raw).name, []).append(raw)
            except NotFound:
                continue
            except EmbrasureError as problem:
                if isinstance(problem, Unavailable):
                    raise
                LOG.warning("%s [%s]", problem, problem.word)
        return {
            secret_document(name): raws[0]
            for name, raws in found.items()
            if name in wanted and len(raws) == 1
        }

    def counted(self, issued: str) -> int:
        """Return the signed time for the time floor, at most `skew` ahead of the clock: a signer
        that once jumped to 2099 must not brick the node.
        """
        cap = self._clock() + timedelta(seconds=limits.SKEW_SECONDS)
        return _seconds(min(read_time(issued), cap))

    def _remember(self, docs: Docs, verdict: Verdict) -> Floors:
        """Return the floors after this look. Denials always count; numbers only when nothing was
        refused.
        """
        stopped, plan, gate = docs.revocations, docs.plan, docs.gate
        if stopped is not None and (stopped.root, stopped.env) != (docs.view.root_id, docs.env):
            stopped = None
        early = verdict.reason in _BEFORE_SEQUENCE or verdict.reason.startswith("stale")
        if verdict.kind == "refuse" or early:
            plan = None
        if plan is None or verdict.reason not in _WITH_GATE:
            gate = None

        def seen(floors: Floors) -> Floors:
            if stopped is not None:
                union = union_after(floors.union, docs, docs.policy, stopped)
                floors = msgspec.structs.replace(floors, union=union)
            if plan is not None:
                floor = raised(floors.app(docs.app), docs, has_gate=gate is not None)
                floors = floors.with_app(docs.app, floor)
            if gate is not None:
                time = max(floors.time, self.counted(gate.issued))
                floors = msgspec.structs.replace(floors, time=time)
            return floors

        return self._floors.change(seen)

    def _keep_trust(self, docs: Docs, floors: Floors) -> None:
        """Whom TLS believes, and whom it does not, is where the network side reads it."""
        mine = (docs.view.root_id, docs.env)
        policy, tls = docs.policy, docs.tls
        # Denials first: a new bundle never stands without what was said against it.
        if policy is not None and (policy.root, policy.env) != mine:
            policy = None
        believed.keep_denials(self._paths, policy, floors.union, root=mine[0], env=mine[1])
        if tls is not None and (tls.root, tls.env) == mine:
            believed.keep_bundle(self._paths, tls)
        believed.keep_time(self._paths, floors.time)


def raised(floor: AppFloor, docs: Docs, *, has_gate: bool) -> AppFloor:
    """Return the floor of one app after these verified documents: no number falls but one that
    stands above the policy's ceiling.
    """
    if docs.plan is None:
        raise Refused("floor", expected="a plan", got="none", reason="plan")
    plan, gate = docs.plan, docs.gate
    floor = below_ceiling(floor, docs.policy.seq_ceiling.get(docs.app) if docs.policy else None)
    if plan.seq > floor.seen_seq or (plan.seq == floor.seen_seq and not floor.seen_plan):
        floor = msgspec.structs.replace(floor, seen_seq=plan.seq, seen_plan=docs.plan_digest)
    if has_gate and gate is not None and (gate.seq, gate.gseq) > (floor.gate_seq, floor.gseq):
        floor = msgspec.structs.replace(
            floor, gate_seq=gate.seq, gseq=gate.gseq, gate_digest=docs.gate_digest
        )
    return floor


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())
