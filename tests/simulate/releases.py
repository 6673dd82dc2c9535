"""Releases, policies and plans for tests: honest documents with every field filled in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from nacl.public import PrivateKey

from embrasure import limits
from embrasure.bundle.manifest import (
    Entry,
    HttpProbe,
    Manifest,
    Origin,
    Probe,
    Run,
    parse_manifest,
)
from embrasure.clock import write_time
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.documents import Content, write
from embrasure.trust.plan import Failure, Plan, Wave
from embrasure.trust.policy import AppPolicy, Denied, Lifetimes, Policy
from embrasure.trust.waves import need_of, wave_of, witnesses
from tests.simulate.nodes import SimNode

FOLDER_MODE, CODE_MODE, CONFIG_MODE = "0555", "0555", "0444"


@dataclass(frozen=True, slots=True)
class SimRelease:
    """A manifest with its one byte string, its digest and the bytes of its blobs."""

    manifest: Manifest
    raw: bytes
    digest: str
    blobs: Mapping[str, bytes]

    @property
    def content(self) -> Content:
        """How a plan names this release."""
        return Content(sha256=self.digest, length=len(self.raw))


def file_entry(path: str, data: bytes) -> Entry:
    """Return the entry of a file: everything below code/ may run."""
    mode = CODE_MODE if path.startswith("code/") else CONFIG_MODE
    return Entry(
        path=path, kind="file", mode=mode, length=len(data), sha256=sha256_hex(data), target=None
    )


def make_release(
    app: str,
    files: Mapping[str, bytes] | None = None,
    *,
    version: str = "1.0",
    argv: Sequence[str] = ("code/main",),
    ports: Sequence[str] = ("web",),
    probes: Sequence[Probe] | None = None,
) -> SimRelease:
    """Return a release of `files` (path -> bytes; default: one script that names the version)."""
    files = files or {"code/main": f"#!/bin/sh\necho {app} {version}\n".encode()}
    manifest = Manifest(
        v=1,
        type="manifest",
        app=app,
        version=version,
        files=tuple(file_entry(path, data) for path, data in sorted(files.items())),
        run=Run(argv=tuple(argv), env={}, ports=tuple(ports)),
        hooks=(),
        probes=tuple(probes) if probes is not None else (quick_probe(ports[0]),),
        confirm="probes",
        requires=(),
        secrets=(),
        irreversible=False,
        origin=Origin(builder="", revision="", time=""),
    )
    raw = write(manifest)
    parse_manifest(raw)
    return SimRelease(manifest, raw, sha256_hex(raw), {sha256_hex(d): d for d in files.values()})


def quick_probe(port: str = "web") -> HttpProbe:
    """Return a probe that is quick enough for a test."""
    return HttpProbe(
        port=port, path="/health", status=200, interval_ms=50, timeout_ms=2000, start_s=20, passes=2
    )


def make_rules(
    *,
    group: Mapping[str, str] | None = None,
    min_canary: int = 1,
    min_soak_s: int = 0,
    max_second_percent: int = 100,
) -> AppPolicy:
    """Return an app's rules that ask for little."""
    return AppPolicy(
        group=dict(group or {}),
        quotas=(),
        min_canary=min_canary,
        min_soak_s=min_soak_s,
        max_second_percent=max_second_percent,
        windows=(),
        approval_expiry_s=limits.APPROVE_SECONDS,
        execution_expiry_s=limits.START_SECONDS,
    )


def make_policy(root_id: str, env: str, collect: PrivateKey) -> Policy:
    """Return a policy without people, apps or denials."""
    return Policy(
        v=1,
        type="policy",
        root=root_id,
        env=env,
        people=(),
        apps={},
        denied=Denied(plans=(), manifests=(), keys=(), nodes=(), gateway_certs=(), issuers=()),
        min_seq={},
        seq_ceiling={},
        denials_reset_through=0,
        freezes=(),
        lifetimes=Lifetimes(
            timestamp=limits.TIMESTAMP_SECONDS,
            snapshot=limits.SNAPSHOT_SECONDS,
            gates=limits.GATES_SECONDS,
        ),
        protocol_min=1,
        skew_s=limits.SKEW_SECONDS,
        min_isolation=0,
        shards=1,
        collect_key=bytes(collect.public_key).hex(),
        tlog=None,
    )


def make_plan(
    *,
    root_id: str,
    env: str,
    release: SimRelease,
    seq: int,
    group: Mapping[str, str],
    nodes: Sequence[SimNode],
    canary: Sequence[SimNode],
    percents: Sequence[int] = (100,),
    soak_s: int = 0,
    proposer: str,
    at: datetime,
    settings: Mapping[str, str] | None = None,
) -> Plan:
    """Return a plan: `canary` by id, then a wave for each of `percents`, witnesses worked out."""

    def wave(name: str, percent: int, named: Sequence[SimNode]) -> Wave:
        return Wave(
            name=name,
            nodes=tuple(node.named() for node in sorted(named, key=lambda n: n.id)),
            match={},
            percent=percent,
            need=need_of(len(named)) if percent else len(named),
            soak_s=soak_s,
            max_parallel=100,
            deadline_s=600,
        )

    def plan(named: Sequence[Sequence[SimNode]]) -> Plan:
        later = [
            wave(f"wave-{number}", percent, chosen)
            for number, (percent, chosen) in enumerate(zip(percents, named, strict=True), start=1)
        ]
        return Plan(
            v=1,
            type="plan",
            root=root_id,
            env=env,
            app=release.manifest.app,
            seq=seq,
            manifest=release.content,
            fallback=None,
            group=dict(group),
            waves=(wave("canary", 0, canary), *later),
            after=(),
            windows=(),
            overrides_freeze=(),
            failure=Failure(
                max_failed=0,
                max_failed_pct=0,
                min_reached_pct=100,
                scope="node",
                on_no_target="stop",
            ),
            max_attempts=3,
            settings=dict(settings or {}),
            proposer=proposer,
            created=write_time(at),
            approve_by=write_time(at + timedelta(seconds=limits.APPROVE_SECONDS)),
            not_after=write_time(
                at + timedelta(seconds=limits.APPROVE_SECONDS + limits.START_SECONDS)
            ),
            title=f"{release.manifest.app} {release.manifest.version}",
            comment="",
        )

    # Waves and witnesses depend on seq and node ids only, never on what the plan says besides.
    draft = plan([()] * len(percents))
    active = {node.id: node for node in nodes if node.state == "active"}
    chosen = []
    for number in range(1, len(percents) + 1):
        members = [n.id for n in active.values() if wave_of(draft, n.id, n.labels) == number]
        chosen.append([active[node] for node in witnesses(draft, members)])
    return plan(chosen)
