"""The publisher: what nodes would refuse is never shown, and what is shown comes at once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Targets

from embrasure.errors import Denied, Failed, Refused
from embrasure.trust import layout
from embrasure.trust.client import TrustClient
from embrasure.trust.documents import digest, write
from gateway.records import parse_event
from gateway.repository import Repository
from gateway.repository_folder import RepositoryFolder
from tests.ablation import Ablation
from tests.simulate.gateway import SimGateway
from tests.simulate.metadata import sign_metadata
from tests.simulate.repository import SimRepository


class Clock:
    def __init__(self) -> None:
        self.at = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.at

    def go(self, **by: float) -> None:
        self.at += timedelta(**by)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sim(clock: Clock) -> SimRepository:
    repo = SimRepository(clock=clock)
    repo.add_app("shop")
    repo.add_app("blog")
    repo.add_node()
    repo.publish()
    return repo


@pytest.fixture
def gateway(sim: SimRepository, tmp_path: Path) -> Iterator[SimGateway]:
    opened = SimGateway(tmp_path / "gateway", sim)
    yield opened
    opened.close()


@pytest.fixture
def repository(gateway: SimGateway) -> Repository:
    return gateway.repository


def node_view(
    sim: SimRepository, repository: Repository, folder: Path, clock: Clock
) -> TrustClient:
    client = TrustClient(folder, sim.anchor, clock=clock)
    client.refresh(repository.source(), roles=None)
    return client


def test_the_first_publication_shows_the_trust_files_and_an_empty_gates_role(
    repository: Repository, sim: SimRepository, tmp_path: Path, clock: Clock
) -> None:
    view = repository.view()
    assert {"fleet-dev", "revocations", "gates-dev", "targets"} <= set(view.roles)
    assert view.roles["timestamp"].version == 1
    node_view(sim, repository, tmp_path / "node", clock)


def test_nothing_staged_publishes_nothing_new(repository: Repository) -> None:
    before = repository.view()
    assert repository.publish() == before


def shop_release(sim: SimRepository) -> tuple[bytes, dict[str, bytes], str]:
    """A signed role, its documents, and the plan's digest, as `approved` gives them."""
    node = next(iter(sim.nodes.values()))
    release = sim.add_release("shop")
    plan = sim.set_plan(release, canary=[node])
    sim.publish()
    role = sim.files[layout.metadata_file("dev-shop", sim.versions["dev-shop"])]
    documents = {
        layout.plan_path("dev", "shop"): write(plan),
        layout.manifest_path("dev", "shop", release.digest): release.raw,
    }
    return role, documents, digest(plan)


def test_a_role_and_its_gate_become_visible_together(
    repository: Repository, sim: SimRepository, tmp_path: Path, clock: Clock
) -> None:
    role, documents, _ = shop_release(sim)
    gate = write(sim.draft_gate(sim.plans["dev-shop"]))
    repository.stage_role(role, documents)
    repository.set_gate("dev", "shop", gate)
    view = repository.publish()
    assert view.target("dev-shop", "dev/shop/plan.json") is not None
    assert view.target("gates-dev", "gates/dev/shop.json") is not None
    client = node_view(sim, repository, tmp_path / "node", clock)
    held = client.held()
    assert (
        client.target(held, "gates-dev", "gates/dev/shop.json", repository.source(), limit=1 << 20)
        == gate
    )
    again = repository.publish()
    assert again.roles["snapshot"].version == view.roles["snapshot"].version


@pytest.mark.misuse
def test_a_publication_that_fails_takes_nobody_elses_gate_away(
    repository: Repository, sim: SimRepository, ablation: Ablation
) -> None:
    role, documents, _ = shop_release(sim)
    unsigned = sign_metadata(Metadata[Targets].from_bytes(role).signed, [])

    def meddle() -> None:
        with repository.change(), contextlib.suppress(Refused):
            repository.stage_role(unsigned, documents)
            repository.publish()

    def stop(gate: bytes, *, patience: float) -> bytes:
        meddler = threading.Thread(target=meddle)
        with repository.change():
            repository.set_gate("dev", "shop", gate)
            meddler.start()
            meddler.join(patience)
            repository.publish()
        meddler.join()
        return repository.document("gates-dev", "gates/dev/shop.json", limit=99)

    assert stop(b"halted", patience=0.2) == b"halted"

    with ablation("one change at a time") as attack:
        attack.without("gateway.repository.Repository.change", lambda _: contextlib.nullcontext())
        attack.succeeded(stop(b"halted again", patience=20) == b"halted")


