"""The edges of the decision code of `embrasure.trust`: branches that no attack elsewhere takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tuf.api.exceptions import (
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    RepositoryError,
)
from tuf.api.metadata import Root

from embrasure.errors import EmbrasureError, Failed, Misuse, NotFound, NotSupported, Refused
from embrasure.errors import Unavailable as Away
from embrasure.trust import canonical, client, directory, layout, login
from embrasure.trust.client import TrustClient
from embrasure.trust.documents import check_times, digest, write
from embrasure.trust.evidence import check_gate_evidence
from embrasure.trust.fetcher import SourceFetcher
from embrasure.trust.gate import parse_gate
from embrasure.trust.load import load, make_ready, roles_for
from embrasure.trust.plan import Plan, check_waves, parse_plan
from embrasure.trust.policy import Person, parse_policy
from embrasure.trust.receipt import chain_hash
from embrasure.trust.waves import wave_of
from embrasure.trust.workflow import session
from embrasure.trust.workflow.updater import ClockedUpdater, explained
from embrasure.trust.workflow.verified import held_metadata, view_of
from tests.simulate.nodes import SimNode
from tests.simulate.sources import DeadSource
from tests.simulate.trustbench import ROLES, Bench
from tests.unit.test_decide import Scene, _docs, build

BAD = Refused("document", expected="another", got="this")


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return build(tmp_path / "trust")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


# --- the decision ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["policy", "revocations", "plan", "directory", "manifest"])
def test_a_listed_document_that_does_not_parse_is_refused_by_its_name(
    scene: Scene, name: str
) -> None:
    _docs(problems={name: BAD})(scene)
    assert scene.said() == f"refuse {name}"


def test_a_manifest_of_another_length_than_the_plan_says_is_refused(scene: Scene) -> None:
    assert scene.docs.plan is not None
    content = msgspec.structs.replace(scene.plan.manifest, length=scene.plan.manifest.length + 1)
    _docs(plan=msgspec.structs.replace(scene.docs.plan, manifest=content))(scene)
    assert scene.said() == "refuse manifest"


def test_no_step_behind_the_gate_goes_on_without_one(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    from embrasure.trust import decide as module

    rest = tuple(step for step in module._STEPS if step.__name__ != "_step_13_gate")
    monkeypatch.setattr("embrasure.trust.decide._STEPS", rest)
    _docs(gate=None)(scene)
    assert scene.said() == "refuse evidence"


# --- evidence, gate, plan, waves ---------------------------------------------------------------


def check_evidence(scene: Scene, plan: Plan | None = None, **changes: Any) -> None:
    assert scene.docs.gate is not None
    gate = msgspec.structs.replace(scene.docs.gate, **changes)
    plan = plan or scene.plan
    check_gate_evidence(plan, digest(scene.plan), gate, denied_keys=frozenset(), min_isolation=0)


def test_a_gate_opens_no_wave_that_the_plan_does_not_have(scene: Scene) -> None:
    check_evidence(scene)
    with pytest.raises(Refused, match="a wave of the plan"):
        check_evidence(scene, open_wave=7)


def test_a_wave_that_needs_nobody_needs_no_evidence(scene: Scene) -> None:
    canary = msgspec.structs.replace(scene.plan.waves[0], need=0)
    plan = msgspec.structs.replace(scene.plan, waves=(canary, *scene.plan.waves[1:]))
    check_evidence(scene, plan, evidence=())


def test_fewer_receipts_than_the_wave_needs_prove_nothing(scene: Scene) -> None:
    canary = msgspec.structs.replace(scene.plan.waves[0], need=2)
    plan = msgspec.structs.replace(scene.plan, waves=(canary, *scene.plan.waves[1:]))
    with pytest.raises(Refused, match="2 nodes of wave 0"):
        check_evidence(scene, plan)


def test_a_gate_of_an_unbuilt_state_or_with_a_wave_twice_is_refused(scene: Scene) -> None:
    gate = scene.docs.gate
    assert gate is not None and parse_gate(write(gate)) == gate
    with pytest.raises(NotSupported):
        parse_gate(write(msgspec.structs.replace(gate, state="fallback")))
    with pytest.raises(Refused, match="evidence once"):
        parse_gate(write(msgspec.structs.replace(gate, evidence=gate.evidence * 2)))


def canary_of(plan: Plan, count: int, **changes: object) -> Plan:
    """Return the plan with that many canaries."""
    named = tuple(
        msgspec.structs.replace(
            plan.waves[0].nodes[0], id=f"n-{'a' * 25}{'abcdefghijklmnop'[n]}", key=f"{n:064x}"
        )
        for n in range(count)
    )
    fields = {"nodes": named, "need": count, **changes}
    return msgspec.structs.replace(
        plan, waves=(msgspec.structs.replace(plan.waves[0], **fields), *plan.waves[1:])
    )


def test_a_plan_names_each_node_and_key_once_and_needs_every_canary(scene: Scene) -> None:
    two = canary_of(scene.plan, 2)
    assert parse_plan(write(two)) == two
    (first, second) = two.waves[0].nodes
    same_key = msgspec.structs.replace(second, key=first.key)
    for waves, said in (
        (canary_of(scene.plan, 2, need=1).waves, "every canary"),
        (canary_of(scene.plan, 2, nodes=(first, first)).waves, "distinct named nodes"),
        (canary_of(scene.plan, 2, nodes=(first, same_key)).waves, "distinct receipt keys"),
    ):
        with pytest.raises(Refused, match=said):
            parse_plan(write(msgspec.structs.replace(scene.plan, waves=waves)))


def test_the_receipts_of_all_waves_fit_into_one_gate(scene: Scene) -> None:
    full = canary_of(scene.plan, 16)
    canary, last = full.waves[0], scene.plan.waves[-1]
    middle = [
        msgspec.structs.replace(last, name=f"w{n}", nodes=canary.nodes, need=16, percent=10 + n)
        for n in range(6)
    ]
    end = msgspec.structs.replace(last, nodes=canary.nodes, need=16)
    whole = msgspec.structs.replace(full, waves=(canary, *middle, end))
    assert sum(wave.need for wave in whole.waves) == 128
    parse_plan(write(whole))
    # One wave more is refused by the form already; the sum does not lean on that.
    ninth = msgspec.structs.replace(middle[0], name="w9")
    with pytest.raises(Refused, match="receipts in all"):
        check_waves(msgspec.structs.replace(whole, waves=(canary, ninth, *middle, end)))


def test_a_plan_of_canaries_alone_has_no_wave_for_others(scene: Scene) -> None:
    alone = msgspec.structs.replace(scene.plan, waves=scene.plan.waves[:1])
    assert wave_of(alone, scene.node.id, {"tier": "web"}) is None


# --- documents ---------------------------------------------------------------------------------

PARSERS: list[Callable[[bytes], object]] = [
    directory.parse_shard,
    directory.parse_tls_bundle,
    directory.parse_recovery,
    directory.parse_statement,
    directory.parse_enrolled,
    directory.parse_approval,
    login.parse_login,
]


@given(st.sampled_from(PARSERS), st.binary(max_size=64))
def test_random_bytes_are_no_document(parse: Callable[[bytes], object], raw: bytes) -> None:
    with pytest.raises(EmbrasureError):
        parse(raw)


def test_text_beyond_ascii_is_taken_when_it_shows_all_it_holds() -> None:
    canonical.check_text({"a": ["dépôt", 1]}, "document")
    with pytest.raises(Refused, match="NFC"):
        canonical.check_text("de\u0301po\u0302t", "document")


def test_a_sealing_key_has_the_length_of_its_suite() -> None:
    key = directory.SealKey(suite="x25519", key="ab" * 32, epoch=1)
    assert len(key.fingerprint) == 64
    with pytest.raises(ValueError, match="32 bytes"):
        directory.SealKey(suite="x25519", key="ab", epoch=1)


def test_a_shard_lists_each_node_and_key_once_sorted_and_of_its_environment() -> None:
    one, two = SimNode(id="n-" + "a" * 26).entry(), SimNode(id="n-" + "b" * 26).entry()
    shard = directory.Shard(v=1, type="directory", root="a" * 64, env="dev", shard="00", entries=())

    def check(*entries: directory.Entry) -> None:
        directory.parse_shard(write(msgspec.structs.replace(shard, entries=entries)))

    check(one, two)
    assert one.receipt_id != two.receipt_id
    for entries in (
        (two, one),
        (one, one),
        (one, msgspec.structs.replace(two, receipt=one.receipt)),
    ):
        with pytest.raises(Refused, match="once, sorted"):
            check(*entries)
    with pytest.raises(Refused, match="nodes of dev"):
        check(msgspec.structs.replace(one, env="prod"))


def test_a_key_has_one_person_in_a_policy(scene: Scene) -> None:
    assert scene.docs.policy is not None
    twice = tuple(Person(id=name, keys=("a" * 64,), groups=()) for name in ("anna", "ben"))
    with pytest.raises(Refused, match="one person"):
        parse_policy(write(msgspec.structs.replace(scene.docs.policy, people=twice)))


def test_names_and_paths_are_checked() -> None:
    assert layout.check_env("dev") == "dev" and layout.check_app("shop-eu") == "shop-eu"
    for bad in ("fleet", "a-b", ""):
        with pytest.raises(Misuse):
            layout.check_env(bad)
    with pytest.raises(Misuse):
        layout.check_app("Shop")
    assert layout.is_secret(layout.secret_path("dev", "shop", "a" * 64))
    assert not layout.is_secret(layout.plan_path("dev", "shop"))
    with pytest.raises(Refused, match="its own folder"):
        layout.parse_file("blobs/bb/aa" + "0" * 62)


def test_each_receipt_is_chained_to_the_one_before() -> None:
    assert chain_hash(b"a") != chain_hash(b"b")


# --- loading -----------------------------------------------------------------------------------


def test_documents_that_are_absent_or_unsound_are_told_apart(bench: Bench) -> None:
    repo = bench.repo
    view = bench.refresh(roles=roles_for("dev", "shop"))
    held = bench.client()
    held.refresh(bench.source, roles=roles_for("dev", "shop"))
    whole = load(held, view, bench.source, env="dev", app="shop", node=bench.node.id)
    assert whole.entry is not None and not whole.problems
    assert load(held, view, bench.source, env="dev", app="shop", node="").entry is None
    other = load(held, view, bench.source, env="dev", app="blog", node=bench.node.id)
    assert (other.plan, other.manifest, other.plan_digest) == (None, None, "")
    repo.list_target("fleet-dev", layout.shard_path("dev", "00"), b"{}")
    repo.list_target("gates-dev", layout.gate_path("dev", "shop"), b"{}")
    repo.publish()
    view = held.refresh(repo.source(), roles=roles_for("dev", "shop"))
    found = load(held, view, repo.source(), env="dev", app="shop", node=bench.node.id)
    assert found.entry is None and {"directory", "gate"} == set(found.problems)
    repo.list_target("fleet-dev", layout.policy_path("dev"), b"{}")
    repo.publish()
    fresh = TrustClient(bench.folder.parent / "fresh", repo.anchor, clock=bench.time)
    view = fresh.refresh(repo.source(), roles=roles_for("dev", "shop"))
    with pytest.raises(Away):
        load(fresh, view, DeadSource(), env="dev", app="shop", node=bench.node.id)


# --- the client --------------------------------------------------------------------------------


def test_a_wider_question_a_new_root_and_another_process_take_the_whole_way(bench: Bench) -> None:
    mine = bench.client()
    mine.refresh(bench.source, roles=ROLES[:2])
    wide = mine.refresh(bench.source, roles=ROLES)
    assert wide.role("dev-shop") is not None
    assert mine.refresh(bench.source, roles=None).roles.keys() >= wide.roles.keys()
    bench.repo.touch("root")
    bench.repo.publish()
    assert mine.refresh(bench.source, roles=ROLES).roles["root"].version == 2
    # Another process of this machine saw more than this source shows.
    old = bench.repo.frozen_source()
    mine.refresh(old, roles=ROLES)
    bench.gate()
    bench.refresh()
    with pytest.raises(Refused) as caught:
        mine.refresh(old, roles=ROLES)
    assert caught.value.reason == "rollback"


def test_a_view_that_another_process_replaces_meanwhile_is_read_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.refresh()
    mine, real, raced = bench.client(), held_metadata, list[Path]()

    def slow(generation: Path, anchor: bytes) -> session.Verified:
        raced.append(generation)
        if len(raced) == 1:
            bench.gate()
            bench.refresh()
            raise Refused("metadata", expected="a file", got="none", reason="no-trust")
        return real(generation, anchor)

    monkeypatch.setattr("embrasure.trust.client.held_metadata", slow)
    assert mine.held().roles["gates-dev"].version == bench.repo.versions["gates-dev"]
    assert len(raced) == 2


def test_a_client_keeps_the_files_of_its_last_views_only(bench: Bench) -> None:
    mine = bench.client()
    first = mine.refresh(bench.source, roles=ROLES)
    for _ in range(client._VIEWS_KEPT):
        bench.gate()
        mine.refresh(bench.source, roles=ROLES)
    with pytest.raises(Misuse, match="last 8 views"):
        mine.keys(first, "gates-dev")


def test_what_does_not_fit_its_own_files_is_no_view(bench: Bench) -> None:
    mine = bench.client()
    mine.refresh(bench.source, roles=ROLES)
    link = mine.workflow.generations.linked("complete")
    assert link is not None
    found = held_metadata(link, bench.repo.anchor)
    broken = session.Verified(found.signed, {**found.files, "targets": b"garbage"})
    with pytest.raises(Refused, match="what just verified"):
        mine._keep(broken, fresh=True)
    swapped = session.Verified(found.signed, {**found.files, "targets": found.files["dev-shop"]})
    with pytest.raises(Refused, match="the bytes that verified"):
        view_of(swapped, root_id=mine.root_id, fresh=True)
    no_root = session.Verified({**found.signed, Root.type: found.signed["targets"]}, found.files)
    with pytest.raises(Refused, match="root and targets"):
        view_of(no_root, root_id=mine.root_id, fresh=True)
    # A role that nobody delegates is in no view.
    more = {**found.signed, "stranger": found.signed["targets"]}
    view = view_of(session.Verified(more, found.files), root_id=mine.root_id, fresh=True)
    assert view.role("stranger") is None
    (link / "targets.json").unlink()
    with pytest.raises(Refused) as caught:
        held_metadata(link, bench.repo.anchor)
    assert caught.value.reason == "no-trust"


def test_a_floor_that_is_high_enough_is_not_written_again(bench: Bench) -> None:
    mine = bench.client()
    mine.refresh(bench.source, roles=ROLES)
    before = mine.workflow.floors()
    mine.raise_floors(versions={"root": 1}, time=0)
    assert mine.workflow.floors() == before


def test_a_disk_that_fails_before_the_first_file_leaves_what_was_trusted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.refresh()

    def full(*_: object, **__: object) -> ClockedUpdater:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("embrasure.trust.workflow.session.ClockedUpdater", full)
        bench.gate()
        with pytest.raises(EmbrasureError) as caught:
            bench.refresh()
    assert caught.value.thing == "trust anchor"
    assert bench.refresh().roles["gates-dev"].version == bench.repo.versions["gates-dev"]
    with pytest.raises(Refused, match="the file just stored"):
        session._stored(bench.folder, "nothing", 1)


def test_a_role_that_its_parent_does_not_name_is_not_loaded(bench: Bench, tmp_path: Path) -> None:
    generation, mine = tmp_path / "generation", bench.client()
    (generation / "root_history").mkdir(parents=True)
    updater = ClockedUpdater(
        generation, bench.repo.anchor, SourceFetcher(bench.source), at=bench.time(),
        url=mine.workflow.url, known_root=0,
    )  # fmt: skip
    updater.refresh()
    with pytest.raises(RepositoryError):
        updater._load_targets("stranger", "targets")
    assert "stranger" not in updater.parents


@pytest.mark.parametrize(
    ("problem", "kind", "reason"),
    [
        (DownloadHTTPError("no", 404), NotFound, "not-found"),
        (DownloadHTTPError("no", 500), Away, "unavailable"),
        (DownloadLengthMismatchError("long"), Refused, "limit"),
        (DownloadError("cut"), Away, "unavailable"),
        (OSError(5, "Input/output error"), Failed, "io"),
        (RepositoryError("odd"), Refused, "bad-metadata"),
    ],
)
def test_what_python_tuf_raises_becomes_ours(
    problem: Exception, kind: type[EmbrasureError], reason: str
) -> None:
    found = explained(problem, "file")
    assert isinstance(found, kind)
    assert found.reason == reason


def test_times_are_looked_for_in_whatever_json_there_is() -> None:
    for value in ("2026-02-30T00:00:00Z", 7, None, ["2026-02-30T00:00:00Z"]):
        check_times(value, "document")  # no member that is a time
    with pytest.raises(Refused) as found:
        check_times([[{"issued": "2026-02-30T00:00:00Z"}]], "document")
    assert found.value.reason == "bad-schema"


def test_the_first_decision_may_be_made_ready_more_than_once() -> None:
    make_ready()
    make_ready()
