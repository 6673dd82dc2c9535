"""Fetch and parse every document that one install decision needs, each verified by its role."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol, TypeVar, cast

from embrasure import limits
from embrasure.bundle.manifest import Manifest, parse_manifest
from embrasure.errors import EmbrasureError, NotFound
from embrasure.shapes import prepare
from embrasure.trust import layout
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.directory import (
    Enrolled,
    Entry,
    Shard,
    TlsBundle,
    parse_shard,
    parse_tls_bundle,
    shard_of,
)
from embrasure.trust.gate import Gate, parse_gate
from embrasure.trust.plan import Plan, parse_plan
from embrasure.trust.policy import Policy, Revocations, parse_policy, parse_revocations
from embrasure.trust.source import Source
from embrasure.trust.view import View

T = TypeVar("T")


class Targets(Protocol):
    """What can fetch a verified target file: `TrustClient`."""

    def target(
        self, view: View, role: str, path: str, source: Source | None, *, limit: int
    ) -> bytes:
        """Return the verified bytes; raises NotFound when the role does not list the path."""
        ...


@dataclass(frozen=True, slots=True)
class Docs:
    """The documents of one app on one node; what is absent is None, what is wrong is a problem."""

    view: View
    env: str
    app: str
    plan: Plan | None = None
    plan_digest: str = ""
    manifest: Manifest | None = None
    manifest_raw: bytes = b""
    gate: Gate | None = None
    gate_digest: str = ""
    gate_signers: frozenset[str] = frozenset()
    policy: Policy | None = None
    revocations: Revocations | None = None
    revocations_version: int = 0
    entry: Entry | None = None
    tls: TlsBundle | None = None
    problems: Mapping[str, EmbrasureError] = field(default_factory=dict)


def roles_for(env: str, app: str) -> tuple[str, ...]:
    """Return the delegated roles that a node of `env` needs for `app`."""
    return (
        layout.REVOCATIONS,
        layout.fleet_role(env),
        layout.app_role(env, app),
        layout.gates_role(env),
    )


def parsed(reader: Callable[[bytes], T], raw: bytes) -> T:
    """Return what `reader` makes of the bytes; the same bytes are parsed once, not at each look.

    What is refused is refused each time. A very large document is parsed each time as well: what
    it becomes is some times larger than it is.
    """
    if len(raw) > limits.PARSED_BYTES:
        return reader(raw)
    return cast("T", _parsed(reader, raw))


@lru_cache(maxsize=limits.PARSED_KEPT)
def _parsed(reader: Callable[[bytes], object], raw: bytes) -> object:
    return reader(raw)


def make_ready() -> None:
    """The first decision of this process costs no more than the others."""
    for shape in (Manifest, Plan, Gate, Policy, Revocations, Shard, TlsBundle, Enrolled):
        prepare(shape)


def load(
    targets: Targets, view: View, source: Source | None, *, env: str, app: str, node: str
) -> Docs:
    """Return all documents for one decision.

    A document that is listed but does not parse is in `problems`, under its name; only a source
    that cannot be asked (Unavailable) is raised.
    """
    problems: dict[str, EmbrasureError] = {}

    def one(
        name: str, role: str, path: str, limit: int, reader: Callable[[bytes], T]
    ) -> tuple[T | None, bytes]:
        try:
            raw = targets.target(view, role, path, source, limit=limit)
            return parsed(reader, raw), raw
        except NotFound:
            # Not listed, or listed and withheld: the decision treats both as absent.
            return None, b""
        except EmbrasureError as problem:
            if problem.exit_code == 5:
                raise
            problems[name] = problem
            return None, b""

    fleet, approval = layout.fleet_role(env), layout.app_role(env, app)
    policy, _ = one("policy", fleet, layout.policy_path(env), limits.POLICY_BYTES, parse_policy)
    tls, _ = one("tls", fleet, layout.tls_path(env), limits.TLS_BUNDLE_BYTES, parse_tls_bundle)
    revocations, _ = one(
        "revocations",
        layout.REVOCATIONS,
        layout.revocations_path(env),
        limits.REVOCATIONS_BYTES,
        parse_revocations,
    )
    entry = None
    if policy is not None and node:
        path = layout.shard_path(env, shard_of(node, policy.shards))
        shard, _ = one("directory", fleet, path, limits.SHARD_BYTES, parse_shard)
        if shard is not None:
            entry = next((item for item in shard.entries if item.id == node), None)
    plan, plan_raw = one(
        "plan", approval, layout.plan_path(env, app), limits.PLAN_BYTES, parse_plan
    )
    manifest, manifest_raw = None, b""
    if plan is not None:
        path = layout.manifest_path(env, app, plan.manifest.sha256)
        manifest, manifest_raw = one(
            "manifest", approval, path, limits.MANIFEST_BYTES, parse_manifest
        )
    gates = layout.gates_role(env)
    gate, gate_raw = one("gate", gates, layout.gate_path(env, app), limits.GATE_BYTES, parse_gate)
    signed = view.role(gates)
    stopped = view.role(layout.REVOCATIONS)
    return Docs(
        view=view,
        env=env,
        app=app,
        plan=plan,
        plan_digest=sha256_hex(plan_raw) if plan else "",
        manifest=manifest,
        manifest_raw=manifest_raw,
        gate=gate,
        gate_digest=sha256_hex(gate_raw) if gate else "",
        gate_signers=signed.signers if signed else frozenset(),
        policy=policy,
        revocations=revocations,
        revocations_version=stopped.version if stopped else 0,
        entry=entry,
        tls=tls,
        problems=problems,
    )
