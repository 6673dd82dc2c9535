"""Operators are replaced whose signatures the published release needs: named, refused, forced, and
approved again by the new ones.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from embrasure.errors import Refused
from embrasure.trust.client import TrustClient
from embrasure.trust.folder import FolderSource
from tests.ablation import Ablation
from tests.simulate.office import Office, verb

NEW = ("ben", "carl")


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Office:
    return Office.make(tmp_path_factory.mktemp("office") / "first", nodes=1)


@pytest.fixture
def mine(office: Office, tmp_path: Path) -> Office:
    return office.copy(tmp_path / "office")


def replace_both_approvers(mine: Office, folder: Path) -> None:
    """The trust folder has new keys of Ben and Carl, who approved what is published."""
    secret = ("--passphrase-file", mine.passphrase)
    pairs, proofs = [], []
    for name in NEW:
        made = verb("keys", "generate", name, "--out", folder, "--kdf", "moderate", *secret)
        assert made.code == 0, made.told
        proof = folder / f"{name}.proof"
        proved = verb("pki", "keyholder", "prove", "--key", folder / f"{name}.key", "--anchor",
                      mine.trust / "anchor.json", "--out", proof, *secret)  # fmt: skip
        assert proved.code == 0, proved.told
        pairs.append(f"{name}={folder / f'{name}.pub'}")
        proofs += ["--proof", proof]
    mine.pki("pki", "keyholder", "replace", *pairs, mine.trust, "--role", "prod-shop", *proofs,
             *mine.signs())  # fmt: skip


def approve_and_start(mine: Office, version: str) -> None:
    proposed = mine.propose(version)
    assert proposed.code == 0, proposed.told
    plan = proposed.body["plan"]
    for name in NEW:
        done = mine.approve(plan, person=name)
        assert done.code == 0, done.told
    started = mine.verb("rollout", "start", "--plan", plan, "--detach", person="anna")
    assert started.code == 0, started.told


@pytest.mark.misuse
def test_an_approval_that_loses_its_signers_is_named_and_can_be_given_again(
    mine: Office, tmp_path: Path, ablation: Ablation
) -> None:
    source = FolderSource(mine.gateway_folder / "repository")
    with mine.gateway() as running:
        for name in ("anna", *NEW):
            mine.as_person(name, running.port)
        approve_and_start(mine, "1.0")
        anchor = running.held.repository.anchor
        replace_both_approvers(mine, tmp_path / "new")
        refused = mine.verb("trust", "submit", mine.trust, person="anna")
        assert (refused.code, refused.error["reason"]) == (4, "E_ORPHAN")
        assert refused.error["got"] == "prod-shop"
        # Refused whole: a new node still gets the release that is in force.
        TrustClient(tmp_path / "before", anchor).refresh(source, roles=["prod-shop"])
        with ablation("the refusal") as attack:
            forced = mine.verb("trust", "submit", mine.trust, "--force", person="anna")
            assert forced.code == 0, forced.told
            with pytest.raises(Refused) as caught:
                TrustClient(tmp_path / "after", anchor).refresh(source, roles=["prod-shop"])
            # The way back is gone: no node can take this release any more.
            attack.succeeded(caught.value.reason == "threshold")
        # Others are not touched by it, and the new keys approve the next one.
        TrustClient(tmp_path / "others", anchor).refresh(source, roles=["fleet-prod"])
        for name in NEW:
            mine.pki("pki", "issue", f"operator/{name}", mine.trust, "--out", mine.folder / name,
                     "--gateway", f"127.0.0.1:{running.port}", "--key",
                     f"keyfile:{tmp_path / 'new' / f'{name}.key'}")  # fmt: skip
        ended = mine.verb("rollout", "list", person="anna").body["rollouts"][0]["id"]
        assert (
            mine.verb(
                "rollout", "abort", ended, "--reason", "new keys", "--detach", person="anna"
            ).code
            == 0
        )
        approve_and_start(mine, "1.1")
        view = TrustClient(tmp_path / "again", anchor).refresh(source, roles=["prod-shop"])
        role = view.role("prod-shop")
        assert role is not None and len(role.signers) == 2
