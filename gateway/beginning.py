"""The start of a roll-out: an approved plan becomes rows, then role and gate are published."""

from __future__ import annotations

from contextlib import suppress

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from embrasure import limits
from embrasure.clock import read_time, write_time
from embrasure.errors import Denied
from embrasure.trust.plan import Plan
from gateway import rows
from gateway.gatekeeper import Gatekeeper
from gateway.gates import Ground
from gateway.library import Library
from gateway.parts import EngineParts
from gateway.preview import members_of
from gateway.proposal_rows import begin, close, way_out
from gateway.rollout import Member, Rollout
from gateway.rows import Stored
from gateway.states import REPLACEABLE


def start(
    parts: EngineParts,
    library: Library,
    keeper: Gatekeeper,
    *,
    env: str,
    app: str,
    plan_digest: str,
    actor: str,
) -> None:
    """The approved plan runs; started before: nothing changes.

    Raises Denied (not approved, expired, `locked`, `limit`): then there is no roll-out.
    """
    name = plan_digest[:16]
    held = rows.open_of(parts.database, env, app)
    if held == name or rows.exists(parts.database, name):
        return publish_pending(parts, keeper, rows.load(parts.database, name))
    with parts.journal.act("rollout.start", plan_digest, actor=actor, env=env, app=app):
        approved = parts.proposals.approved(env, app, plan_digest)
        plan = approved.release.plan
        check_start(parts, plan)
        former = _replaced(parts, held, plan)
        stored = _new(
            parts, plan, approved.release.plan_raw, plan_digest, library.ground(env, app), actor
        )
        stored = _insert(parts, stored, former)
        publish_pending(parts, keeper, stored)
    return None


def _new(
    parts: EngineParts, plan: Plan, raw: bytes, plan_digest: str, ground: Ground, actor: str
) -> Stored:
    now, at = parts.unix(), write_time(parts.clock())
    rollout = Rollout(
        id=plan_digest[:16],
        env=plan.env,
        app=plan.app,
        plan=plan_digest,
        seq=plan.seq,
        gate_state="open",
        wave_since=now,
    )
    return Stored(
        rollout=rollout,
        plan=plan,
        plan_raw=raw,
        members=members(parts, plan, ground),
        gseq=0,
        by=actor,
        created=at,
        updated=at,
        ended="",
    )


def members(parts: EngineParts, plan: Plan, ground: Ground) -> tuple[Member, ...]:
    """Return every node of the plan's waves, by the directory of today."""
    now = parts.unix()
    return tuple(
        Member(node=node, wave=wave, mode=ground.entries[node].mode, changed=now)
        for wave, nodes in enumerate(members_of(plan, list(ground.entries.values())))
        for node in nodes
    )


def check_gateless(rollout: Rollout) -> None:
    """Return only for a roll-out that was aborted before its plan was published.

    Raises Denied: an old plan never puts its gate in the place of a newer plan's.
    """
    if rollout.state != "aborted":
        raise Denied(
            f"roll-out {rollout.id}",
            expected="its plan to be the published one",
            got="a newer plan",
            reason="superseded",
        )


def _insert(parts: EngineParts, stored: Stored, former: Stored | None) -> Stored:
    """One transaction: the former is over, the plan is in use, the rows are there."""
    rollout = stored.rollout
    try:
        with parts.database.write() as connection:
            if former is not None:
                _end(connection, former, stored.created)
            begin(connection, rollout.plan)
            gseq = parts.database.take(connection, f"gseq:{rollout.plan}")
            rows.insert_new(connection, stored, gseq=gseq)
    except IntegrityError:
        raise _locked(stored.plan, "another one, just now", hint="wait for it") from None
    return rows.load(parts.database, rollout.id)


def publish_pending(parts: EngineParts, keeper: Gatekeeper, stored: Stored) -> None:
    """A roll-out that waits for its first gate gets it, and runs; any other stays as it is."""
    rollout = stored.rollout
    if rollout.state != "pending":
        return
    if not keeper.is_out(stored):
        # Else a kill came right after the publication: never other bytes under one number.
        approved = parts.proposals.approved(rollout.env, rollout.app, rollout.plan)
        keeper.publish(stored, approved=approved)
    with parts.database.write() as connection:
        running = rollout.to("running", wave_since=parts.unix())
        rows.save(connection, running, (), at=write_time(parts.clock()), gseq=stored.gseq)


def check_start(parts: EngineParts, plan: Plan) -> None:
    """Return only while the plan may still start; raises Denied (`expired`)."""
    if parts.clock() > read_time(plan.not_after):
        raise Denied(
            f"plan of {plan.app}",
            expected=f"a start by {plan.not_after}",
            got=write_time(parts.clock()),
            hint="propose it again",
            reason="expired",
        )


def _replaced(parts: EngineParts, held: str | None, plan: Plan) -> Stored | None:
    """Return the stopped roll-out that this higher seq ends, None when the app is free."""
    if held is None:
        if rows.running_in(parts.database, plan.env) >= limits.ROLLOUTS_PER_ENV:
            raise Denied(
                f"environment {plan.env}",
                expected=f"at most {limits.ROLLOUTS_PER_ENV} open roll-outs",
                got="one more",
                hint="wait until one has ended",
                reason="limit",
            )
        return None
    former = rows.load(parts.database, held)
    if former.rollout.state not in REPLACEABLE or former.rollout.seq >= plan.seq:
        raise _locked(plan, f"{held}, {former.rollout.state}", hint=way_out(held))
    return former


def _locked(plan: Plan, got: str, *, hint: str) -> Denied:
    return Denied(
        f"app {plan.app} in {plan.env}",
        expected="no roll-out under way",
        got=got,
        hint=hint,
        reason="locked",
    )


def _end(connection: Connection, former: Stored, at: str) -> None:
    after = former.rollout.to("superseded", "a higher seq was started")
    rows.save(connection, after, (), at=at, gseq=former.gseq)
    release_lock(connection, after)


def release_lock(connection: Connection, rollout: Rollout) -> None:
    """The app is free for the next plan. A proposal that took the lock before keeps it."""
    state = "superseded" if rollout.state == "superseded" else "ended"
    with suppress(Denied):
        close(connection, rollout.plan, state)
