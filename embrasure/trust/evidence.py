"""Evidence in a gate: the receipts of every earlier wave, checked from the plan alone.

Nothing else opens a wave: a stolen gate key cannot skip the canary, and silence advances nothing.
"""

from __future__ import annotations

import base64
from collections.abc import Container

from embrasure.errors import Denied, Refused
from embrasure.trust.gate import Gate, SignedReceipt
from embrasure.trust.plan import NamedNode, Plan
from embrasure.trust.receipt import (
    Kind,
    Outcome,
    Ran,
    Receipt,
    key_id,
    parse_receipt,
    scope_of,
)


def counts_as_evidence(receipt: Receipt, plan: Plan, plan_digest: str, *, wave: int) -> bool:
    """Return whether a verified receipt says: this plan's main content soaked here, in this wave.

    Source: docs/trust.md, step 14. Who signed it is checked by whoever parsed the receipt.
    """
    return (
        receipt.scope == scope_of(root=plan.root, env=plan.env, app=plan.app)
        and receipt.seq == plan.seq
        and receipt.plan == bytes.fromhex(plan_digest)
        and receipt.manifest == bytes.fromhex(plan.manifest.sha256)
        and receipt.wave == wave
        and receipt.kind is Kind.SOAKED
        and receipt.outcome is Outcome.OK
        and receipt.ran is Ran.MAIN
        and receipt.soaked_s >= plan.waves[wave].soak_s
    )


def check_gate_evidence(
    plan: Plan,
    plan_digest: str,
    gate: Gate,
    *,
    denied_keys: Container[str],
    min_isolation: int,
) -> None:
    """Return only when `gate` proves every wave before the one it opens.

    denied_keys: ids of receipt keys; min_isolation: of the policy.
    Raises Refused `evidence` (a set is missing, or a record does not verify or says otherwise: an
    honest gateway never does it), Denied `evidence` (records that no longer count).
    """
    last = len(plan.waves) if gate.state == "done" else gate.open_wave
    if last > len(plan.waves):
        raise _refuse("a wave of the plan", gate.open_wave)
    sets = {item.wave: item.receipts for item in gate.evidence}
    for number in range(last):
        wave = plan.waves[number]
        if wave.need == 0:
            continue
        if number not in sets:
            raise _refuse(f"receipts of wave {number}", "none")
        named = {node.id: node for node in wave.nodes}
        told = [_told(item, named, plan, plan_digest, wave=number) for item in sets[number]]
        if len({receipt.node for receipt in told}) < wave.need:
            raise _refuse(f"{wave.need} nodes of wave {number}", len(told))
        counted = {
            receipt.node
            for receipt in told
            if receipt.isolation >= min_isolation
            and key_id(bytes.fromhex(named[receipt.node].key)) not in denied_keys
        }
        if len(counted) < wave.need:
            raise Denied(
                "gate",
                expected=f"{wave.need} receipts of wave {number} that still count",
                got=len(counted),
                hint="a key was denied or the policy was tightened since: a new plan is needed",
                reason="evidence",
            )


def _told(
    item: SignedReceipt, named: dict[str, NamedNode], plan: Plan, plan_digest: str, *, wave: int
) -> Receipt:
    """Return the receipt in `item` when a named node of this wave signed it and it is evidence."""
    # The regular expressions of SignedReceipt fix both lengths, so decoding cannot fail.
    signed = base64.b64decode(item.r) + base64.b64decode(item.s)
    for node in named.values():
        try:
            receipt = parse_receipt(signed, bytes.fromhex(node.key))
        except Refused:
            continue
        if receipt.node == node.id and counts_as_evidence(receipt, plan, plan_digest, wave=wave):
            return receipt
        raise _refuse(f"a soaked receipt of wave {wave}", f"another receipt of {node.id}")
    raise _refuse(f"a receipt of a named node of wave {wave}", "one that no named key signed")


def _refuse(expected: str, got: object) -> Refused:
    return Refused("gate", expected=expected, got=got, reason="evidence")
