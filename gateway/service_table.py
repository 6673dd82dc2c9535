"""Who may call which Admin method: operators, all of them; a person's own rights are in policy."""

from __future__ import annotations

from embrasure.net.authorize import Table
from embrasure.net.identity import Role

_OPERATOR: frozenset[Role] = frozenset({"operator"})
_METHODS = (
    "Whoami",
    "Overview",
    "Inventory",
    "ListReleases",
    "ListApprovals",
    "ListRollouts",
    "RolloutStatus",
    "WatchRollout",
    "Fleet",
    "TrustHolders",
    "Audit",
    "Fetch",
    "Proposal",
    "Reserve",
    "MissingBlobs",
    "PutBlob",
    "Propose",
    "Approve",
    "Reject",
    "Withdraw",
    "SubmitTrust",
    "StartRollout",
    "PauseRollout",
    "ResumeRollout",
    "AbortRollout",
    "RetryRollout",
    "SetAddress",
    "RecoverNode",
    "JoinStatement",
    "JoinProve",
    "JoinAnswer",
)
ADMIN_TABLE: Table = {f"/embrasure.v1.Admin/{name}": _OPERATOR for name in _METHODS}
# Open to anybody, on a port of their own: what stands before a certificate.
LOGIN_METHODS = frozenset({"/embrasure.v1.Login/Challenge", "/embrasure.v1.Login/Certificate"})
