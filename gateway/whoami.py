"""Whom the gateway takes a caller for: certificate, groups, rights, keys, what ends soon."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from tuf.api.metadata import DelegatedRole, Targets

from embrasure.clock import write_time
from embrasure.net.identity import Identity, uri
from embrasure.trust import layout
from embrasure.trust.policy import Policy
from gateway.metadata import read_metadata
from gateway.rights import rights_of

if TYPE_CHECKING:
    from gateway.admin import Parts


def whoami(parts: Parts, identity: Identity, cert: x509.Certificate) -> dict[str, object]:
    """Return what `embrasure whoami` shows; for a caller that `Authorize` has let in."""
    person, client = identity.name, parts.repository.client
    raw = client.role_bytes(parts.repository.view(), layout.TARGETS)
    found = read_metadata(raw, Targets, layout.TARGETS).signed.delegations
    delegated = found.roles or {} if found is not None else {}
    policies, denied = parts.people.policies(), parts.people.denied_keys()
    listed = parts.people.environments(person)
    return {
        "person": person,
        "id": uri(identity.role, person, parts.domain),
        "certificate": _certificate(cert),
        "environments": listed,
        "roles": [_roles(delegated, env, policies[env], person, denied) for env in listed],
        "gateway": parts.name,
        "root": client.root_id,
        "expiring": parts.watch.due() if listed else [],
    }


def certificate_of(context: Any) -> x509.Certificate:
    """Return the certificate by which the peer was let in."""
    (raw,) = context.auth_context()["x509_pem_cert"]
    return x509.load_pem_x509_certificate(raw)


def _certificate(cert: x509.Certificate) -> dict[str, object]:
    return {
        "serial": f"{cert.serial_number:x}",
        "sha256": cert.fingerprint(hashes.SHA256()).hex(),
        "not_after": write_time(cert.not_valid_after_utc),
    }


def _roles(
    delegated: Mapping[str, DelegatedRole],
    env: str,
    policy: Policy,
    person: str,
    denied: frozenset[str],
) -> dict[str, object]:
    """Return what a person is in one environment; keys: whole ids, and whether one is denied.

    denied: by policy or revocations, of any environment. Without a key that is not, he has no right
    """
    (mine,) = [listed for listed in policy.people if listed.id == person]
    lost = bool(mine.keys) and set(mine.keys) <= denied
    prefix = layout.app_role(env, "")
    signs = {
        name.removeprefix(prefix): f"{role.threshold} of {len(role.keyids)}"
        for name, role in sorted(delegated.items())
        if name.startswith(prefix) and set(role.keyids) & set(mine.keys)
    }
    return {
        "env": env,
        "groups": list(mine.groups),
        "rights": [] if lost else sorted(rights_of(mine.groups)),
        "approves": signs,
        "keys": [{"id": key, "denied": key in denied} for key in mine.keys],
    }
