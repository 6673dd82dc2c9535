"""A new gateway's folder after a theft: what the stolen keys have signed is not signed again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Targets

from embrasure.trust import layout
from embrasure.trust.documents import write
from gateway.metadata import believed_gates, read_metadata
from tests.ablation import Ablation
from tests.simulate.gateway import SimGateway, write_trust
from tests.simulate.repository import SimRepository

ONLINE = (layout.TIMESTAMP, layout.SNAPSHOT, "gates-dev")


def gates(gateway: SimGateway) -> list[str]:
    return sorted(gateway.repository.view().roles["gates-dev"].targets)


def stolen(folder: Path, sim: SimRepository) -> Path:
    """Return the repository of a gateway whose thief has published a gate; the keys are new."""
    gateway = SimGateway(folder, sim)
    plan = gateway.plan_for(sim.add_release("shop"), by="anna", seq=1)
    gateway.repository.set_gate("dev", "shop", write(sim.draft_gate(plan)))
    gateway.repository.publish()
    assert gates(gateway) == [layout.gate_path("dev", "shop")]
    gateway.close()
    for role in ONLINE:
        sim.replace_keys(role, [CryptoSigner.generate_ed25519()])
    sim.publish()
    return folder / "repository"


def taken_over(files: Path, folder: Path, sim: SimRepository) -> SimGateway:
    """A new gateway, whose repository was copied from a mirror, with the team's trust files."""
    shutil.copytree(files, folder / "repository")
    write_trust(sim, folder / "repository")
    return SimGateway(folder, sim)


@pytest.fixture
def sim() -> SimRepository:
    made = SimRepository()
    made.add_app("shop")
    made.add_node()
    made.publish()
    return made


@pytest.mark.misuse
def test_a_new_folder_signs_no_gate_of_the_thief(
    sim: SimRepository, tmp_path: Path, ablation: Ablation
) -> None:
    files = stolen(tmp_path / "stolen", sim)
    gateway = taken_over(files, tmp_path / "new", sim)
    assert gates(gateway) == []
    gateway.close()
    with ablation("the look at who has signed the former gates") as attack:
        attack.without(
            "gateway.metadata.believed_gates",
            lambda raw, role, *_, **__: read_metadata(raw, Targets, role).signed,
        )
        gateway = taken_over(files, tmp_path / "other", sim)
        attack.succeeded(gates(gateway) == [layout.gate_path("dev", "shop")])
        gateway.close()


def test_a_gateway_keeps_its_own_gates_when_its_key_is_replaced(
    sim: SimRepository, tmp_path: Path
) -> None:
    """A routine change of the gate key pauses no roll-out."""
    gateway = SimGateway(tmp_path, sim)
    plan = gateway.plan_for(sim.add_release("shop"), by="anna", seq=1)
    gateway.repository.set_gate("dev", "shop", write(sim.draft_gate(plan)))
    gateway.repository.publish()
    raw, own = gateway.repository.role_file("gates-dev"), gateway.repository.view()
    gateway.close()
    sim.replace_keys("gates-dev", [CryptoSigner.generate_ed25519()])
    found = believed_gates(raw, "gates-dev", sim.targets, own=own.roles["gates-dev"].sha256)
    assert found is not None and list(found.targets) == [layout.gate_path("dev", "shop")]
    assert believed_gates(raw, "gates-dev", sim.targets, own="") is None
