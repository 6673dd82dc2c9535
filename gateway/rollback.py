"""The way back by a new plan: the manifest of a former release under a higher seq, k of n again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embrasure import limits
from embrasure.bundle.folder import Bundle
from embrasure.bundle.manifest import parse_manifest
from embrasure.errors import Misuse, NotFound, Refused
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.plan import Plan, parse_plan
from embrasure.wire import admin_pb2 as wire
from gateway.client import AdminClient
from gateway.planfile import PlanFile, WaveRequest


@dataclass(frozen=True, slots=True)
class Former:
    """A release that once succeeded, with its plan; every byte was hashed here."""

    plan: Plan
    bundle: Bundle
    second: int  # percent that the policy allows for the first wave after the canary


def find_former(client: AdminClient, env: str, app: str, *, to: int | None) -> Former:
    """Return the release of seq `to`, default the newest one below what is published now.

    The gateway says which roll-outs succeeded; approvers see what they sign. Raises NotFound,
    Misuse, Refused.
    """
    grounds = client.grounds(env, app)
    running, rules = grounds.running, grounds.policy.rules_of(app)
    if running is None:
        raise NotFound(f"{env}/{app}", expected="a published release", got="none")
    query = wire.Query(env=env, app=app, limit=limits.LIST_ROWS)
    found: Any = client.json("ListRollouts", query).get("rollouts", [])
    ended = [row for row in found if _is_good(row, running.plan.seq, to)]
    if not ended:
        raise NotFound(
            f"{env}/{app}",
            expected="a former release that succeeded" if to is None else f"seq {to}",
            got="none",
            hint=f"embrasure rollout list --env {env} --app {app}",
        )
    plan = fetch_plan(client, str(max(ended, key=lambda row: int(row["seq"]))["id"]))
    if (plan.env, plan.app, plan.manifest.sha256) == (env, app, running.plan.manifest.sha256):
        raise Misuse("rollback", expected="another release than the one that runs", got="the same")
    if (plan.env, plan.app) != (env, app):
        raise Refused("gateway", expected=f"a plan of {env}/{app}", got=f"{plan.env}/{plan.app}")
    second = rules.max_second_percent if rules else 100
    return Former(plan, fetch_bundle(client, plan), second)


def _is_good(row: Mapping[str, Any], running: int, to: int | None) -> bool:
    seq = row.get("seq")
    if not isinstance(seq, int) or row.get("state") != "succeeded":
        return False
    return seq < running if to is None else seq == to


def fetch_plan(client: AdminClient, name: str) -> Plan:
    """Return the plan whose digest starts with `name`, hashed here; raises Refused."""
    raw = bytes(client.call("Proposal", wire.ProposalQuery(id=name[:16])).plan)
    if not sha256_hex(raw).startswith(name):
        raise Refused("plan", expected=name, got=sha256_hex(raw), reason="bad-hash")
    return parse_plan(raw)


def fetch_bundle(client: AdminClient, plan: Plan) -> Bundle:
    """Return manifest and digest of a release whose files the gateway still holds."""
    content = plan.manifest
    raw = client.blob(content.sha256, length=content.length, limit=limits.MANIFEST_BYTES)
    manifest = parse_manifest(raw)
    wanted = [wire.Blob(sha256=n, length=length) for n, length in manifest.blobs().items()]
    for start in range(0, len(wanted), 1000):
        part = wire.BlobList(blobs=wanted[start : start + 1000])
        if client.call("MissingBlobs", part).blobs:
            raise NotFound(
                f"release of seq {plan.seq}",
                expected="all its files at the gateway",
                got="some are gone",
                hint="propose it again from its bundle: embrasure release propose",
            )
    # Nothing is uploaded, so there is no folder to read from.
    return Bundle(manifest=manifest, raw=raw, digest=content.sha256, folder=Path("/nonexistent"))


def request_for(former: Former, *, reason: str) -> PlanFile:
    """Return the plan file of a rollback: the canary, then everybody at once if policy lets it."""
    percents = [former.second, 100] if 0 < former.second < 100 else [100]
    title = f"rollback to {former.bundle.manifest.version} (seq {former.plan.seq})"
    return PlanFile(
        app=former.plan.app,
        env=former.plan.env,
        title=title[: limits.TITLE_CHARACTERS],
        comment=reason,
        waves=tuple(WaveRequest(name=f"{p}-percent", percent=p) for p in percents),
        settings=dict(former.plan.settings),
    )
