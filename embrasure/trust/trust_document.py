"""The documents of the offline roles, read as everybody will read them once they count."""

from __future__ import annotations

from embrasure.errors import Refused
from embrasure.net.trustbundle import trust_of
from embrasure.trust.directory import (
    Recovery,
    Shard,
    TlsBundle,
    parse_recovery,
    parse_shard,
    parse_tls_bundle,
)
from embrasure.trust.policy import Policy, Revocations, parse_policy, parse_revocations


def check_document(path: str, raw: bytes, *, root: str) -> None:
    """Return only when a trust document is well-formed and of this fleet; raises Refused.

    It would verify all the same, and then every node would stop at it.
    """
    found: Revocations | Shard | Policy | TlsBundle | Recovery
    if path.startswith("revoked/"):
        found = parse_revocations(raw)
    elif "/dir/" in path:
        found = parse_shard(raw)
    elif path.endswith("/policy.json"):
        found = parse_policy(raw)
    elif path.endswith("/tls.json"):
        found = parse_tls_bundle(raw)
        trust_of(found)
    elif path.endswith("/recovery.json"):
        found = parse_recovery(raw)
    else:
        raise Refused(path, expected="a document of fleet or revocations", got="another",
                      reason="not-trust")  # fmt: skip
    env = path.removesuffix(".json").split("/")[1]
    if (found.root, found.env) != (root, env):
        raise Refused(path, expected=f"a document of {env} in this fleet", got=found.env,
                      reason="identity")  # fmt: skip
