"""A new gateway's folder after a theft: what the stolen keys have signed is not signed again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Targets

from embrasure import limits
from embrasure.errors import Refused
from embrasure.trust import layout
from embrasure.trust.documents import write
from gateway.metadata import believed_gates, read_metadata
from gateway.parts import EngineParts
from gateway.repository import Repository
from gateway.takeover import above_approval, above_former, unpublished
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


def test_a_mirrors_files_tell_a_new_folder_which_releases_are_in_force(
    sim: SimRepository, tmp_path: Path
) -> None:
    node = next(iter(sim.nodes.values()))
    plan = sim.set_plan(sim.add_release("shop"), canary=[node])
    sim.set_gate(plan)
    # The thief has run the numbers of his online files up to the end.
    for role in ONLINE:
        sim.versions[role] = limits.VERSION_MOST - 1
    sim.touch("gates-dev")
    sim.publish()
    public = sim.write(tmp_path / "public")
    for role in ONLINE:
        sim.replace_keys(role, [CryptoSigner.generate_ed25519()])
        sim.versions[role] = 0
    sim.publish()
    # `gateway init`, then the files of the mirror over it.
    write_trust(sim, tmp_path / "new" / "repository")
    shutil.copytree(public, tmp_path / "new" / "repository", dirs_exist_ok=True)
    gateway = SimGateway(tmp_path / "new", sim)
    running = gateway.grounds().running
    assert running is not None and running.plan == plan
    assert gates(gateway) == []
    assert max(numbers(gateway.repository)) < 10
    assert gateway.proposals.reserve("dev", "shop", person="anna") == running.version + 1
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


# --- numbers -------------------------------------------------------------------------------------


@pytest.fixture
def made(sim: SimRepository, tmp_path: Path) -> Iterator[EngineParts]:
    """A new gateway, which has published no plan of the app."""
    gateway = SimGateway(tmp_path / "fresh", sim)
    yield EngineParts(
        name="g2", database=gateway.database, journal=gateway.journal,
        repository=gateway.repository, proposals=gateway.proposals, identity=Nobody(),
    )  # fmt: skip
    gateway.close()


class Nobody:
    """Dials nobody."""

    def client(self) -> tuple[bytes, bytes]:
        return b"", b""


def approval(sim: SimRepository, version: int) -> bytes:
    """What mirrors and nodes hand back: the role file that its operators have signed."""
    sim.versions["dev-shop"] = version - 1
    sim.touch("dev-shop")
    sim.publish()
    return sim.files[layout.metadata_file("dev-shop", version)]


def test_plans_go_on_above_what_operators_have_signed(
    made: EngineParts, sim: SimRepository
) -> None:
    assert unpublished(made.repository) == unpublished(made.repository, "dev") == ["dev-shop"]
    assert unpublished(made.repository, "prod") == []
    assert above_approval(made, "dev-shop", approval(sim, 41), who="mirror/m1")
    assert made.proposals.reserve("dev", "shop", person="anna") == 42
    # What is older changes nothing, whoever hands it back, and how often.
    assert not above_approval(made, "dev-shop", approval(sim, 7), who="node/any")
    assert made.proposals.reserve("dev", "shop", person="anna") == 43


@pytest.mark.misuse
@pytest.mark.parametrize("lie", ["stranger", "one of two"])
def test_an_approval_that_operators_have_not_signed_moves_no_number(
    made: EngineParts, sim: SimRepository, lie: str, ablation: Ablation
) -> None:
    honest = list(sim.signers["dev-shop"])
    strangers = [CryptoSigner.generate_ed25519() for _ in range(2)]
    sim.sign_with["dev-shop"] = strangers if lie == "stranger" else honest[:1]
    forged = approval(sim, 900_000)
    with pytest.raises(Refused) as caught:
        above_approval(made, "dev-shop", forged, who="node/liar")
    assert caught.value.reason == "threshold"
    assert made.proposals.reserve("dev", "shop", person="anna") == 1
    with ablation("the signatures of the operators") as attack:
        attack.without("gateway.takeover.check_approved")
        above_approval(made, "dev-shop", forged, who="node/liar")
        attack.succeeded(made.proposals.reserve("dev", "shop", person="anna") > 900_000)


@pytest.mark.misuse
def test_a_number_at_the_end_is_not_gone_above(
    made: EngineParts, sim: SimRepository, ablation: Ablation
) -> None:
    burnt = approval(sim, limits.VERSION_MOST - 1)
    with pytest.raises(Refused) as caught:
        above_approval(made, "dev-shop", burnt, who="mirror/m1")
    assert caught.value.reason == "burnt"
    with ablation("the numbers that must be left") as attack:
        attack.without("gateway.takeover.check_left")
        above_approval(made, "dev-shop", burnt, who="mirror/m1")
        attack.succeeded(
            made.proposals.reserve("dev", "shop", person="anna") == limits.VERSION_MOST
        )


def handed(sim: SimRepository, version: int) -> tuple[bytes, bytes]:
    """The online files of a publisher that has come to this version."""
    for role in ONLINE:
        sim.versions[role] = version - 1
    sim.touch("gates-dev")
    sim.publish()
    path = layout.metadata_file(layout.SNAPSHOT, version)
    return sim.files[layout.metadata_file(layout.TIMESTAMP, 1)], sim.files[path]


def numbers(repository: Repository) -> list[int]:
    return [repository.published_version(role) for role in ONLINE]


def test_names_of_a_former_publisher_are_not_used_again(sim: SimRepository, tmp_path: Path) -> None:
    former = handed(sim, 40)
    for role in ONLINE:
        sim.replace_keys(role, [CryptoSigner.generate_ed25519()])
        sim.versions[role] = 0
    sim.publish()
    gateway = SimGateway(tmp_path, sim)
    parts = EngineParts(
        name="g2", database=gateway.database, journal=gateway.journal,
        repository=gateway.repository, proposals=gateway.proposals, identity=Nobody(),
    )  # fmt: skip
    assert above_former(parts, *former, who="mirror/m1")
    assert all(number > 40 for number in numbers(gateway.repository))
    before = numbers(gateway.repository)
    assert not above_former(parts, *former, who="mirror/m1")
    own = gateway.repository.disk.read("metadata/timestamp.json", limit=limits.TIMESTAMP_BYTES)
    assert not above_former(parts, own, gateway.repository.role_file("snapshot"), who="mirror/m1")
    assert not above_former(parts, b"", b"", who="mirror/m1")
    assert numbers(gateway.repository) == before
    gateway.close()


@pytest.mark.misuse
@pytest.mark.parametrize("lie", ["stranger", "run up"])
def test_a_thief_cannot_run_a_new_gateways_numbers_up(
    sim: SimRepository, tmp_path: Path, lie: str, ablation: Ablation
) -> None:
    high = limits.VERSION_MOST - 2
    if lie == "stranger":
        for role in ONLINE:
            sim.sign_with[role] = [CryptoSigner.generate_ed25519()]
    former = handed(sim, 40 if lie == "stranger" else high)
    for role in ONLINE:
        sim.replace_keys(role, [CryptoSigner.generate_ed25519()])
        sim.versions[role] = 0
    sim.publish()
    gateway = SimGateway(tmp_path, sim)
    parts = EngineParts(
        name="g2", database=gateway.database, journal=gateway.journal,
        repository=gateway.repository, proposals=gateway.proposals, identity=Nobody(),
    )  # fmt: skip
    before = numbers(gateway.repository)
    assert not above_former(parts, *former, who="mirror/m1")
    assert numbers(gateway.repository) == before
    with ablation("who signed it, and the half that is left") as attack:
        if lie == "stranger":
            newest = sim.root.version
            attack.without("gateway.takeover.is_former", lambda *_: newest > 0)
        else:
            attack.without("gateway.takeover.MOST", limits.VERSION_MOST)
        above_former(parts, *former, who="mirror/m1")
        attack.succeeded(numbers(gateway.repository) > [39, 39, 39])
    gateway.close()
