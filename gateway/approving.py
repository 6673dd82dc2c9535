"""An approver's machine: fetch, work everything out again, show it, then sign; never before."""

from __future__ import annotations

from datetime import datetime

from securesystemslib.signer import Signer

from embrasure import limits
from embrasure.bundle.diff import diff
from embrasure.errors import Denied, Refused
from embrasure.trust import layout
from embrasure.trust.directory import ApprovalStatement
from embrasure.trust.plan import parse_plan
from embrasure.wire import admin_pb2 as wire
from gateway.client import AdminClient
from gateway.grounds import Grounds
from gateway.memory import Memory
from gateway.preview import check_evidence, preview
from gateway.proposing import check_person
from gateway.recipients import fit_of
from gateway.releases import Release, check_release
from gateway.review import Review, review_text
from gateway.secrets import check_fit, listed_secrets
from gateway.statements import (
    Decision,
    check_living,
    check_not_proposer,
    check_statement,
    make_statement,
)
from gateway.textdiff import text_changes


def fetch_review(client: AdminClient, name: str, *, at: datetime) -> Review:
    """Return the proposal `name`, every digest worked out here; raises Refused, Denied.

    Steps: 1 bytes from the gateway, facts from verified files; 2 role, plan and manifest are one
    thing; 3 it is what was asked for; 4 its proposer really signed for it; 5 the text.
    """
    # 1.
    reply: wire.ProposalReply = client.call("Proposal", wire.ProposalQuery(id=name))
    env, app = layout.check_env(reply.env), layout.check_app(reply.app)
    grounds = client.grounds(env, app)
    named = parse_plan(reply.plan).manifest
    manifest = client.blob(named.sha256, length=named.length, limit=limits.MANIFEST_BYTES)
    sealed = fetch_secrets(client, reply.role, grounds.role)
    # 2.
    release = check_release(
        reply.role, reply.plan, manifest, root=grounds.root, env=env, app=app,
        kept=grounds.kept, now=at, secrets=sealed,
    )  # fmt: skip
    # 3.
    asked = name.removeprefix("sha256:")
    if len(asked) < 8 or not release.plan_digest.startswith(asked):
        raise Refused(
            "gateway", expected=f"the plan {asked}", got=release.plan_digest[:16],
            reason="other-plan",
        )  # fmt: skip
    # 4.
    said = check_words(list(reply.statements), release, grounds, at=at)
    # 5.
    shown = preview(release.plan, client.entries(env))
    former = grounds.running.manifest if grounds.running else None

    def fetch(digest: str, length: int) -> bytes:
        return client.blob(digest, length=length, limit=limits.KIB * 64)

    changes = text_changes(diff(former, release.manifest), fetch)
    secrets = fit_of(client, grounds, release.secrets)
    text = review_text(release, grounds, shown, said, changes, secrets)
    return Review(release, grounds, shown, said, text, secrets)


def fetch_secrets(client: AdminClient, role: bytes, name: str) -> list[bytes]:
    """Return the sealed files that a proposed role lists, each hashed here."""
    found = listed_secrets(role, name)
    return [client.blob(n, length=size, limit=limits.SECRET_BYTES) for n, size in found.items()]


def check_words(
    envelopes: list[bytes], release: Release, grounds: Grounds, *, at: datetime
) -> tuple[ApprovalStatement, ...]:
    """Return the verified statements, the proposer's first; raises Refused (`unsigned-proposal`).

    A gateway that named somebody else as the proposer could let him approve his own plan.
    """
    said: list[ApprovalStatement] = []
    for envelope in envelopes[: limits.KEYS_PER_ROLE]:
        for decision in ("propose", "approve", "reject"):
            word = _verified(envelope, release, grounds, decision, at)
            if word is not None:
                said.append(word)
    proposed = [word for word in said if word.decision == "propose"]
    if [word.person for word in proposed] != [release.plan.proposer]:
        raise Refused(
            f"proposal {release.plan_digest[:16]}",
            expected=f"the signed word of {release.plan.proposer}, who proposed it",
            got=", ".join(word.person for word in proposed) or "none",
            untouched="nothing was signed",
            reason="unsigned-proposal",
        )
    return (*proposed, *(word for word in said if word.decision != "propose"))


def _verified(
    envelope: bytes, release: Release, grounds: Grounds, decision: Decision, at: datetime
) -> ApprovalStatement | None:
    try:
        return check_statement(envelope, release, grounds, decision=decision, now=at)
    except (Refused, Denied):
        return None


def check_confirmed(review: Review, typed: str, *, whole: bool) -> None:
    """Return only when the digest was typed: 8 digits by a person, all 64 as a flag.

    Raises Denied (`confirm`).
    """
    text, digest = typed.strip().removeprefix("sha256:"), review.release.plan_digest
    holds = text == digest if whole else text in (digest[:8], digest)
    if not holds:
        raise Denied(
            "confirmation",
            expected="the plan's whole digest" if whole else "its first 8 hex digits",
            got=typed,
            untouched="nothing was signed",
            reason="confirm",
        )


def approve(
    client: AdminClient, review: Review, signer: Signer, *, comment: str, at: datetime
) -> dict[str, object]:
    """Return the gateway's answer to this person's signature and statement; raises Denied.

    Nothing is signed for the proposer, too late, for a second content under one number, or for a
    plan whose waves others than its nodes could prove, or whose secrets others could open.
    """
    release, grounds = review.release, review.grounds
    person = check_person(client, grounds, signer)
    check_not_proposer(person, release)
    check_living(review.said[0], release, now=at)
    check_evidence(release.plan, review.preview)
    check_fit(review.secrets)
    Memory(client.context.state, root=grounds.root).remember(
        release.role, release.version, release.sha256
    )
    signature = bytes.fromhex(signer.sign(release.signed_bytes).signature)
    statement = make_statement(
        release, grounds, signer, decision="approve", comment=comment, shown=review.sha256, at=at
    )
    request = wire.ApproveRequest(
        id=release.plan_digest[:16], signature=signature, statement=statement
    )
    return client.json("Approve", request)


def say_no(
    client: AdminClient,
    review: Review,
    signer: Signer,
    *,
    decision: Decision,
    reason: str,
    at: datetime,
) -> dict[str, object]:
    """Return the gateway's answer to a signed `reject` or `withdraw`."""
    check_person(client, review.grounds, signer)
    statement = make_statement(
        review.release,
        review.grounds,
        signer,
        decision=decision,
        comment=reason,
        shown=review.sha256,
        at=at,
    )
    method = "Withdraw" if decision == "withdraw" else "Reject"
    name = review.release.plan_digest[:16]
    return client.json(method, wire.StatementRequest(id=name, statement=statement))
