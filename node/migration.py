"""Data that a release has changed: which of the two releases may run on it, and whether one may."""

from __future__ import annotations

from embrasure.errors import EmbrasureError
from node.transaction import Transaction


def is_one_way(tx: Transaction) -> bool:
    """Return whether nothing leads back: `migrate` of an irreversible release has begun.

    Then no missing confirmation undoes the release, and its failure stops the app (DEGRADED). A
    release that cannot be read any more counts as one.
    """
    if tx.record.migrated == "no":
        return False
    try:
        return tx.installed(tx.record.to).manifest.irreversible
    except EmbrasureError:
        return True
