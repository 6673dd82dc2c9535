"""The rows of proposals, signatures and statements: finding, adding, moving on; no verification."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, insert, select, update
from sqlalchemy.exc import IntegrityError

from embrasure import limits
from embrasure.clock import Clock, write_time
from embrasure.errors import Denied, NotFound
from embrasure.trust.directory import ApprovalStatement
from gateway import tables
from gateway.database import Database
from gateway.releases import Release

YIELDING = ("paused", "halted", "rolling_back")  # nothing new starts: a newer plan may take over

_row = tables.proposals.c


class ProposalRows:
    """What stands in the database: believed for nothing but order in time."""

    def __init__(self, database: Database, *, clock: Clock) -> None:
        self._database, self._clock = database, clock

    def find(self, plan_digest: str) -> Row[Any] | None:
        """Return the proposal of this very plan, or None."""
        query = select(tables.proposals).where(_row.plan_digest == plan_digest)
        return self._database.first(query)

    def named(self, name: str) -> Row[Any]:
        """Return the row whose id starts with `name` (8 or more hex digits); raises NotFound."""
        wanted = name.removeprefix("sha256:")[:16]
        if len(wanted) < 8 or not set(wanted) <= set("0123456789abcdef"):
            raise no_such(name)
        query = select(tables.proposals).where(_row.id.startswith(wanted)).limit(2)
        found = self._database.all(query)
        if len(found) != 1:
            raise no_such(name)
        return found[0]

    def open(self, name: str, *states: str) -> Row[Any]:
        """Return the row `name` when it is in one of `states`; raises NotFound, Denied."""
        self.expire()
        found = self.named(name)
        if found.state not in states:
            raise wrong_state(found, states)
        return found

    def persons(self, name: str) -> list[str]:
        """Return who has signed, in the order of time."""
        row = tables.signatures.c
        query = select(row.person).where(row.proposal == name).order_by(row.at, row.person)
        return [found.person for found in self._database.all(query)]

    def statements(self, name: str) -> list[bytes]:
        """Return the sealed statements about a proposal, the proposer's first."""
        row = tables.statements.c
        query = (
            select(row.envelope)
            .where(row.proposal == name)
            .order_by(row.decision != "propose", row.at)
            .limit(limits.KEYS_PER_ROLE)
        )
        return [bytes(found.envelope) for found in self._database.all(query)]

    def signed(self, name: str) -> list[tuple[str, bytes]]:
        """Return (signature in hex, sealed statement) of each approval."""
        row, said = tables.signatures.c, tables.statements.c
        same = (said.proposal == row.proposal) & (said.person == row.person)
        query = (
            select(row.signature, said.envelope)
            .join(tables.statements, same & (said.decision == "approve"))
            .where(row.proposal == name)
            .order_by(row.at)
        )
        return [(found.signature, bytes(found.envelope)) for found in self._database.all(query)]

    def expire(self) -> None:
        """Proposals past `approve_by`, and approved ones past `not_after`, are expired."""
        at = write_time(self._clock())
        late = {tables.PENDING: _row.approve_by, tables.APPROVED: _row.not_after}
        with self._database.write() as connection:
            for state, limit in late.items():
                connection.execute(
                    update(tables.proposals)
                    .where(_row.state == state, limit <= at)
                    .values(state=tables.EXPIRED, reason=f"not in time: {state}", updated=at)
                )

    def insert(
        self, release: Release, statement: bytes, said: ApprovalStatement, *, supersede: bool
    ) -> None:
        """The proposal waits for approval; raises Denied (`locked`, `number`)."""
        plan, at = release.plan, write_time(self._clock())
        try:
            with self._database.write() as connection:
                if supersede:
                    _take_lock(connection, release, at)
                connection.execute(
                    insert(tables.proposals).values(
                        id=release.plan_digest[:16],
                        env=release.env,
                        app=release.app,
                        plan_digest=release.plan_digest,
                        seq=plan.seq,
                        role_version=release.version,
                        role_sha256=release.sha256,
                        manifest_digest=plan.manifest.sha256,
                        proposer=plan.proposer,
                        state=tables.PENDING,
                        role=release.role_raw,
                        plan=release.plan_raw,
                        approve_by=plan.approve_by,
                        not_after=plan.not_after,
                        created=at,
                        updated=at,
                    )
                )
                _keep(connection, release.plan_digest[:16], said, statement, at)
        except IntegrityError:
            raise self._locked(release) from None

    def add_approval(
        self, name: str, said: ApprovalStatement, signature: bytes, statement: bytes
    ) -> None:
        """This person's signature is stored; a second one of the same person changes nothing."""
        if said.person in self.persons(name):
            return
        at = write_time(self._clock())
        with self._database.write() as connection:
            connection.execute(
                insert(tables.signatures).values(
                    proposal=name,
                    key=said.key,
                    person=said.person,
                    signature=signature.hex(),
                    at=at,
                )
            )
            _keep(connection, name, said, statement, at)

    def approve(self, name: str) -> None:
        """The pending proposal is approved."""
        with self._database.write() as connection:
            self._move(connection, name, (tables.PENDING,), tables.APPROVED, "")

    def end(self, name: str, state: str, said: ApprovalStatement, statement: bytes) -> None:
        """The proposal ended by somebody's word, before it was started."""
        with self._database.write() as connection:
            _keep(connection, name, said, statement, write_time(self._clock()))
            before = (tables.PENDING, tables.APPROVED)
            self._move(connection, name, before, state, f"{said.person}: {said.comment}")

    def _move(
        self, connection: Connection, name: str, before: tuple[str, ...], state: str, reason: str
    ) -> None:
        changed = connection.execute(
            update(tables.proposals)
            .where(_row.id == name, _row.state.in_(before))
            .values(state=state, reason=reason, updated=write_time(self._clock()))
        )
        if changed.rowcount != 1:
            raise Denied(f"proposal {name}", expected=" or ".join(before), got="another state")

    def _locked(self, release: Release) -> Denied:
        """Say who holds the lock: the app's open plan, the person's other one, or the number."""
        person = release.plan.proposer
        app = (_row.env == release.env) & (_row.app == release.app)
        return (
            self._holder(f"app {release.role}", app, tables.OPEN_PROPOSALS)
            or self._holder(f"person {person}", _row.proposer == person, (tables.PENDING,))
            or Denied(
                f"role {release.role}",
                expected="a version never used",
                got=release.version,
                reason="number",
            )
        )

    def _holder(
        self, what: str, where: ColumnElement[bool], states: tuple[str, ...]
    ) -> Denied | None:
        proposals, rollouts = tables.proposals, tables.rollouts
        joined = proposals.outerjoin(rollouts, rollouts.c.plan == _row.plan_digest)
        query = select(proposals, rollouts.c.state.label("course")).select_from(joined)
        held = self._database.first(query.where(where, _row.state.in_(states)))
        if held is None:
            return None
        return Denied(
            what,
            expected="no other open plan",
            got=f"{held.id} of {held.proposer}, {held.course or held.state} since {held.updated}",
            hint=way_out(held.id, state=held.state, course=held.course or ""),
            reason="locked",
        )


