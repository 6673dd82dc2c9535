"""A whole signed repository in memory with every key at hand: honest, or hostile on demand.

    repo = SimRepository()                          # env "dev", root 2 of 3, targets, fleet, gates
    node = repo.add_node(labels={"tier": "web"})
    repo.add_app("shop", operators=("anna", "ben", "carl"), threshold=2)
    release = repo.add_release("shop", {"code/main": b"#!/bin/sh\\n"})
    plan = repo.set_plan(release, canary=[node])    # signed by the first `threshold` operators
    repo.set_gate(plan, open_wave=0)
    repo.publish()                                  # new versions, snapshot, timestamp
    source = repo.source()                          # or repo.write(folder)

Nothing is visible before `publish`. `repo.files` is the published repository, path -> bytes.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
from nacl.public import PrivateKey
from securesystemslib.signer import CryptoSigner

from embrasure.clock import Clock, now, write_time
from embrasure.trust import layout
from embrasure.trust.directory import Shard, TlsBundle, shard_names, shard_of
from embrasure.trust.documents import digest, write
from embrasure.trust.gate import Gate, SignedReceipt, WaveEvidence
from embrasure.trust.plan import Plan
from embrasure.trust.policy import Person, Policy, Revocations
from tests.simulate.metadata import SimMetadata
from tests.simulate.nodes import SimNode, SimPerson, fixed_node_id
from tests.simulate.releases import SimRelease, make_plan, make_policy, make_release, make_rules

DUMMY_DER = base64.b64encode(b"\x30\x00").decode()  # an empty ASN.1 sequence


class SimRepository(SimMetadata):
    """One repository, published once, with one environment and nobody in it."""

    def __init__(
        self,
        env: str = "dev",
        *,
        clock: Clock = now,
        holders: int = 3,
        threshold: int = 2,
        keys: Sequence[CryptoSigner] = (),
    ) -> None:
        super().__init__(clock=clock, holders=holders, threshold=threshold, keys=keys)
        self.env = env
        self.people: dict[str, SimPerson] = {}
        self.nodes: dict[str, SimNode] = {}
        self.collect = PrivateKey.generate()
        self.policies: dict[str, Policy] = {}
        self.bundles: dict[str, TlsBundle] = {}
        self.releases: dict[str, dict[str, SimRelease]] = {}  # role -> digest -> release
        self.plans: dict[str, Plan] = {}  # role -> current plan
        self._gseq: dict[str, int] = {}  # plan digest -> last gseq
        self.delegate(layout.REVOCATIONS, self.holders, 1, layout.role_patterns("revocations", ""))
        self.add_env(env)
        self.publish()

    # --- people, nodes, policy ---------------------------------------------------------------

    def add_env(self, env: str) -> None:
        """An environment: `fleet-<env>`, `gates-<env>`, policy, bundle, directory, revocations."""
        fleet, gates = layout.fleet_role(env), layout.gates_role(env)
        self.delegate(fleet, self.holders, self.threshold, layout.role_patterns(fleet, env))
        online = CryptoSigner.generate_ed25519()
        self.delegate(gates, [online], 1, layout.role_patterns(gates, env))
        self.policies[env] = make_policy(self.root_id, env, self.collect)
        self.set_bundle(env=env)
        self._write_policy(env)
        self._write_directory(env)
        self.revoke(env=env)

    def person(self, name: str) -> SimPerson:
        """Return the person of that name, made at the first call."""
        return self.people.setdefault(name, SimPerson(name))

    def add_app(
        self,
        app: str,
        *,
        operators: Sequence[str] = ("anna", "ben", "carl"),
        threshold: int = 2,
        env: str | None = None,
        group: Mapping[str, str] | None = None,
        min_canary: int = 1,
        min_soak_s: int = 0,
        max_second_percent: int = 100,
    ) -> None:
        """`<env>-<app>` is delegated to `operators`, who are people of the policy."""
        env = env or self.env
        role = layout.app_role(env, app)
        signers = [self.person(name).signer for name in operators]
        self.delegate(role, signers, threshold, layout.role_patterns(role, env, app))
        policy = self.policies[env]
        known = {person.id: person for person in policy.people}
        for name in operators:
            known[name] = Person(id=name, keys=(self.person(name).key,), groups=())
        rules = make_rules(
            group=group,
            min_canary=min_canary,
            min_soak_s=min_soak_s,
            max_second_percent=max_second_percent,
        )
        self.set_policy(env=env, people=tuple(known.values()), apps={**policy.apps, app: rules})

    def add_node(
        self,
        node: SimNode | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        mode: Literal["push", "pull"] = "push",
        env: str | None = None,
    ) -> SimNode:
        """List `node` (default: a new one with a fixed id) in the directory."""
        if node is None:
            name = fixed_node_id(len(self.nodes))
            node = SimNode(id=name, env=env or self.env, labels=dict(labels or {}), mode=mode)
        self.nodes[node.id] = node
        self._write_directory(node.env)
        return node

    def refresh_directory(self, env: str | None = None) -> None:
        """Write the directory again after a `SimNode` was changed in place."""
        self._write_directory(env or self.env)

    def set_policy(self, *, env: str | None = None, **changes: object) -> Policy:
        """Return the policy with these fields changed, listed from the next publish."""
        env = env or self.env
        self.policies[env] = msgspec.structs.replace(self.policies[env], **changes)
        self._write_policy(env)
        self._write_directory(env)
        return self.policies[env]

    def set_bundle(
        self, bundle: TlsBundle | None = None, *, env: str | None = None, domain: str = "sim.test"
    ) -> None:
        """List `bundle` (default: one of dummy certificates)."""
        env = env or self.env
        dummy = (DUMMY_DER,)
        self.bundles[env] = bundle or TlsBundle(
            v=1,
            type="tls",
            root=self.root_id,
            env=env,
            domain=domain,
            ca_root=dummy,
            issuers=dict.fromkeys(("gateway", "admin", "node", "mirror", "operator"), dummy),
            gateways=("g1",),
        )
        self.list_target(layout.fleet_role(env), layout.tls_path(env), write(self.bundles[env]))

    def revoke(
        self,
        *,
        env: str | None = None,
        plans: Sequence[str] = (),
        manifests: Sequence[str] = (),
        keys: Sequence[str] = (),
        nodes: Sequence[str] = (),
        gateway_certs: Sequence[str] = (),
    ) -> Revocations:
        """The on-call's file holds exactly these denials from the next publish."""
        env = env or self.env
        found = Revocations(
            v=1,
            type="revocations",
            root=self.root_id,
            env=env,
            plans=tuple(plans),
            manifests=tuple(manifests),
            keys=tuple(keys),
            nodes=tuple(nodes),
            gateway_certs=tuple(gateway_certs),
            freezes=(),
            issued=write_time(self.clock()),
            reason="",
        )
        self.list_target(layout.REVOCATIONS, layout.revocations_path(env), write(found))
        return found

    def _write_policy(self, env: str) -> None:
        self.list_target(layout.fleet_role(env), layout.policy_path(env), write(self.policies[env]))

    def _write_directory(self, env: str) -> None:
        shards = self.policies[env].shards
        for name in shard_names(shards):
            listed = [
                node.entry()
                for node in self.nodes.values()
                if node.env == env and shard_of(node.id, shards) == name
            ]
            shard = Shard(
                v=1,
                type="directory",
                root=self.root_id,
                env=env,
                shard=name,
                entries=tuple(sorted(listed, key=lambda entry: entry.id)),
            )
            self.list_target(layout.fleet_role(env), layout.shard_path(env, name), write(shard))

    # --- releases, plans, gates --------------------------------------------------------------

    def add_release(
        self,
        app: str,
        files: Mapping[str, bytes] | None = None,
        *,
        env: str | None = None,
        version: str = "1.0",
        release: SimRelease | None = None,
    ) -> SimRelease:
        """Return a release whose manifest and blobs are in the repository at the next publish."""
        role = layout.app_role(env or self.env, app)
        release = release or make_release(app, files, version=version)
        self.releases.setdefault(role, {})[release.digest] = release
        path = layout.manifest_path(env or self.env, app, release.digest)
        self.list_target(role, path, release.raw)
        for name, data in release.blobs.items():
            self._pending[layout.blob_file(name)] = data
        return release

    def draft_plan(
        self,
        release: SimRelease,
        *,
        canary: Sequence[SimNode],
        env: str | None = None,
        percents: Sequence[int] = (100,),
        soak_s: int = 0,
        seq: int | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> Plan:
        """Return an honest plan for `release`, listed nowhere yet."""
        env, app = env or self.env, release.manifest.app
        rules = self.policies[env].rules_of(app)
        return make_plan(
            root_id=self.root_id,
            env=env,
            release=release,
            seq=seq or self.next_version(layout.app_role(env, app)),
            group=rules.group if rules else {},
            nodes=[node for node in self.nodes.values() if node.env == env],
            canary=canary,
            percents=percents,
            soak_s=soak_s,
            proposer=next(iter(self.people), "anna"),
            at=self.clock(),
            settings=settings,
        )

    def set_plan(
        self,
        release: SimRelease | None = None,
        *,
        plan: Plan | None = None,
        by: Sequence[str] | None = None,
        canary: Sequence[SimNode] = (),
        env: str | None = None,
        percents: Sequence[int] = (100,),
        soak_s: int = 0,
        seq: int | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> Plan:
        """Return the plan that its role lists from the next publish, signed by the people `by`.

        by: default the first `threshold` operators. Give `plan`, or `release` and what
        `draft_plan` takes.
        """
        if plan is None:
            if release is None:
                raise ValueError("give a plan or a release")
            plan = self.draft_plan(
                release,
                canary=canary,
                env=env,
                percents=percents,
                soak_s=soak_s,
                seq=seq,
                settings=settings,
            )
        role = layout.app_role(plan.env, plan.app)
        if by is not None:
            self.sign_with[role] = [self.person(name).signer for name in by]
        self.plans[role] = plan
        self.list_target(role, layout.plan_path(plan.env, plan.app), write(plan))
        return plan

    def draft_gate(
        self,
        plan: Plan,
        *,
        open_wave: int = 0,
        receipts: Mapping[int, Sequence[bytes]] | None = None,
        state: Literal["open", "paused", "halted", "fallback", "done"] = "open",
        attempt: int = 1,
        gseq: int | None = None,
    ) -> Gate:
        """Return a gate for `plan` with these receipts (wave -> 320-byte signed records)."""
        name = digest(plan)
        self._gseq[name] = gseq or self._gseq.get(name, 0) + 1
        return Gate(
            v=1,
            type="gate",
            root=self.root_id,
            env=plan.env,
            app=plan.app,
            plan=name,
            seq=plan.seq,
            gseq=self._gseq[name],
            state=state,
            open_wave=open_wave,
            attempt=attempt,
            evidence=tuple(
                WaveEvidence(wave=wave, receipts=tuple(split_receipt(one) for one in found))
                for wave, found in sorted((receipts or {}).items())
            ),
            after_evidence=(),
            issued=write_time(self.clock()),
            audit_head="0" * 64,
            code="",
            reason="",
        )

    def set_gate(
        self,
        plan: Plan,
        *,
        gate: Gate | None = None,
        open_wave: int = 0,
        receipts: Mapping[int, Sequence[bytes]] | None = None,
        state: Literal["open", "paused", "halted", "fallback", "done"] = "open",
        attempt: int = 1,
    ) -> Gate:
        """Return the gate that `gates-<env>` lists for the plan's app from the next publish."""
        gate = gate or self.draft_gate(
            plan, open_wave=open_wave, receipts=receipts, state=state, attempt=attempt
        )
        role = layout.gates_role(plan.env)
        self.list_target(role, layout.gate_path(plan.env, plan.app), write(gate))
        return gate

    def soak(self, plan: Plan, wave: int) -> list[bytes]:
        """Return an honest soaked receipt of every node that `plan` names in `wave`."""
        named = [self.nodes[node.id] for node in plan.waves[wave].nodes]
        return [node.receipt(plan, wave, at=self.clock()) for node in named]


def split_receipt(signed: bytes) -> SignedReceipt:
    """Return a 320-byte receipt as a gate carries it."""
    record, signature = signed[:256], signed[256:]
    return SignedReceipt(
        r=base64.b64encode(record).decode(), s=base64.b64encode(signature).decode()
    )
