"""How one word from a node changes where that node stands: receipt, refusal, progress, silence.

Only a verified receipt moves a node to an outcome; everything else is a hint that can only wait.
"""

from __future__ import annotations

from dataclasses import replace

from embrasure import limits
from embrasure.trust.evidence import counts_as_evidence
from embrasure.trust.plan import Plan
from embrasure.trust.receipt import Kind, Outcome, Ran, Receipt, scope_of
from gateway.rollout import Member
from gateway.states import AWAY, FAILURES, NODE

_OUTCOMES = {
    Outcome.ROLLED_BACK: "rolled_back",
    Outcome.INTERRUPTED: "interrupted",
    Outcome.FAILED: "failed",
    Outcome.REFUSED: "refused",
    Outcome.HELD: "held",
    Outcome.DEFERRED: "deferred",
    Outcome.DRIFTED: "drifted",
}
# Words of a node's progress (a hint for people) and the state each one is shown as.
_PROGRESS = {
    "waiting": "pending",
    "fetching": "fetching",
    "verifying": "fetching",
    "staging": "staged",
    "staged": "staged",
    "switching": "activating",
    "activating": "activating",
    "starting": "activating",
    "probing": "activating",
    "checking": "activating",
}
_ORDER = ("pending", "fetching", "staged", "activating", "checking")


def is_about(receipt: Receipt, plan: Plan, plan_digest: str, member: Member) -> bool:
    """Return whether a verified receipt speaks of this plan, this node and this wave."""
    return (
        receipt.scope == scope_of(root=plan.root, env=plan.env, app=plan.app)
        and receipt.seq == plan.seq
        and receipt.plan == bytes.fromhex(plan_digest)
        and receipt.node == member.node
        and receipt.wave == member.wave
    )


def state_of(receipt: Receipt, plan: Plan, plan_digest: str, member: Member) -> str | None:
    """Return the state that a receipt proves, or None when it proves none."""
    if counts_as_evidence(receipt, plan, plan_digest, wave=member.wave):
        return "healthy"
    if receipt.outcome is not Outcome.OK:
        return _OUTCOMES[receipt.outcome]
    if receipt.kind is Kind.HEALTHY and receipt.ran is Ran.MAIN:
        return "checking"
    return None


def on_receipt(
    member: Member, receipt: Receipt, plan: Plan, plan_digest: str, *, now: int
) -> Member:
    """Return the member after a verified receipt about it, newer than every earlier one."""
    new = state_of(receipt, plan, plan_digest, member)
    if new is None or (new != "healthy" and receipt.attempt < member.attempt):
        # A late word about an attempt that was given another try says nothing of this one.
        return member if member.reached else replace(member, reached=True)
    reason = receipt.reason.name.lower() if new not in ("healthy", "checking") else ""
    if new != member.state and new not in NODE[member.state]:
        # A node that contradicts its own receipt is an alarm, not a fault of the program.
        reason, new = f"said {new} after {member.state}", "drifted"
        if new not in NODE[member.state]:
            return member
    return _forward(member, new, reason, now=now)


def on_progress(member: Member, word: str, *, now: int) -> Member:
    """Return the member after a progress word; unknown words and steps back change nothing."""
    new = _PROGRESS.get(word)
    if new is None or member.state not in (*_ORDER, *AWAY, "interrupted"):
        return member
    if member.state in _ORDER and _ORDER.index(new) <= _ORDER.index(member.state):
        return member
    return _forward(member, new, "", now=now)


def on_reached(member: Member) -> Member:
    """Return the member after an order was put on its stream: from here it may have begun."""
    found = replace(member, reached=True)
    if member.state in AWAY | {"pending", "interrupted"}:
        return found.to("fetching")
    return found


def on_refusal(member: Member, *, kind: str, reason: str, now: int) -> Member:
    """Return the member after the node said why it does not install."""
    told = f"{kind}: {reason}"
    if member.state in FAILURES | {"healthy", "refused", "drifted"}:
        return member
    if kind == "hold" and reason == "owner":
        return _forward(member, "held", told, now=now)
    if kind == "hold" and reason == "quarantine":
        return _forward(member, "quarantined", told, now=now)
    if kind == "refuse" and reason != "stale":
        return _forward(member, "refused", told, now=now)
    if kind == "hold" or (kind == "none" and reason != "done"):
        return _forward(member, "deferred", told, now=now)
    # wait, rejected, done, and an order too old on arrival: dialled again; its receipt decides.
    if member.state == "fetching" and reason not in ("busy", "done"):
        return member.to("pending", told)
    return replace(member, reason=told[: limits.REASON_CHARACTERS])


def on_lost(member: Member, reason: str, *, now: int) -> Member:
    """Return the member after a dial failed or a stream broke: it says nothing of the release."""
    if member.state in ("pending", "fetching", "unreachable"):
        return _forward(member, "unreachable", reason, now=now)
    return replace(member, reason=reason[: limits.REASON_CHARACTERS])


def _forward(member: Member, state: str, reason: str, *, now: int) -> Member:
    """Move; only a real step counts as a change, so a flapping node cannot keep a wave open."""
    if state != member.state and state not in NODE[member.state]:
        return member
    moved = member.to(state, reason)
    if state in ("pending", "unreachable"):
        return moved
    return replace(moved, reached=True, changed=now if state != member.state else member.changed)
