"""What a person may do here: rights out of his groups in the verified policy, one a method.

Approving needs no right of this file: who may approve is the approval role's delegation, and an
approval is a signature, not a call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal

Right = Literal["view", "propose", "start", "stop", "enrol"]
ALL: frozenset[Right] = frozenset({"view", "propose", "start", "stop", "enrol"})

# A group of one of these names gives its members these rights and no other; several add up. Who is
# in none of them has all: then keys, thresholds and gates alone decide, as they always do.
GROUPS: Mapping[str, frozenset[Right]] = MappingProxyType(
    {
        "viewers": frozenset({"view"}),
        "proposers": frozenset({"view", "propose"}),
        "starters": frozenset({"view", "start", "stop"}),
        "stoppers": frozenset({"view", "stop"}),
        "enrollers": frozenset({"view", "enrol"}),
    }
)
METHODS: Mapping[str, Right] = MappingProxyType(
    {
        "Overview": "view",
        "Inventory": "view",
        "ListReleases": "view",
        "ListApprovals": "view",
        "ListRollouts": "view",
        "RolloutStatus": "view",
        "WatchRollout": "view",
        "Fleet": "view",
        "TrustHolders": "view",
        "Audit": "view",
        "Fetch": "view",
        "Proposal": "view",
        "Approve": "view",
        "Reject": "view",
        "Reserve": "propose",
        "MissingBlobs": "propose",
        "PutBlob": "propose",
        "Propose": "propose",
        "Withdraw": "propose",
        "StartRollout": "start",
        "ResumeRollout": "start",
        "RetryRollout": "start",
        "PauseRollout": "stop",
        "AbortRollout": "stop",
        "SubmitTrust": "enrol",
        "SetAddress": "enrol",
        "RecoverNode": "enrol",
        "JoinStatement": "enrol",
        "JoinProve": "enrol",
        "JoinAnswer": "enrol",
    }
)
FOR_ANYBODY = frozenset({"Whoami"})  # it says what one may do


def rights_of(groups: Iterable[str]) -> frozenset[Right]:
    """Return the rights that membership in `groups` leaves."""
    named = [GROUPS[group] for group in groups if group in GROUPS]
    return frozenset[Right]().union(*named) if named else ALL
