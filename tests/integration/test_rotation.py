"""Online keys and operators change under a running gateway; it signs with what metadata names."""

from __future__ import annotations

from pathlib import Path

import pytest

from embrasure.clock import now
from embrasure.errors import Refused
from embrasure.trust.client import TrustClient
from embrasure.trust.folder import FolderSource
from gateway import metadata as form
from gateway.config import read_config
from gateway.keyring import uris_of
from tests.ablation import Ablation
from tests.simulate.office import Office, Running, verb

ONLINE = ("snapshot", "timestamp", "gates-prod")


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Office:
    return Office.make(tmp_path_factory.mktemp("office") / "first", nodes=1)


@pytest.fixture
def mine(office: Office, tmp_path: Path) -> Office:
    return office.copy(tmp_path / "office")


def rotate(mine: Office, *names: str) -> None:
    mine.pki("pki", "online", "rotate", *names, mine.trust, "--kdf", "moderate", *mine.signs())


def named(mine: Office, running: Running) -> dict[str, str]:
    """Return the one key that verified metadata names for each online role."""
    client, view = running.held.repository.client, running.held.repository.view()
    return {role: next(iter(client.keys(view, role))) for role in ONLINE}


def test_every_online_key_is_rotated_while_the_gateway_runs(mine: Office, tmp_path: Path) -> None:
    with mine.gateway() as running:
        mine.as_person("anna", running.port)
        before = named(mine, running)
        old = TrustClient(tmp_path / "old", running.held.repository.anchor)
        source = FolderSource(mine.gateway_folder / "repository")
        first = old.refresh(source, roles=None)
        rotate(mine, *ONLINE)
        # Without the new keys nothing is published, and what is published stays good.
        early = mine.verb("trust", "submit", mine.trust, person="anna")
        assert (early.code, early.error["reason"]) == (3, "E_NO_ONLINE_KEY")
        assert old.refresh(source, roles=None).roles["root"].version == 1
        # The hand-over, beside the running gateway; then the new root and targets.
        given = mine.init()
        assert (given.code, given.body["unused"]) == (0, [])  # the old ones still sign
        done = mine.verb("trust", "submit", mine.trust, person="anna")
        assert done.code == 0, done.told
        assert done.body["roles"]["root"] == 2
        after = named(mine, running)
        assert not set(before.values()) & set(after.values())
        assert running.held.repository.gate_signer("prod").public_key.keyid == after["gates-prod"]
        # A client of before walks on; a new one starts.
        then = old.refresh(source, roles=None)
        assert then.roles["root"].version == 2
        assert then.roles["timestamp"].version > first.roles["timestamp"].version
        TrustClient(tmp_path / "new", running.held.repository.anchor).refresh(source, roles=None)
        # Old keys are not kept any longer than what is published names them.
        again = mine.init()
        assert again.body["unused"] == sorted(f"{role}.key" for role in ONLINE)
        held = read_config(mine.gateway_folder).online
        assert [len(uris_of(held, role)) for role in ONLINE] == [1, 1, 1]
    # And it starts again with the new ones alone.
    with mine.gateway() as running:
        assert named(mine, running) == after


@pytest.mark.misuse
def test_an_old_online_key_signs_nothing_once_it_is_rotated(
    mine: Office, tmp_path: Path, ablation: Ablation
) -> None:
    with mine.gateway() as running:
        mine.as_person("anna", running.port)
        repository = running.held.repository
        thief = repository._online.signer("timestamp", None)
        rotate(mine, "timestamp")
        assert mine.init().code == 0
        assert mine.verb("trust", "submit", mine.trust, person="anna").code == 0
        last = repository.disk.timestamp()
        assert last is not None
        version = last.snapshot_meta.version
        raw = repository.disk.role_file("snapshot", version)
        stamp = form.make_timestamp(raw, version, version=last.version + 1, at=now())
        forged = form.sign(stamp, thief, role="timestamp")
        with pytest.raises(Refused) as caught:
            refresh(mine, tmp_path / "one", repository.anchor, {"metadata/timestamp.json": forged})
        assert caught.value.reason == "threshold"
        with ablation("the root without the old key") as attack:
            # Where the new root is withheld, the old key still counts: hence root + 1 at once.
            hidden = {"metadata/timestamp.json": forged, "metadata/2.root.json": None}
            view = refresh(mine, tmp_path / "two", repository.anchor, hidden)
            attack.succeeded(view == last.version + 1)


def refresh(mine: Office, folder: Path, anchor: bytes, other: dict[str, bytes | None]) -> int:
    """Return the timestamp version that a new client accepts of the repository with other files."""
    import shutil

    place = folder.with_name(f"{folder.name}-repository")
    shutil.copytree(mine.gateway_folder / "repository", place)
    for path, raw in other.items():
        (place / path).unlink()
        if raw is not None:
            (place / path).write_bytes(raw)
    folder.mkdir(mode=0o700)
    view = TrustClient(folder, anchor).refresh(FolderSource(place), roles=())
    return view.roles["timestamp"].version


def test_an_operator_comes_and_goes_without_a_restart(mine: Office, tmp_path: Path) -> None:
    secret = ("--passphrase-file", mine.passphrase)
    out, anchor = tmp_path / "eve", mine.trust / "anchor.json"
    assert verb("keys", "generate", "eve", "--out", out, "--kdf", "moderate", *secret).code == 0
    proof = out / "eve.proof"
    proved = verb("pki", "keyholder", "prove", "--key", out / "eve.key", "--anchor", anchor,
                  "--out", proof, *secret)  # fmt: skip
    assert proved.code == 0, proved.told
    with mine.gateway() as running:
        mine.as_person("anna", running.port)
        mine.pki("pki", "keyholder", "replace", f"carl={out / 'eve.pub'}", mine.trust,
                 "--role", "prod-shop", "--proof", proof, *mine.signs())  # fmt: skip
        assert mine.verb("trust", "submit", mine.trust, person="anna").code == 0
        people = running.held.repository
        assert people.view().role("fleet-prod") is not None
        mine.pki("pki", "issue", "operator/eve", mine.trust, "--out", mine.folder / "eve",
                 "--gateway", f"127.0.0.1:{running.port}", "--key", out / "eve.key")  # fmt: skip
        plan = mine.propose().body["plan"]
        assert mine.approve(plan, person="eve").code == 0
        mine.as_person("ben", running.port)
        assert mine.approve(plan, person="ben").body["state"] == "approved"
        mine.as_person("carl", running.port)
        gone = mine.approve(plan, person="carl")
        assert gone.code == 3, gone.told


# --- operators whose signatures the published release needs --------------------------------------

NEW = ("ben", "carl")


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
@pytest.mark.timeout(240)
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
        approve_and_start(mine, "1.0")  # the same content, as a new plan
        view = TrustClient(tmp_path / "again", anchor).refresh(source, roles=["prod-shop"])
        role = view.role("prod-shop")
        assert role is not None and len(role.signers) == 2
