"""The gateway's rows: plain data with a schema version; no code, no pickles, no class names.

The database is untrusted: whoever writes it may delay or hide a roll-out, never forge one. Every
signed blob below is verified again after it is read. Times are text as `clock.write_time` writes.
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    UniqueConstraint,
    text,
)

SCHEMA_VERSION = 2

PENDING, APPROVED, IN_USE = "pending_approval", "approved", "in_use"
REJECTED, EXPIRED, WITHDRAWN = "rejected", "expired", "withdrawn"
SUPERSEDED, ENDED = "superseded", "ended"
OPEN_PROPOSALS = (PENDING, APPROVED, IN_USE)
PROPOSAL_STATES = (*OPEN_PROPOSALS, REJECTED, EXPIRED, WITHDRAWN, SUPERSEDED, ENDED)

schema = MetaData()

meta = Table("meta", schema, Column("name", String, primary_key=True), Column("value", String))


def _listed(values: tuple[str, ...]) -> str:
    return ", ".join(f"'{value}'" for value in values)


# One row a plan that was proposed. `id` is the first 16 hex digits of the plan's digest.
# role: the unsigned next version of `<env>-<app>` (TUF file bytes); plan: the plan file's bytes.
proposals = Table(
    "proposals",
    schema,
    Column("id", String, primary_key=True),
    Column("env", String, nullable=False),
    Column("app", String, nullable=False),
    Column("plan_digest", String, nullable=False, unique=True),
    Column("seq", Integer, nullable=False),
    Column("role_version", Integer, nullable=False),
    Column("role_sha256", String, nullable=False),
    Column("manifest_digest", String, nullable=False),
    Column("proposer", String, nullable=False),
    Column("state", String, nullable=False),
    Column("reason", String, nullable=False, default=""),
    Column("role", LargeBinary, nullable=False),
    Column("plan", LargeBinary, nullable=False),
    Column("approve_by", String, nullable=False),
    Column("not_after", String, nullable=False),
    Column("created", String, nullable=False),
    Column("updated", String, nullable=False),
    CheckConstraint(f"state IN ({_listed(PROPOSAL_STATES)})", name="proposal_state"),
    # A role version is signed for one content only, also when it was never used.
    UniqueConstraint("env", "app", "role_version", name="role_version_once"),
)

# One open plan per (env, app), from proposal to end state; one waiting proposal per person.
Index(
    "one_open_plan",
    proposals.c.env,
    proposals.c.app,
    unique=True,
    sqlite_where=text(f"state IN ({_listed(OPEN_PROPOSALS)})"),
    postgresql_where=text(f"state IN ({_listed(OPEN_PROPOSALS)})"),
)
Index(
    "one_waiting_proposal",
    proposals.c.proposer,
    unique=True,
    sqlite_where=text(f"state = '{PENDING}'"),
    postgresql_where=text(f"state = '{PENDING}'"),
)

# Approvers' TUF signatures over the proposal's role: signature is hex.
signatures = Table(
    "signatures",
    schema,
    Column("proposal", String, ForeignKey("proposals.id"), nullable=False),
    Column("key", String, nullable=False),
    Column("person", String, nullable=False),
    Column("signature", String, nullable=False),
    Column("at", String, nullable=False),
    PrimaryKeyConstraint("proposal", "key"),
    UniqueConstraint("proposal", "person", name="a_person_signs_once"),
)

# What persons said about a proposal: DSSE envelopes (propose approve reject withdraw).
statements = Table(
    "statements",
    schema,
    Column("proposal", String, ForeignKey("proposals.id"), nullable=False),
    Column("decision", String, nullable=False),
    Column("person", String, nullable=False),
    Column("key", String, nullable=False),
    Column("valid_until", String, nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    Column("at", String, nullable=False),
    PrimaryKeyConstraint("proposal", "decision", "person"),
)

# One row a plan that was started; `id` is the first 16 hex digits of the plan's digest.
# plan_raw: the plan file's bytes; ended: empty while the roll-out is open.
rollouts = Table(
    "rollouts",
    schema,
    Column("id", String, primary_key=True),
    Column("env", String, nullable=False),
    Column("app", String, nullable=False),
    Column("plan", String, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("plan_raw", LargeBinary, nullable=False),
    Column("state", String, nullable=False),
    Column("reason", String, nullable=False, default=""),
    Column("returns_to", String, nullable=False, default=""),
    Column("open_wave", Integer, nullable=False, default=0),
    Column("attempt", Integer, nullable=False, default=1),
    Column("gseq", Integer, nullable=False, default=0),
    Column("gate_state", String, nullable=False, default=""),
    Column("manual", Boolean, nullable=False, default=False),
    Column("wave_since", String, nullable=False, default=""),
    Column("blocked_since", String, nullable=False, default=""),
    Column("by", String, nullable=False, default=""),
    Column("created", String, nullable=False),
    Column("updated", String, nullable=False),
    Column("ended", String, nullable=False, default=""),
)
Index(
    "one_open_rollout",
    rollouts.c.env,
    rollouts.c.app,
    unique=True,
    sqlite_where=text("ended = ''"),
    postgresql_where=text("ended = ''"),
)

rollout_nodes = Table(
    "rollout_nodes",
    schema,
    Column("rollout", String, ForeignKey("rollouts.id"), nullable=False),
    Column("node", String, nullable=False),
    Column("wave", Integer, nullable=False),
    Column("mode", String, nullable=False),
    Column("state", String, nullable=False),
    Column("reason", String, nullable=False, default=""),
    Column("attempt", Integer, nullable=False, default=1),
    Column("dials", Integer, nullable=False, default=0),
    Column("reached", Boolean, nullable=False, default=False),
    Column("oseq", Integer, nullable=False, default=0),
    # Enrolled after the start: it follows the gate and counts in no percentage.
    Column("late", Boolean, nullable=False, default=False),
    Column("changed", String, nullable=False),
    PrimaryKeyConstraint("rollout", "node"),
)

# key: receipt key id; signed: the 320-byte receipt; body: its sealed body.
receipts = Table(
    "receipts",
    schema,
    Column("key", String, nullable=False),
    Column("rseq", Integer, nullable=False),
    Column("node", String, nullable=False),
    Column("rollout", String, nullable=False, default=""),
    Column("plan", String, nullable=False),
    Column("wave", Integer, nullable=False),
    Column("kind", Integer, nullable=False),
    Column("outcome", Integer, nullable=False),
    Column("signed", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("at", String, nullable=False),
    PrimaryKeyConstraint("key", "rseq"),
)
Index("receipts_of_a_plan", receipts.c.plan, receipts.c.wave)

# Numbers that only rise: `role:<role>`, `metadata:<role>`, `gseq:<plan>`, `oseq:<node>`.
numbers = Table(
    "numbers",
    schema,
    Column("name", String, primary_key=True),
    Column("value", Integer, nullable=False),
)

# Where to dial: kind is `node`, `mirror` or `letterbox`. An address carries no right, and each
# environment has its own: nobody of one moves what another one dials.
addresses = Table(
    "addresses",
    schema,
    Column("kind", String, nullable=False),
    Column("name", String, nullable=False),
    Column("env", String, nullable=False, default=""),
    Column("address", String, nullable=False),
    Column("post_address", String, nullable=False, default=""),
    PrimaryKeyConstraint("kind", "name", "env"),
)

# What `rollout status --watch` streams; n is the resume cursor.
rollout_events = Table(
    "rollout_events",
    schema,
    Column("n", Integer, primary_key=True, autoincrement=True),
    Column("rollout", String, nullable=False),
    Column("at", String, nullable=False),
    Column("event", String, nullable=False),
    sqlite_autoincrement=True,
)
Index("events_of_a_rollout", rollout_events.c.rollout, rollout_events.c.n)

# The audit journal's second copy (the first is the append-only file): line is the record's bytes.
events = Table(
    "events",
    schema,
    Column("n", Integer, primary_key=True, autoincrement=False),
    Column("of", Integer, nullable=False),
    Column("phase", String, nullable=False),
    Column("line", LargeBinary, nullable=False),
)
Index("outcomes_of_intents", events.c.of)

# The inventory of listeners' certificates, as the gateway saw them served (kind: as in addresses).
# tried, failing: last attempt, and since when attempts fail ("" for never); problem: why.
certificates = Table(
    "certificates",
    schema,
    Column("kind", String, nullable=False),
    Column("name", String, nullable=False),
    Column("env", String, nullable=False, default=""),
    Column("serial", String, nullable=False, default=""),
    Column("not_before", String, nullable=False, default=""),
    Column("not_after", String, nullable=False, default=""),
    Column("issuer", String, nullable=False, default=""),
    Column("seen", String, nullable=False, default=""),
    Column("failing", String, nullable=False, default=""),
    Column("failures", Integer, nullable=False, default=0),
    Column("tried", String, nullable=False, default=""),
    Column("problem", String, nullable=False, default=""),
    PrimaryKeyConstraint("kind", "name", "env"),
)
