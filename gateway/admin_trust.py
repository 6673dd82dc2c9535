"""Whom an operator takes for the gateway: his own file, and what his machine verified since."""

from __future__ import annotations

from contextlib import suppress

from embrasure import limits
from embrasure.errors import EmbrasureError
from embrasure.net.certificates import load_certificates
from embrasure.net.denials import NOTHING, tls_denials
from embrasure.net.trustbundle import Trust, trust_of
from embrasure.trust import layout
from embrasure.trust.client import TrustClient
from embrasure.trust.denied import denied_sets
from embrasure.trust.directory import parse_tls_bundle
from embrasure.trust.floors import Union
from embrasure.trust.policy import parse_policy
from gateway.context import OperatorContext


def admin_issuers(context: OperatorContext, client: TrustClient) -> bytes:
    """Return the issuers that may certify the gateway to operators, as PEM.

    Those of the context's file and of every `tls.json` that was verified here, less those that a
    policy verified here denies. Raises Refused (`no-issuer`) when none is left.
    """
    issuers = list(load_certificates(context.admin_issuer(), what="admin issuer"))
    denied = NOTHING
    with suppress(EmbrasureError):  # nothing verified yet: the file is all there is
        view = client.held()
        for role in sorted(name for name in view.roles if name.startswith("fleet-")):
            env = role.removeprefix("fleet-")
            path, limit = layout.policy_path(env), limits.POLICY_BYTES
            with suppress(EmbrasureError):
                policy = parse_policy(client.target(view, role, path, None, limit=limit))
                denied = denied.joined(tls_denials(denied_sets(policy, Union())))
            path, limit = layout.tls_path(env), limits.TLS_BUNDLE_BYTES
            with suppress(EmbrasureError):
                found = trust_of(
                    parse_tls_bundle(client.target(view, role, path, None, limit=limit))
                )
                if found.domain == context.domain:
                    issuers += found.issuers_of("gateway-admin")
    return Trust(context.domain, {"admin": tuple(issuers)}, None, denied).pem(["gateway-admin"])
