"""A node verifies roles whose keys are of all kinds: Ed25519, ECDSA P-256 and P-384, ML-DSA-65."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner, Key, SSlibKey

from embrasure.errors import Refused
from embrasure.trust.client import TrustClient
from embrasure.trust.keymaterial import material
from embrasure.trust.view import View
from tests.ablation import Ablation
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


def rewrapped(signer: CryptoSigner) -> CryptoSigner:
    """The same P-256 key under another id: its PEM has lines of another length."""
    key = signer.public_key
    first, *body, last = str(key.keyval["public"]).strip().splitlines()
    text = "".join(body)
    lines = [text[start : start + 40] for start in range(0, len(text), 40)]
    pem = "\n".join([first, *lines, last, ""])
    return CryptoSigner(
        signer._private_key, SSlibKey("f" * 64, key.keytype, key.scheme, {"public": pem})
    )


def shouted(signer: CryptoSigner) -> CryptoSigner:
    """The same Ed25519 key under another id: its hex is in capitals."""
    key = signer.public_key
    value = {"public": str(key.keyval["public"]).upper()}
    return CryptoSigner(signer._private_key, SSlibKey("e" * 64, key.keytype, key.scheme, value))


def renamed(signer: CryptoSigner) -> CryptoSigner:
    """The same P-256 key under another id: by the old name of its type."""
    key = signer.public_key
    return CryptoSigner(
        signer._private_key, SSlibKey("d" * 64, key.scheme, key.scheme, dict(key.keyval))
    )


TWINS = {"type": (renamed, "p256"), "pem": (rewrapped, "p256"), "hex": (shouted, "ed25519")}


@pytest.mark.misuse
@pytest.mark.filterwarnings("ignore:keytype 'ecdsa-sha2-nistp256':DeprecationWarning")
@pytest.mark.parametrize("way", TWINS)
def test_one_key_written_in_two_ways_does_not_count_twice(
    way: str, tmp_path: Path, ablation: Ablation
) -> None:
    twin, kind = TWINS[way]
    one = KINDS[kind]
    keys = [one, twin(one), KINDS["mldsa"]]
    repo = SimRepository(clock=clock, keys=keys, threshold=2)

    def view(folder: str) -> View:
        client = TrustClient(tmp_path / folder, repo.anchor, clock=clock)
        return client.refresh(repo.source(), roles=("fleet-dev",))

    with pytest.raises(Refused) as told:
        view("whole")
    assert told.value.reason == "threshold"
    with ablation("what a key is, whatever its text") as attack:

        def text_of(key: Key) -> bytes:
            return repr((key.keytype, key.keyval["public"])).encode()

        attack.without("embrasure.trust.workflow.updater.material", text_of)
        # Root, targets and fleet, each signed by one person under two ids.
        attack.succeeded(view("without").roles["fleet-dev"].threshold == 2)


def test_what_is_no_key_is_its_own_text() -> None:
    """Distinct, so that a role may list it; it verifies nothing."""
    for value in ("", "zz", "-----BEGIN PUBLIC KEY-----"):
        key = SSlibKey("0" * 64, "ed25519", "ed25519", {"public": value})
        assert material(key) == value.encode()


def test_two_of_three_are_too_few_whatever_their_kind(tmp_path: Path) -> None:
    repo = repository()
    repo.sign_with["fleet-dev"] = [KINDS["mldsa"], KINDS["p384"]]
    repo.touch("fleet-dev")
    repo.publish()
    with pytest.raises(Refused):
        refresh(repo, tmp_path / "tuf")
