"""What a person says about a proposal: propose, approve, reject, withdraw; signed and checked.

The TUF signature is what nodes count; the statement beside it says who, when and what was shown.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

from securesystemslib.signer import Signer

from embrasure import limits
from embrasure.clock import read_time, write_time
from embrasure.errors import Denied, Refused
from embrasure.trust import dsse
from embrasure.trust.directory import ApprovalStatement, parse_approval
from embrasure.trust.documents import write
from gateway.grounds import Grounds
from gateway.releases import Release

Decision = Literal["propose", "approve", "reject", "withdraw"]


def make_statement(
    release: Release,
    grounds: Grounds,
    signer: Signer,
    *,
    decision: Decision,
    comment: str,
    shown: str,
    at: datetime,
) -> bytes:
    """Return the sealed statement of the key's person about `release`.

    shown: SHA-256 of the text that the person saw; it holds until `approve_by` of the plan
    """
    key = signer.public_key.keyid
    said = ApprovalStatement(
        v=1,
        type="approval",
        root=grounds.root,
        env=release.env,
        app=release.app,
        role_version=release.version,
        role_sha256=release.sha256,
        plan=release.plan_digest,
        manifest=release.plan.manifest.sha256,
        decision=decision,
        key=key,
        person=grounds.person_of(key),
        comment=comment,
        at=write_time(at),
        valid_until=release.plan.approve_by,
        policy=grounds.policy_digest,
        diff=shown,
    )
    return dsse.seal("approval", write(said), signer)


def check_statement(
    envelope: bytes,
    release: Release,
    grounds: Grounds,
    *,
    decision: Decision,
    now: datetime,
) -> ApprovalStatement:
    """Return the statement when a person of the policy says `decision` of this release.

    Steps: 1 the envelope is signed by a key of the app's role; 2 that key is its person's, and
    counts; 3 it speaks of exactly these bytes; 4 it is of now. Raises Refused, Denied.
    """
    # 1.
    payload, key = dsse.unseal("approval", envelope, grounds.keys, limit=limits.STATEMENT_BYTES)
    said = parse_approval(payload)
    # 2.
    if (said.key, said.person) != (key, grounds.person_of(key)):
        raise _refused("the key's own person", said.person)
    # 3.
    named = (
        said.root,
        said.env,
        said.app,
        said.role_version,
        said.role_sha256,
        said.plan,
        said.manifest,
    )
    wanted = (
        grounds.root,
        release.env,
        release.app,
        release.version,
        release.sha256,
        release.plan_digest,
        release.plan.manifest.sha256,
    )
    if named != wanted or said.decision != decision:
        raise _refused(f"a word on plan {release.plan_digest[:16]}", said.decision)
    # 4.
    if read_time(said.at) > now + timedelta(seconds=limits.SKEW_SECONDS):
        raise _refused("a statement of the past", said.at)
    if said.valid_until > release.plan.approve_by:
        raise _refused(f"an end at {release.plan.approve_by}", said.valid_until)
    return said


def check_living(said: ApprovalStatement, release: Release, *, now: datetime) -> None:
    """Return only while the statement and the plan can still be approved; raises Denied."""
    until = min(said.valid_until, release.plan.approve_by)
    if now >= read_time(until):
        raise Denied(
            f"approval of plan {release.plan_digest[:16]}",
            expected=f"before {until}",
            got=write_time(now),
            hint="propose it again: its number is used up",
            reason="expired",
        )


def check_not_proposer(person: str, release: Release) -> None:
    """Return only when `person` did not propose the plan; raises Denied (`own-proposal`)."""
    if person == release.plan.proposer:
        raise Denied(
            f"approval of plan {release.plan_digest[:16]}",
            expected="a person other than its proposer",
            got=person,
            untouched="no signature was made or counted",
            hint="ask another operator of the app",
            reason="own-proposal",
        )


def _refused(expected: str, got: object) -> Refused:
    return Refused("approval statement", expected=expected, got=got, reason="statement")