def begin(connection: Connection, plan_digest: str) -> None:
    """The approved plan is in use: from now on only its roll-out ends it; raises Denied."""
    _change(connection, plan_digest, (tables.APPROVED, tables.IN_USE), tables.IN_USE)


def close(connection: Connection, plan_digest: str, state: str = tables.ENDED) -> None:
    """The roll-out of the plan is over (`ended` or `superseded`): the app's lock is free."""
    _change(connection, plan_digest, (tables.IN_USE, state), state)


def _change(connection: Connection, digest: str, before: tuple[str, ...], state: str) -> None:
    changed = connection.execute(
        update(tables.proposals)
        .where(_row.plan_digest == digest, _row.state.in_(before))
        .values(state=state)
    )
    if changed.rowcount != 1:
        raise Denied(f"plan {digest[:16]}", expected=" or ".join(before), got="another state")


def _keep(
    connection: Connection, name: str, said: ApprovalStatement, statement: bytes, at: str
) -> None:
    connection.execute(
        insert(tables.statements).values(
            proposal=name,
            decision=said.decision,
            person=said.person,
            key=said.key,
            valid_until=said.valid_until,
            envelope=statement,
            at=at,
        )
    )


def _take_lock(connection: Connection, release: Release, at: str) -> None:
    """The app's open plan is superseded, if it is not running; raises Denied (`locked`)."""
    same = (_row.env == release.env) & (_row.app == release.app)
    held = connection.execute(
        select(tables.proposals).where(same, _row.state.in_(tables.OPEN_PROPOSALS))
    ).first()
    if held is None:
        return
    if held.state == tables.IN_USE:
        state = connection.scalar(
            select(tables.rollouts.c.state).where(tables.rollouts.c.plan == held.plan_digest)
        )
        if state not in YIELDING:
            raise Denied(
                f"app {release.role}",
                expected="a paused, halted or aborted roll-out",
                got=f"{held.id}, {state}",
                hint=way_out(held.id),
                reason="locked",
            )
    connection.execute(
        update(tables.proposals)
        .where(_row.id == held.id)
        .values(state=tables.SUPERSEDED, reason=f"by {release.plan_digest[:16]}", updated=at)
    )


def way_out(name: str, *, state: str = tables.IN_USE, course: str = "") -> str:
    """Return what frees the app that plan `name` holds. course: the state of its roll-out."""
    if state == tables.PENDING:
        return f"withdraw or reject it: embrasure release withdraw {name}, embrasure reject {name}"
    if state == tables.APPROVED:
        return f"start it, or reject it: embrasure reject {name}"
    if course == "rolling_back":
        return "its abort waits for a silent node: wait, or propose with --supersede"
    if course in YIELDING:
        return f"embrasure rollout abort {name}, or propose with --supersede"
    return f"wait, or embrasure rollout abort {name}"


def no_such(name: str) -> NotFound:
    """Return the error for a name that no proposal has."""
    return NotFound(
        f"proposal {name}",
        expected="the id of one proposal, 8 or more hex digits",
        got="none or several",
        hint="embrasure approvals",
    )


def _why(found: Row[Any]) -> str:
    if found.state == tables.PENDING:
        return "embrasure approvals shows who may still sign"
    return "" if found.reason.endswith(": ") else str(found.reason)  # nobody gave a reason


def wrong_state(found: Row[Any], states: tuple[str, ...]) -> Denied:
    """Return the error for a proposal that is past what was asked."""
    return Denied(
        f"proposal {found.id}",
        expected=" or ".join(states),
        got=found.state,
        hint=_why(found),
        reason=found.state.replace("_", "-"),
    )
