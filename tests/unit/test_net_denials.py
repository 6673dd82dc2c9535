"""Denials on TLS: what they name, how they are joined, kept and read, and whom they turn away."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from embrasure.clock import now
from embrasure.errors import Refused
from embrasure.net.denials import (
    NOTHING,
    TlsDenials,
    key_digest,
    read_denials,
    tls_denials,
    write_denials,
)
from embrasure.net.identity import Identity
from embrasure.trust import layout
from embrasure.trust.denied import denied_sets, merge
from embrasure.trust.documents import write
from embrasure.trust.floors import Union
from embrasure.trust.policy import Policy
from embrasure.trust.view import Role
from mirror.believed import Believed
from mirror.config import Config, Paths
from node import believed
from node.paths import Paths as NodePaths
from tests.ablation import Ablation
from tests.simulate.authority import Authority
from tests.simulate.box import bundle_of
from tests.simulate.listener import trust_from
from tests.simulate.repository import SimRepository
from tests.simulate.uploader import make_service

A, B, C = "a" * 64, "b" * 64, "c" * 64
DIGESTS = st.frozensets(st.text("0123456789abcdef", min_size=64, max_size=64), max_size=5)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def test_a_key_is_named_as_openssl_names_it(authority: Authority, tmp_path: Path) -> None:
    leaf = authority.leaf("gateway", "g1")
    (tmp_path / "leaf.pem").write_bytes(leaf.pem)
    pem = subprocess.run(
        ["openssl", "x509", "-in", str(tmp_path / "leaf.pem"), "-noout", "-pubkey"],
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    der = serialization.load_pem_public_key(pem).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert key_digest(leaf.certificate) == hashlib.sha256(der).hexdigest()


@given(certs=DIGESTS, issuers=DIGESTS)
def test_what_is_kept_reads_back(certs: frozenset[str], issuers: frozenset[str]) -> None:
    found = TlsDenials(certs, issuers)
    assert read_denials(write_denials(found, root=A, env="dev")) == found
    assert found.joined(NOTHING) == found


def test_only_our_own_form_is_read() -> None:
    for raw in (b"", b"{}", b'{"v":1}', write_denials(NOTHING, root=A, env="dev") + b" "):
        with pytest.raises(Refused):
            read_denials(raw)


def test_policy_and_union_count_together() -> None:
    repo = SimRepository()
    empty = repo.policies["dev"]
    policy = replace_denied(repo, gateway_certs=(A,), issuers=(B,))
    union = Union(gateway_certs={C: 2})
    found = tls_denials(denied_sets(policy, union))
    assert found == TlsDenials(frozenset({A, C}), frozenset({B}))
    # A later policy lifts its own entries, and never those of the union.
    assert tls_denials(denied_sets(empty, union)) == TlsDenials(frozenset({C}))
    assert tls_denials(denied_sets(None, union)) == TlsDenials(frozenset({C}))
    assert union.size() == 1


def test_whom_a_denial_turns_away(authority: Authority) -> None:
    trust = replace(
        trust_from(authority, frozenset({"g1"})),
        denied=TlsDenials(frozenset({A}), nodes=frozenset({"n1"})),
    )
    trust.check_admitted(Identity("gateway", "g1"), B)
    trust.check_admitted(Identity("operator", "g1"), A)
    trust.check_admitted(Identity("node", "n2"), A)
    for identity, key, reason in (
        (Identity("gateway", "g1"), A, "denied"),
        (Identity("gateway", "g2"), B, "identity"),
        (Identity("node", "n1"), B, "denied"),
    ):
        with pytest.raises(Refused) as caught:
            trust.check_admitted(identity, key)
        assert caught.value.reason == reason


def test_a_caller_keeps_what_every_earlier_issuer_is_still_believed_for(
    authority: Authority,
) -> None:
    trust = trust_from(authority)
    new = authority.new_issuer("node").certificate
    more = replace(trust, issuers={**trust.issuers, "node": (*trust.issuers["node"], new)})
    other = replace(trust, issuers={**trust.issuers, "node": (new,)})
    assert more.keeps(trust, "node")
    assert not trust.keeps(more, "node")
    assert not other.keeps(trust, "node")
    assert other.keeps(trust, "mirror")
    # A new CA root certifies the same issuer again: nobody is dialled anew for that.
    again = Authority(authority.domain).new_issuer("node", key=authority.issuers["node"].key)
    crossed = replace(trust, issuers={**trust.issuers, "node": (again.certificate,)})
    assert crossed.keeps(trust, "node") and trust.keeps(crossed, "node")


def replace_denied(repo: SimRepository, **entries: tuple[str, ...]) -> Policy:
    policy = repo.policies["dev"]
    return repo.set_policy(denied=msgspec.structs.replace(policy.denied, **entries))


# A mirror's own memory


def service(tmp_path: Path, authority: Authority) -> tuple[Paths, Config]:
    folder = tmp_path / "m"
    make_service(folder, authority, SimRepository().anchor)
    return Paths(folder), Config(kind="mirror", name="m1", domain=authority.domain, env="dev")


def documents(repo: SimRepository, authority: Authority, *certs: str) -> dict[str, bytes]:
    """What a mirror is shown, with these gateway keys revoked."""
    return {
        layout.policy_path("dev"): write(repo.policies["dev"]),
        layout.tls_path("dev"): write(bundle_of(authority, repo)),
        layout.revocations_path("dev"): write(repo.revoke(gateway_certs=certs)),
    }


def role(version: int, *keys: str) -> Role:
    """The role of the revocations at `version`, with these keys."""
    return Role("revocations", version, now(), 1, frozenset(keys), frozenset(keys), A, {})


@pytest.mark.misuse
def test_a_mirror_never_forgets_a_revocation_that_a_later_version_leaves_out(
    tmp_path: Path, authority: Authority, ablation: Ablation
) -> None:
    paths, config = service(tmp_path, authority)
    repo = SimRepository()
    honest = documents(repo, authority)
    held = Believed(paths, config, {}, None)
    held.take(documents(repo, authority, A), role(2))
    held.take(honest, role(3))
    assert held.holder.trust.denied.gateway_certs == {A}
    # Nor does a start without any document.
    assert Believed(paths, config, {}, None).holder.trust.denied.gateway_certs == {A}
    with ablation("the union") as attack:
        fresh, _ = service(tmp_path / "other", authority)
        forgetful = Believed(fresh, config, honest, role(3))
        attack.succeeded(forgetful.holder.trust.denied == NOTHING)


def test_only_offline_roles_reset_what_a_mirror_denies(
    tmp_path: Path, authority: Authority
) -> None:
    paths, config = service(tmp_path, authority)
    repo = SimRepository()
    held = Believed(paths, config, documents(repo, authority, A), role(2, B))
    repo.set_policy(denials_reset_through=2)
    held.take(documents(repo, authority), role(3, B))
    assert held.holder.trust.denied == NOTHING
    held.take(documents(repo, authority, C), role(4, B))
    assert held.holder.trust.denied.gateway_certs == {C}
    # `targets` took the key away that signed it.
    held.take(documents(repo, authority), role(5, A))
    assert held.holder.trust.denied == NOTHING


def test_a_mirror_obeys_a_denial_beside_documents_that_it_cannot_use(
    tmp_path: Path, authority: Authority
) -> None:
    paths, config = service(tmp_path, authority)
    repo = SimRepository()
    broken = documents(repo, authority, A)
    broken |= {layout.tls_path("dev"): b"{}", layout.policy_path("dev"): b"{}"}
    held = Believed(paths, config, broken, role(2))
    assert held.holder.trust.denied.gateway_certs == {A}
    assert held.holder.trust.gateways is None


def test_a_bundle_of_another_domain_changes_nothing(tmp_path: Path, authority: Authority) -> None:
    paths, config = service(tmp_path, authority)
    repo = SimRepository()
    held = Believed(paths, config, documents(repo, Authority("other.example")), role(2))
    assert held.holder.trust.gateways is None


# A node's file


def test_a_node_lifts_what_the_policy_lifts_and_nothing_without_one(tmp_path: Path) -> None:
    paths = NodePaths(tmp_path)
    paths.state.mkdir(parents=True, mode=0o700)
    assert believed.held_denials(paths) == NOTHING
    repo = SimRepository()
    empty, denying = repo.policies["dev"], replace_denied(repo, issuers=(B,))
    union = merge(Union(), repo.revoke(gateway_certs=(A,)), version=2)

    def keep(policy: Policy | None, union: Union) -> TlsDenials:
        believed.keep_denials(paths, policy, union, root=A, env="dev")
        return believed.held_denials(paths)

    assert keep(denying, Union()) == TlsDenials(issuers=frozenset({B}))
    assert keep(None, union) == TlsDenials(frozenset({A}), frozenset({B}))
    assert keep(empty, union) == TlsDenials(frozenset({A}))
