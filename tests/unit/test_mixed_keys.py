"""A node verifies roles whose keys are of all kinds: Ed25519, ECDSA P-256 and P-384, ML-DSA-65."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from embrasure.errors import Refused
from embrasure.trust.client import TrustClient
from embrasure.trust.view import View
from tests.simulate.nodes import SimPerson
from tests.simulate.repository import SimRepository

AT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
ROLES = ("fleet-dev", "revocations", "gates-dev", "dev-shop")
KINDS = {
    "ed25519": CryptoSigner.generate_ed25519(),
    "p256": CryptoSigner.generate_ecdsa(),
    "p384": CryptoSigner.generate_ecdsa(scheme="ecdsa-sha2-nistp384"),
    "mldsa": CryptoSigner.generate_mldsa(),
    "p256-2": CryptoSigner.generate_ecdsa(),
}
OPERATORS = dict(zip(("anna", "ben", "carl", "dora"), KINDS, strict=False))


def clock() -> datetime:
    return AT


def repository() -> SimRepository:
    """Root, targets and fleet 3 of 5, the app 2 of 4, every kind of key in each."""
    repo = SimRepository(clock=clock, keys=list(KINDS.values()), threshold=3)
    for name, kind in OPERATORS.items():
        repo.people[name] = SimPerson(name, KINDS[kind])
    node = repo.add_node(labels={"tier": "web"})
    repo.add_app("shop", operators=tuple(OPERATORS), threshold=2)
    repo.set_gate(repo.set_plan(repo.add_release("shop"), canary=[node]))
    repo.publish()
    return repo


def refresh(repo: SimRepository, folder: Path) -> View:
    return TrustClient(folder, repo.anchor, clock=clock).refresh(repo.source(), roles=ROLES)


def test_any_three_of_five_kinds_reach_the_threshold(tmp_path: Path) -> None:
    """Root, targets and fleet, once by each three: ten steps that one node walks."""
    repo = repository()
    for who in combinations(KINDS, 3):
        for role in ("root", "targets", "fleet-dev"):
            repo.sign_with[role] = [KINDS[name] for name in who]
            repo.touch(role)
        repo.publish()
        view = refresh(repo, tmp_path / "tuf")
        assert view.fresh and view.roles["fleet-dev"].version == repo.versions["fleet-dev"], who


def test_any_two_operators_of_any_kind_approve(tmp_path: Path) -> None:
    repo = repository()
    for who in combinations(OPERATORS, 2):
        repo.sign_with["dev-shop"] = [KINDS[OPERATORS[name]] for name in who]
        repo.touch("dev-shop")
        repo.publish()
        found = refresh(repo, tmp_path / "tuf").roles["dev-shop"]
        assert found.version == repo.versions["dev-shop"], who


def test_two_of_three_are_too_few_whatever_their_kind(tmp_path: Path) -> None:
    repo = repository()
    repo.sign_with["fleet-dev"] = [KINDS["mldsa"], KINDS["p384"]]
    repo.touch("fleet-dev")
    repo.publish()
    with pytest.raises(Refused):
        refresh(repo, tmp_path / "tuf")
