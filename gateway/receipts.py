"""Receipts as they come in, by stream or letterbox: verified first, then kept, then believed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nacl.bindings import sodium_unpad
from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, SealedBox
from sqlalchemy import Connection, insert, select

from embrasure import limits
from embrasure.errors import Refused
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.directory import Entry
from embrasure.trust.layout import DIGEST
from embrasure.trust.receipt import Receipt, chain_hash, parse_receipt
from gateway import tables

PADDING = 1024  # bytes; sealed bodies are padded to a multiple


@dataclass(frozen=True, slots=True)
class Told:
    """A verified receipt of a node of the directory, with its bytes. key: receipt key id."""

    receipt: Receipt
    key: str
    signed: bytes
    body: bytes


def check_receipt(signed: bytes, body: bytes, entry: Entry) -> Told:
    """Return the receipt when `entry`'s own key signed it, for this epoch, over this body.

    Raises Refused (`bad-signature`, `bad-schema`, `not-mine`, `bad-hash`, `limit`).
    """
    receipt = parse_receipt(signed, bytes.fromhex(entry.receipt.key))
    check_number(receipt)
    if (receipt.node, receipt.epoch) != (entry.id, entry.epoch):
        raise Refused(
            "receipt", expected=f"{entry.id} in epoch {entry.epoch}",
            got=f"{receipt.node} in epoch {receipt.epoch}", reason="not-mine",
        )  # fmt: skip
    if receipt.body != bytes.fromhex(sha256_hex(body)):
        raise Refused("receipt", expected="the body it names", got="another", reason="bad-hash")
    return Told(receipt, entry.receipt_id, signed, body)


def check_number(receipt: Receipt) -> None:
    """Return only when the receipt's number fits a row; a breached node signs any 64 bits."""
    if not 1 <= receipt.rseq <= limits.MAX_INTEGER:
        raise Refused("receipt", expected="number 1 to 2^53-1", got=receipt.rseq, reason="limit")


def keep(connection: Connection, told: Told, *, rollout: str, at: str) -> tuple[bool, list[str]]:
    """Return whether the receipt is new, and what is wrong with the chain it stands in.

    A second record under one number is a copied node or a lost disk: it is told, never stored.
    """
    row, receipt = tables.receipts.c, told.receipt
    mine = row.key == told.key
    known = connection.scalar(select(row.signed).where(mine, row.rseq == receipt.rseq))
    if known is not None:
        same = bytes(known) == told.signed
        return False, [] if same else [f"two receipts numbered {receipt.rseq}"]
    connection.execute(
        insert(tables.receipts).values(
            key=told.key,
            rseq=receipt.rseq,
            node=receipt.node,
            rollout=rollout,
            plan=receipt.plan.hex(),
            wave=receipt.wave,
            kind=int(receipt.kind),
            outcome=int(receipt.outcome),
            signed=told.signed,
            body=told.body,
            at=at,
        )
    )
    if receipt.rseq == 1:
        return True, []
    before = connection.scalar(select(row.signed).where(mine, row.rseq == receipt.rseq - 1))
    if before is None:
        return True, [f"receipt {receipt.rseq - 1} is missing"]
    if chain_hash(bytes(before)) != receipt.previous:
        return True, [f"receipt {receipt.rseq} does not follow the one before it"]
    return True, []


def last_number(connection: Connection, *, key: str, plan: str) -> int:
    """Return the highest `rseq` of this key that was taken for `plan`, 0 if none was."""
    row = tables.receipts.c
    query = select(row.rseq).where(row.key == key, row.plan == plan)
    return max((int(found) for found in connection.scalars(query)), default=0)


def unseal(sealed: bytes, key: PrivateKey) -> bytes:
    """Return what was sealed to the collect key; raises Refused (`bad-seal`)."""
    try:
        return SealedBox(key).decrypt(sealed)
    except (CryptoError, ValueError, TypeError):
        raise Refused(
            "sealed body", expected="one for our collect key", got="another", reason="bad-seal"
        ) from None


def bundle_told(body: bytes, keys: Sequence[PrivateKey]) -> str:
    """Return which `tls.json` a node believed when it sealed this body, "" when it does not say.

    A hint about when to go on with a rotation, never a proof.
    """
    for key in keys:
        try:
            found = json.loads(sodium_unpad(unseal(body, key), PADDING))
        except (Refused, ValueError, RecursionError, CryptoError):
            continue
        told = found.get("tls") if isinstance(found, dict) else None
        return told if isinstance(told, str) and DIGEST.fullmatch(told) else ""
    return ""


def read_log(body: bytes, keys: Sequence[PrivateKey]) -> Mapping[str, str]:
    """Return state, reason and log tail of a sealed body; {} when it cannot be read.

    Shown to people, never evidence: the text comes from a node.
    """
    for key in keys:
        try:
            found = json.loads(sodium_unpad(unseal(body, key), PADDING))
        except (Refused, ValueError, RecursionError, CryptoError):
            continue
        if isinstance(found, dict):
            wanted = ("state", "reason", "log")
            return {n: str(found[n])[: limits.LOG_TAIL_BYTES] for n in wanted if n in found}
    return {}