def test_gates_of_other_apps_stay(repository: Repository) -> None:
    repository.set_gate("dev", "shop", b"one")
    repository.publish()
    repository.set_gate("dev", "blog", b"two")
    view = repository.publish()
    assert set(view.roles["gates-dev"].targets) == {"gates/dev/shop.json", "gates/dev/blog.json"}


@pytest.mark.misuse
@pytest.mark.parametrize("lie", ["unsigned", "one signature", "other document", "other app"])
def test_what_a_node_would_refuse_is_never_published(
    lie: str,
    repository: Repository,
    sim: SimRepository,
    ablation: Ablation,
) -> None:
    role, documents, _ = shop_release(sim)
    signed = Metadata[Targets].from_bytes(role).signed
    if lie == "unsigned":
        role = sign_metadata(signed, [])
    elif lie == "one signature":
        role = sign_metadata(signed, sim.signers["dev-shop"][:1])
    elif lie == "other document":
        documents[layout.plan_path("dev", "shop")] = b"{}"
    else:
        role = sign_metadata(signed, [CryptoSigner.generate_ed25519()])
    before = repository.view()
    files = {path.name for path in repository.folder.rglob("*.json")}
    repository.stage_role(role, documents)
    with pytest.raises(Refused):
        repository.publish()
    assert repository.view() == before
    assert {path.name for path in repository.folder.rglob("*.json")} == files
    repository.publish()  # the bad one is gone: nothing stands in the way of others

    with ablation("the refresh as a node makes it") as attack:
        # Without the check it would have been shown.
        attack.without("gateway.repository.Repository._verify", lambda *_: None)
        attack.without("gateway.repository.Repository._refresh", lambda self: before)
        repository.stage_role(role, documents)
        repository.publish()
        attack.succeeded({path.name for path in repository.folder.rglob("*.json")} > files)


