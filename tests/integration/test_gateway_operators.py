"""Operators at a real gateway: key files, mTLS, gRPC, the command line; nothing is simulated."""

from __future__ import annotations

from pathlib import Path

import pytest

from embrasure.trust.client import TrustClient
from embrasure.trust.folder import FolderSource
from gateway.context import read_context
from tests.ablation import Ablation
from tests.simulate.office import ENV, Office, Running, verb


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Office:
    return Office.make(tmp_path_factory.mktemp("office") / "first")


@pytest.fixture
def mine(office: Office, tmp_path: Path) -> Office:
    return office.copy(tmp_path / "office")


def staffed(office: Office, running: Running) -> None:
    for person in ("anna", "ben", "carl"):
        office.as_person(person, running.port)


def test_from_a_trust_folder_to_an_approved_release(mine: Office) -> None:
    with mine.gateway() as running:
        staffed(mine, running)
        who = mine.verb("whoami", person="anna")
        assert (who.code, who.body["person"], who.body["environments"]) == (0, "anna", ["prod"])
        typo = mine.verb("fleet", "address", "mirror", "m1", "h:1", "--env", "prodd", person="anna")
        assert (typo.code, typo.error["reason"]) == (3, "E_NOT_A_PERSON")
        assert (typo.error["expected"][-6:], typo.error["got"]) == (": prod", "prodd")
        proposed = mine.propose()
        assert proposed.code == 0, proposed.told
        plan = proposed.body["plan"]
        own = mine.approve(plan, person="anna")
        assert (own.code, own.error["reason"]) == (3, "E_OWN_PROPOSAL")
        blind = mine.verb("approve", plan[7:23], "--quiet", "--no-input", person="ben")
        assert (blind.code, blind.error["reason"]) == (3, "E_NO_INPUT")
        assert "what is signed:" in blind.told  # nobody signs what was not shown
        early = mine.verb("rollout", "start", "--plan", plan, person="ben")
        assert (early.error["reason"], "approvals" in early.error["hint"]) == (
            "E_PENDING_APPROVAL", True,
        )  # fmt: skip
        first = mine.approve(plan, person="ben")
        assert (first.code, first.body["state"]) == (0, "pending_approval")
        again = mine.approve(plan, person="ben")
        assert again.body["approved_by"] == ["ben"]
        second = mine.approve(plan, person="carl")
        assert (second.code, second.body["state"]) == (0, "approved")
        listed = mine.verb("release", "list", person="ben").body["releases"]
        assert [(row["state"], row["approved_by"]) for row in listed] == [
            ("approved", ["ben", "carl"])
        ]
        seen = mine.verb("audit", "verify", person="ben")
        assert seen.code == 0
        approved = running.held.repository  # nothing is published by an approval
        assert approved.view().role("prod-shop") is None
    assert verb("audit", "verify", "--folder", mine.gateway_folder).code == 0


@pytest.mark.misuse
def test_an_operator_does_not_talk_to_a_gateway_whose_issuer_is_denied(
    mine: Office, ablation: Ablation
) -> None:
    with mine.gateway() as running:
        mine.as_person("anna", running.port)
        assert mine.verb("whoami", person="anna").code == 0
        mine.pki("trust", "deny", mine.trust, "--env", ENV, "--issuer",
                 mine.trust / "ca" / "admin.crt", *mine.signs())  # fmt: skip
        assert mine.verb("trust", "submit", mine.trust, person="anna").code == 0
        # What anna's own machine has verified counts, not what the gateway says.
        refresh(mine)
        found = mine.verb("whoami", person="anna")
        assert (found.code, found.error["reason"]) == (4, "E_NO_ISSUER")
        with ablation("the denial on the operator's side") as attack:
            attack.without(
                "gateway.client.admin_issuers", lambda context, _: context.admin_issuer()
            )
            attack.succeeded(mine.verb("whoami", person="anna").code == 0)


def refresh(mine: Office) -> None:
    """Anna's machine verifies what is published now."""
    context = read_context(mine.context("anna"))
    client = TrustClient(context.state / "tuf", context.anchor())
    source = FolderSource(mine.gateway_folder / "repository")
    view = client.refresh(source, roles=[f"fleet-{ENV}"])
    for path, target in view.roles[f"fleet-{ENV}"].targets.items():
        client.target(view, f"fleet-{ENV}", path, source, limit=target.length)
