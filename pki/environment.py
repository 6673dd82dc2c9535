"""Draft a new environment: its delegations, first policy, TLS trust bundle, empty directory."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from cryptography.x509 import Certificate
from securesystemslib.signer import SSlibKey

from embrasure import limits
from embrasure.clock import Clock, write_time
from embrasure.errors import Misuse
from embrasure.trust import directory, documents, layout, policy
from pki import ca, people, profiles, roles, verify
from pki.desk import Desk
from pki.drafts import Draft
from pki.folder import TrustFolder
from pki.keyfile import Cost
from pki.makekeys import new_key, write_keys
from pki.passphrase import PassphraseSource
from pki.signers import open_key

SHARDS = (1, 16, 64, 256)


def add_environment(
    trust: TrustFolder,
    env: str,
    *,
    gateways: Sequence[str],
    shards: int,
    min_isolation: int,
    source: PassphraseSource,
    cost: Cost,
    clock: Clock,
) -> list[Draft]:
    """Targets, `fleet-<env>` and `revocations` are drafts that make `env` exist; return them.

    The online gate key is new, in `online/`. The fleet role has the keyholders of `targets`.
    Raises Misuse, Denied.
    """
    layout.check_env(env)
    fleet = layout.fleet_role(env)
    work = Desk(trust, clock)
    targets = work.targets()
    threshold, holders = verify.keys_of(layout.TARGETS, trust.root())
    named = [key for key in holders.values() if isinstance(key, SSlibKey)]
    roles.delegate(targets, fleet, named, threshold=threshold)
    gate = gate_key(trust, env, source, cost)
    online = people.with_owner(gate, f"gates-{env}")
    roles.delegate(targets, layout.gates_role(env), [online], threshold=1)
    rules = first_policy(trust, env, shards=shards, min_isolation=min_isolation)
    work.put(fleet, layout.policy_path(env), documents.write(rules))
    work.put(fleet, layout.tls_path(env), documents.write(tls_bundle(trust, env, gateways)))
    for name in directory.shard_names(shards):
        shard = directory.Shard(
            v=1, type="directory", root=trust.root_id, env=env, shard=name, entries=()
        )
        work.put(fleet, layout.shard_path(env, name), documents.write(shard))
    revoked = first_revocations(trust, env, issued=write_time(clock()))
    work.put(layout.REVOCATIONS, layout.revocations_path(env), documents.write(revoked))
    return work.write()


def gate_key(trust: TrustFolder, env: str, source: PassphraseSource, cost: Cost) -> SSlibKey:
    """Return the public half of the environment's gate key, which is in `online/`.

    A key left there by an earlier, interrupted call is taken.
    """
    file = f"online/gates-{env}.key"
    if (trust.path / file).exists():
        uri = f"keyfile:{trust.path / file}"
        return open_key(uri, source, purpose="online", root=trust.root_id).public
    gate = new_key(f"gates-{env}", purpose="online", file=file)
    secret = source.new(f"the gate key of {env}")
    write_keys(trust.path, [gate], secret, root=trust.root_id, cost=cost)
    return gate.public


def first_policy(trust: TrustFolder, env: str, *, shards: int, min_isolation: int) -> policy.Policy:
    """Return a policy without people, apps or denials."""
    found = next((known for known in SHARDS if known == shards), None)
    if found is None:
        raise Misuse("shards", expected=f"one of {SHARDS}", got=shards)
    return documents.convert(
        {
            "v": 1,
            "type": "policy",
            "root": trust.root_id,
            "env": env,
            "people": [],
            "apps": {},
            "denied": {
                "plans": [],
                "manifests": [],
                "keys": [],
                "nodes": [],
                "gateway_certs": [],
                "issuers": [],
            },
            "min_seq": {},
            "seq_ceiling": {},
            "denials_reset_through": 0,
            "freezes": [],
            "lifetimes": {
                "timestamp": limits.TIMESTAMP_SECONDS,
                "snapshot": limits.SNAPSHOT_SECONDS,
                "gates": limits.GATES_SECONDS,
            },
            "protocol_min": 1,
            "skew_s": limits.SKEW_SECONDS,
            "min_isolation": min_isolation,
            "shards": found,
            "collect_key": trust.fleet.collect,
            "tlog": None,
        },
        policy.Policy,
        "policy",
    )


def first_revocations(trust: TrustFolder, env: str, *, issued: str) -> policy.Revocations:
    """Return revocations that stop nothing."""
    return policy.Revocations(
        v=1,
        type="revocations",
        root=trust.root_id,
        env=env,
        plans=(),
        manifests=(),
        keys=(),
        nodes=(),
        gateway_certs=(),
        freezes=(),
        issued=issued,
        reason="",
    )


def tls_bundle(trust: TrustFolder, env: str, gateways: Sequence[str]) -> directory.TlsBundle:
    """Return the trust bundle of this folder's CA roots and issuers, as they are now."""
    book = trust.authorities()
    return directory.TlsBundle(
        v=1,
        type="tls",
        root=trust.root_id,
        env=env,
        domain=trust.domain,
        ca_root=_texts(book.roots()),
        issuers={name: _texts(book.issuers(name)) for name in profiles.ISSUERS},
        gateways=tuple(gateways),
    )


def _texts(certs: Sequence[Certificate]) -> tuple[str, ...]:
    return tuple(base64.b64encode(ca.der(cert)).decode("ascii") for cert in certs)