def test_the_timestamp_is_written_last(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    from embrasure.fs import Folder

    written: list[str] = []
    whole = Folder.replace

    def seen(self: Folder, name: str, data: bytes, *, mode: int = 0o600) -> None:
        written.append(name)
        whole(self, name, data, mode=mode)

    monkeypatch.setattr(Folder, "replace", seen)
    repository.set_gate("dev", "shop", b"gate")
    repository.publish()
    ours = [name for name in written if name.endswith(".json") and name != "tuf.json"]
    assert ours.index("timestamp.json") > max(
        ours.index(name) for name in ours if "gates-dev" in name or "snapshot" in name
    )


@pytest.mark.parametrize("kept", range(5))
def test_a_crash_between_two_files_shows_the_old_state_and_the_next_start_goes_on(
    kept: int, sim: SimRepository, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = SimGateway(tmp_path / "gateway", sim)
    before = first.repository.view()
    whole = RepositoryFolder.write

    def crash(self: RepositoryFolder, files: dict[str, bytes]) -> None:
        last = "metadata/timestamp.json"
        some = sorted(files, key=lambda name: (name == last, name))[:kept]
        whole(self, {path: files[path] for path in some})
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RepositoryFolder, "write", crash)
        first.repository.set_gate("dev", "shop", b"gate")
        with pytest.raises(KeyboardInterrupt):
            first.repository.publish()
    first.close()
    node = node_view(sim, first.repository, tmp_path / "node", clock)
    again = SimGateway(tmp_path / "gateway", sim)
    shown = again.repository.view().roles["timestamp"].version
    assert shown == before.roles["timestamp"].version + (kept == 4)
    again.repository.set_gate("dev", "shop", b"gate")
    again.repository.publish()
    node.refresh(again.repository.source(), roles=None)
    again.close()


def test_what_grows_old_is_signed_again(repository: Repository, clock: Clock) -> None:
    assert not repository.renew()
    clock.go(hours=6)
    assert repository.renew()
    view = repository.view()
    assert (view.roles["timestamp"].version, view.roles["snapshot"].version) == (2, 1)
    clock.go(hours=18)
    assert repository.renew()
    view = repository.view()
    assert (view.roles["timestamp"].version, view.roles["snapshot"].version) == (3, 2)
    assert view.roles["gates-dev"].version == 2


def test_a_gateway_that_slept_a_month_publishes_again(
    sim: SimRepository, tmp_path: Path, clock: Clock
) -> None:
    first = SimGateway(tmp_path / "gateway", sim)
    first.repository.set_gate("dev", "shop", b"gate")
    first.repository.publish()
    first.close()
    clock.go(days=25)
    again = SimGateway(tmp_path / "gateway", sim)
    assert "gates/dev/shop.json" in again.repository.view().roles["gates-dev"].targets
    again.close()


def test_a_role_that_expired_does_not_stop_the_others(
    repository: Repository, sim: SimRepository, clock: Clock
) -> None:
    sim.life["dev-shop"] = timedelta(days=2)
    role, documents, _ = shop_release(sim)
    repository.stage_role(role, documents)
    repository.publish()
    clock.go(days=3)
    repository.set_gate("dev", "blog", b"gate")
    view = repository.publish()
    assert view.roles["dev-shop"].expires <= clock()
    assert "expired" in repository.problems["dev-shop"]
    assert view.target("gates-dev", "gates/dev/blog.json") is not None


def test_a_role_that_expired_is_not_published_as_new(
    repository: Repository, sim: SimRepository, clock: Clock
) -> None:
    sim.life["dev-shop"] = timedelta(days=2)
    role, documents, _ = shop_release(sim)
    clock.go(days=3)
    repository.stage_role(role, documents)
    with pytest.raises(Refused, match="expired"):
        repository.publish()


def test_an_environment_without_a_gate_key_is_refused(repository: Repository) -> None:
    with pytest.raises(Denied, match="gates-prod"):
        repository.set_gate("prod", "shop", b"gate")


def test_every_signature_is_in_the_journal_before_it_is_made(
    gateway: SimGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.repository.set_gate("dev", "shop", b"gate")
    gateway.repository.publish()
    events = [parse_event(line) for line in gateway.journal.lines(0)]
    assert [(e.act, e.key, e.phase) for e in events[-2:]] == [
        ("sign", "gates-dev", "intent"),
        ("sign", "gates-dev", "outcome"),
    ]
    signed: list[str] = []
    monkeypatch.setattr("gateway.repository.form.sign", lambda *_, role: signed.append(role))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gateway.audit.append", full)
    gateway.repository.set_gate("dev", "shop", b"other")
    with pytest.raises(Failed, match="audit journal"):
        gateway.repository.publish()
    assert signed == []


@pytest.mark.misuse
def test_a_published_number_never_gets_a_second_content(
    repository: Repository, sim: SimRepository, ablation: Ablation
) -> None:
    role, documents, _ = shop_release(sim)
    repository.stage_role(role, documents)
    repository.publish()
    held = repository.role_file("dev-shop")
    signed = Metadata[Targets].from_bytes(role).signed
    # The same content, signed by others: the published file stays.
    repository.stage_role(sign_metadata(signed, sim.signers["dev-shop"][1:]), documents)
    repository.publish()
    assert repository.role_file("dev-shop") == held
    signed.expires += timedelta(days=1)
    repository.stage_role(sign_metadata(signed, sim.signers["dev-shop"][:2]), documents)
    with pytest.raises(Refused) as caught:
        repository.publish()
    assert caught.value.reason == "equivocation"
    signed.version -= 1
    repository.stage_role(sign_metadata(signed, sim.signers["dev-shop"][:2]), documents)
    with pytest.raises(Refused) as caught:
        repository.publish()
    assert caught.value.reason == "rollback"
    with ablation("the numbers that are taken") as attack:
        attack.without("gateway.repository.check_numbers")
        signed.version += 1
        other = sign_metadata(signed, sim.signers["dev-shop"][:2])
        repository.stage_role(other, documents)
        with contextlib.suppress(Refused):
            repository.publish()
        attack.succeeded(repository.role_file("dev-shop") == other)


def test_old_online_files_go_and_the_last_ones_stay(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.repository_folder.KEPT", 3)
    for number in range(6):
        repository.set_gate("dev", "shop", b"%d" % number)
        repository.publish()
    names = {path.name for path in (repository.folder / "metadata").iterdir()}
    assert {name for name in names if "gates-dev" in name} == {
        f"{number}.gates-dev.json" for number in (5, 6, 7)
    }
    assert sum("snapshot" in name for name in names) == 3
    assert {"1.root.json", "timestamp.json"} <= names
