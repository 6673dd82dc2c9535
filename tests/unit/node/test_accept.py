"""One door: what is approved installs, what fails goes back, what is repeated does nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from nacl.bindings import sodium_unpad
from nacl.public import SealedBox

from embrasure import limits
from embrasure.bundle.manifest import Hook, Manifest
from embrasure.errors import EmbrasureError, NotFound, Unavailable
from embrasure.trust import canonical
from embrasure.trust import decide as deciding
from embrasure.trust.client import TrustClient
from embrasure.trust.receipt import Kind, Outcome, Ran, Reason, chain_hash
from node.states import State
from tests.ablation import Ablation
from tests.simulate.installer import SimInstaller, Told
from tests.simulate.sources import BrokenSource, DeadSource, MemorySource


def state_of(bench: SimInstaller) -> tuple[str, str, str]:
    record = bench.acceptor._ground.journal.read(bench.app).record
    assert record is not None
    return record.state, record.ending, record.reason


def folders(bench: SimInstaller) -> list[str]:
    return sorted(path.name for path in bench.paths.releases(bench.app).iterdir())


def pid_of(bench: SimInstaller) -> int:
    found = bench.supervisor.running(bench.app)
    assert found is not None
    return found.pid


def hooks(**points: tuple[str, ...]) -> Mapping[str, tuple[Hook, ...]]:
    made = tuple(Hook(point=p, argv=argv, timeout_s=5) for p, argv in points.items())  # type: ignore[arg-type]  # closed words
    return {"hooks": made}


def with_hooks(bench: SimInstaller, version: str, mode: str = "good", **points: str) -> None:
    """Publish a release whose hooks append their name to `shared/hooks`, then run a line of sh."""

    def change(manifest: Manifest) -> Manifest:
        lines = {
            point: ("sh", "-c", f'echo {point} >> "$EMBRASURE_SHARED/hooks"; {line}')
            for point, line in points.items()
        }
        return msgspec.structs.replace(manifest, **hooks(**lines))

    bench.publish(version, release=bench.make(version, mode, change=change))


def hooks_run(bench: SimInstaller) -> list[str]:
    path = bench.paths.shared(bench.app) / "hooks"
    return path.read_text().split() if path.exists() else []


# --- The way forward ---------------------------------------------------------------------------


def test_a_published_release_is_installed_and_answers(bench: SimInstaller) -> None:
    bench.publish("1.0")
    assert bench.poll() == "committed"
    assert bench.ask() == "1.0"
    assert [(r.kind, r.outcome, r.ran) for r in bench.told()] == [
        (Kind.HEALTHY, Outcome.OK, Ran.MAIN),
        (Kind.SOAKED, Outcome.OK, Ran.MAIN),
    ]
    assert state_of(bench) == (State.IDLE, "committed", "")
    assert len(bench.report.receipts) == 2
    assert bench.report.states[0] == "offered"
    assert bench.report.states[-1] == "idle"


def test_a_second_look_does_nothing_and_tells_the_same_receipts(running: SimInstaller) -> None:
    pid = pid_of(running)
    answer = running.acceptor.poll(running.source(), Told())[0]
    assert (answer.kind, answer.reason) == ("none", "done")
    kept = running.acceptor._ground.receipts.outbox.pending(10)
    assert list(answer.receipts) == [(one.signed, one.body) for one in kept]
    assert pid_of(running) == pid


def test_a_new_release_takes_over_and_the_old_one_stays_as_the_way_back(
    running: SimInstaller,
) -> None:
    running.publish("2.0")
    assert running.poll() == "committed"
    assert running.ask() == "2.0"
    assert len(folders(running)) == 2
    floor = running.acceptor._ground.floors.load().app(running.app)
    assert floor.committed is not None
    assert floor.previous is not None
    assert floor.committed.seq > floor.previous.seq


def test_old_releases_and_their_blobs_are_collected(running: SimInstaller) -> None:
    for number in range(2, 7):
        running.publish(f"{number}.0")
        assert running.poll() == "committed"
    assert len(folders(running)) == 3
    # Blobs that no release names stay for an hour: an install that was cut off may want them.
    assert len(blobs(running)) == 2 + 6
    running.clock.ahead += minutes(61)
    running.publish("7.0")
    assert running.poll() == "committed"
    # The server, the mode, and one version for each release that is left.
    assert len(blobs(running)) == 2 + 3


def blobs(bench: SimInstaller) -> list[Path]:
    return [path for path in bench.paths.blobs.rglob("*") if path.is_file()]


def test_the_app_gets_its_settings_and_cannot_be_told_another_port(bench: SimInstaller) -> None:
    def change(manifest: Manifest) -> Manifest:
        run = msgspec.structs.replace(
            manifest.run, env={"EMBRASURE_PORT_WEB": "1", "FROM": "manifest", "MINE": "x"}
        )
        return msgspec.structs.replace(manifest, run=run)

    bench.publish(release=bench.make("1.0", change=change), settings={"FROM": "plan"})
    assert bench.poll() == "committed"
    environment = Path(f"/proc/{pid_of(bench)}/environ").read_bytes().split(b"\0")
    assert f"EMBRASURE_PORT_WEB={bench.port}".encode() in environment
    assert b"FROM=plan" in environment
    assert b"MINE=x" in environment


def test_receipts_are_chained_and_only_the_collector_reads_their_bodies(
    running: SimInstaller,
) -> None:
    posted = running.acceptor._ground.receipts.outbox.pending(10)
    told = running.told()
    assert [one.rseq for one in told] == [1, 2]
    assert told[1].previous == chain_hash(posted[0].signed)
    assert told[1].body.hex() == canonical.sha256_hex(posted[1].body)
    opened = SealedBox(running.repo.collect).decrypt(posted[1].body)
    body = json.loads(sodium_unpad(opened, 1024))
    assert body["log"] == "listening, mode good\n"
    running.acceptor._ground.receipts.outbox.acknowledge(1)
    running.acceptor._ground.receipts.outbox.acknowledge(1)
    assert [r.rseq for r in running.told()] == [2]
    # A poll tells what nobody has taken; a gateway that orders again hears all of it.
    assert len(running.acceptor.poll(running.source(), Told())[0].receipts) == 1
    assert len(running.acceptor._installer.told(running.app, told[0].plan.hex())) == 2


# --- The way back ------------------------------------------------------------------------------


def test_a_bad_release_goes_back_to_the_last_committed_one(running: SimInstaller) -> None:
    running.publish("2.0", "bad")
    assert running.poll() == "rolled_back probe"
    assert running.ask() == "1.0"
    last = running.told()[-1]
    assert (last.outcome, last.reason, last.ran) == (
        Outcome.ROLLED_BACK, Reason.PROBE, Ran.PREVIOUS,
    )  # fmt: skip
    assert running.poll() == "hold quarantine"
    running.publish("3.0")
    assert running.poll() == "committed"
    assert running.ask() == "3.0"


@pytest.mark.misuse
@pytest.mark.parametrize("by", ["policy", "min_seq", "revocations"])
def test_a_denied_release_is_never_gone_back_to(
    running: SimInstaller, ablation: Ablation, by: str
) -> None:
    assert running.release is not None
    digest = running.release.digest
    if by == "revocations":
        running.repo.revoke(manifests=[digest])
    elif by == "policy":
        denied = running.repo.policies["dev"].denied
        changed = msgspec.structs.replace(denied, manifests=(digest,))
        running.repo.set_policy(denied=changed)
    else:
        assert running.plan is not None
        running.repo.set_policy(min_seq={"shop": running.plan.seq + 1})
    running.publish("2.0", "bad")
    assert running.poll() == "degraded probe"
    assert running.supervisor.running(running.app) is None
    assert not running.paths.current(running.app).is_symlink()
    running.restart()
    assert running.supervisor.running(running.app) is None
    # Without the guard the denied content would run again.
    running.publish("3.0", "bad")
    with ablation("the look at denials before the way back") as attack:
        attack.without("node.rollback.check_target", lambda *_, **__: None)
        assert running.poll() == "rolled_back probe"
        attack.succeeded(running.ask() == "1.0")


def test_a_first_release_that_fails_leaves_nothing_behind(bench: SimInstaller) -> None:
    bench.publish("1.0", "bad")
    assert bench.poll() == "rolled_back probe"
    assert bench.supervisor.running(bench.app) is None
    assert not bench.paths.current(bench.app).is_symlink()
    assert bench.told()[-1].ran is Ran.NONE
    bench.publish("2.0")
    assert bench.poll() == "committed"


def test_a_crash_loop_ends_after_three_starts_and_tells_its_last_words(
    running: SimInstaller,
) -> None:
    running.publish("2.0", "crash")
    assert running.poll() == "rolled_back crash-loop"
    assert running.ask() == "1.0"
    assert running.report.states.count("starting") == 3
    posted = running.acceptor._ground.receipts.outbox.pending(10)[-1]
    opened = sodium_unpad(SealedBox(running.repo.collect).decrypt(posted.body), 1024)
    assert b"out of luck" in opened


def test_a_release_that_fails_in_its_soak_goes_back(running: SimInstaller) -> None:
    running.publish("2.0", "late", soak_s=3)
    assert running.poll() == "rolled_back probe"
    assert running.ask() == "1.0"
    told = running.told()[-2:]
    # It was healthy for a while; that alone never opens a wave.
    assert [(r.kind, r.outcome) for r in told] == [
        (Kind.HEALTHY, Outcome.OK), (Kind.STATUS, Outcome.ROLLED_BACK),
    ]  # fmt: skip


def test_a_failing_prepare_never_stops_the_old_release(running: SimInstaller) -> None:
    pid = pid_of(running)
    with_hooks(running, "2.0", prepare="exit 1")
    assert running.poll() == "rolled_back hook"
    assert pid_of(running) == pid
    assert hooks_run(running) == ["prepare"]


def test_a_failing_prepare_asks_nothing_of_the_old_release(running: SimInstaller) -> None:
    """It does not answer at this moment, and nobody did anything to it: that calls no person."""
    pid = pid_of(running)
    with_hooks(running, "2.0", prepare="exit 1")
    os.kill(pid, signal.SIGSTOP)
    try:
        assert running.poll() == "rolled_back hook"
    finally:
        os.kill(pid, signal.SIGCONT)
    assert (pid_of(running), running.ask()) == (pid, "1.0")
    assert not {State.ROLLING_BACK, State.ROLLBACK_PROBING} & set(running.report.states)
    told = running.told()[-1]
    assert (told.outcome, told.reason, told.ran) == (
        Outcome.ROLLED_BACK, Reason.HOOK, Ran.PREVIOUS,
    )  # fmt: skip
    assert running.poll() == "hold quarantine"


def test_hooks_run_in_their_order(running: SimInstaller) -> None:
    with_hooks(running, "2.0", check="", prepare="", migrate="", finish="", revert="")
    assert running.poll() == "committed"
    assert hooks_run(running) == ["check", "prepare", "migrate", "finish"]


def test_a_migration_is_reverted_when_its_release_fails(running: SimInstaller) -> None:
    with_hooks(running, "2.0", "bad", migrate="", revert="")
    assert running.poll() == "rolled_back probe"
    assert hooks_run(running) == ["migrate", "revert"]
    assert running.ask() == "1.0"


def test_a_check_that_says_not_now_changes_nothing_and_burns_nothing(
    running: SimInstaller,
) -> None:
    pid = pid_of(running)
    with_hooks(running, "2.0", check='test -e "$EMBRASURE_SHARED/ready" || exit 75')
    assert running.poll() == "wait check"
    assert pid_of(running) == pid
    (running.paths.shared(running.app) / "ready").touch()
    assert running.poll() == "wait check"  # the app is asked again after a minute, not before
    assert hooks_run(running) == ["check"]
    running.clock.ahead = timedelta(seconds=61)
    assert running.poll() == "committed"


def test_a_failing_finish_never_undoes_a_commit(running: SimInstaller) -> None:
    with_hooks(running, "2.0", finish="exit 1")
    assert running.poll() == "committed"
    assert running.ask() == "2.0"


def test_a_failed_revert_is_told_and_needs_a_person_but_not_for_the_next_plan(
    running: SimInstaller,
) -> None:
    with_hooks(running, "2.0", "bad", migrate="", revert="exit 1")
    assert running.poll() == "degraded probe"
    assert running.told()[-1].reason is Reason.NO_TARGET
    running.publish("3.0")
    assert running.poll() == "committed"
    assert running.ask() == "3.0"


@pytest.mark.misuse
def test_a_stranger_on_the_port_cannot_pass_a_dead_release_off_as_well(
    running: SimInstaller, ablation: Ablation
) -> None:
    lazy = {"code/main.py": b"import time\ntime.sleep(60)\n"}
    running.publish("2.0", release=running.make("2.0", files=lazy))
    running.supervisor.stop(running.app)
    stranger = socket.create_server(("127.0.0.1", running.port))
    threading.Thread(target=answer_ok, args=(stranger,), daemon=True).start()
    answer = running.poll()
    # The port is still held, so the old release cannot come back either: that is told, too.
    assert answer == "degraded probe"
    running.publish("3.0", release=running.make("3.0", files=lazy))
    with ablation("who holds the port") as attack:
        attack.without("node.listening.is_held_by", lambda port, pids: True)
        attack.succeeded(running.poll() == "committed")
    stranger.shutdown(socket.SHUT_RDWR)
    stranger.close()


def answer_ok(server: socket.socket) -> None:
    while True:
        try:
            peer, _ = server.accept()
        except OSError:
            return
        with peer:
            peer.recv(4096)
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


# --- Sources that are broken or hostile --------------------------------------------------------


def test_a_cut_line_is_resumed_at_its_byte(running: SimInstaller) -> None:
    big = bytes(range(256)) * 4096
    running.publish("2.0", release=running.make("2.0", files={"code/big": big}))
    path = f"blobs/{canonical.sha256_hex(big)[:2]}/{canonical.sha256_hex(big)}"
    asked: list[tuple[str, int]] = []

    class Listening(MemorySource):
        def fetch(self, path: str, *, offset: int, limit: int) -> Iterator[bytes]:
            asked.append((path, offset))
            return super().fetch(path, offset=offset, limit=limit)

    broken = BrokenSource(MemorySource(running.repo.files), path, after=300_000)
    assert running.poll(broken) == "rejected fetch"
    assert running.ask() == "1.0"
    # Unreachable is never reported as failed.
    assert running.told()[-1].kind is Kind.SOAKED
    assert running.poll(Listening(running.repo.files)) == "committed"
    assert (path, 300_000) in asked


@pytest.mark.misuse
def test_a_tampered_blob_changes_nothing_and_the_honest_one_installs(
    running: SimInstaller, ablation: Ablation
) -> None:
    running.publish("2.0")
    digest = canonical.sha256_hex(b"2.0")
    path = f"blobs/{digest[:2]}/{digest}"
    hostile = MemorySource({**running.repo.files, path: b"6.6"})
    assert running.poll(hostile) == "rejected bad-hash"
    assert running.ask() == "1.0"
    assert running.poll() == "committed"
    with ablation("the hash of what came") as attack:
        # Who keeps what a source sends keeps this.
        attack.succeeded(b"".join(hostile.fetch(path, offset=0, limit=9)) == b"6.6")


def test_a_lost_server_raises_and_leaves_the_app_alone(running: SimInstaller) -> None:
    with pytest.raises(Unavailable):
        running.poll(DeadSource())
    with pytest.raises(NotFound):
        running.poll(MemorySource({}))
    assert running.ask() == "1.0"


@pytest.mark.misuse
def test_a_replayed_repository_is_refused(running: SimInstaller, ablation: Ablation) -> None:
    old = running.repo.frozen_source()
    running.publish("2.0")
    assert running.poll() == "committed"
    with pytest.raises(EmbrasureError) as caught:
        running.poll(old)
    assert caught.value.reason == "rollback"
    assert running.ask() == "2.0"
    with ablation("the memory of what was seen") as attack:
        fresh = TrustClient(
            running.paths.prefix / "fresh", running.repo.anchor, clock=running.clock
        )
        view = fresh.refresh(old, roles=("fleet-dev", "dev-shop"))
        attack.succeeded(view.roles["dev-shop"].version < running.repo.versions["dev-shop"])


@pytest.mark.misuse
def test_a_denial_stays_when_a_later_version_leaves_it_out(
    running: SimInstaller, ablation: Ablation
) -> None:
    release = running.make("2.0")
    running.repo.revoke(manifests=[release.digest])
    running.publish(release=release)
    assert running.poll() == "hold denied"
    running.repo.revoke()
    running.repo.publish()
    assert running.poll() == "hold denied"
    assert running.ask() == "1.0"
    with ablation("the step that asks for denials") as attack:
        rest = tuple(step for step in deciding._STEPS if step.__name__ != "_step_10_denied")
        attack.without("embrasure.trust.decide._STEPS", rest)
        attack.succeeded(running.poll() == "committed" and running.ask() == "2.0")


def test_a_denied_release_that_runs_keeps_running(running: SimInstaller) -> None:
    assert running.release is not None
    running.repo.revoke(manifests=[running.release.digest])
    running.repo.publish()
    assert running.poll() == "none done"
    running.restart()
    assert running.ask() == "1.0"


def test_a_refusal_is_told_once_as_an_alarm(running: SimInstaller) -> None:
    plan = running.publish("2.0")
    assert running.poll() == "committed"
    running.repo.set_plan(plan=msgspec.structs.replace(plan, title="another"))
    running.repo.publish()
    assert running.poll() == "refuse equivocation"
    assert (running.told()[-1].outcome, running.told()[-1].ran) == (Outcome.REFUSED, Ran.PREVIOUS)
    count = len(running.told())
    assert running.poll() == "refuse equivocation"
    assert len(running.told()) == count


def test_a_rotted_blob_is_fetched_again(running: SimInstaller) -> None:
    running.publish("2.0")
    digest = canonical.sha256_hex(b"good")
    path = running.paths.blobs / digest[:2] / digest
    path.chmod(0o644)
    path.write_bytes(b"evil")
    assert running.poll() == "rejected fetch"
    assert running.poll() == "committed"
    assert running.ask() == "2.0"


def test_a_full_disk_is_told_with_both_numbers_and_nothing_changes(
    running: SimInstaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.publish("2.0")
    with monkeypatch.context() as patch:
        patch.setattr(limits, "FREE_BYTES", limits.MAX_INTEGER)
        patch.setattr(limits, "FREE_PERCENT", 200)  # so much of the disk must stay free
        assert running.poll() == "rejected no-space"
        record = running.acceptor._ground.journal.read(running.app).record
        assert record is not None
        assert re.search(r"expected [0-9]+ free bytes, got [0-9]+", record.detail)
        assert running.told()[-1].reason is Reason.NO_SPACE
        assert running.ask() == "1.0"
        # Told once, then left alone for a minute.
        assert running.poll() == "wait later"
        running.clock.ahead += minutes(2)
    assert running.poll() == "committed"


def minutes(count: int) -> timedelta:

    return timedelta(minutes=count)


def test_an_app_whose_port_or_interpreter_the_owner_does_not_know_is_not_touched(
    running: SimInstaller,
) -> None:
    text = running.paths.app_toml(running.app).read_text()
    running.paths.app_toml(running.app).write_text(text.replace("python3 =", "python9 ="))
    running.publish("2.0")
    assert running.poll() == "rejected trust"
    assert running.ask() == "1.0"


# --- Stop and start ----------------------------------------------------------------------------


def test_a_node_starts_what_it_committed_with_every_server_down(running: SimInstaller) -> None:
    pid = pid_of(running)
    running.restart()
    assert running.ask() == "1.0"
    assert pid_of(running) != pid
    with pytest.raises(Unavailable):
        running.poll(DeadSource())


def test_a_node_without_its_trust_still_starts_what_it_committed(running: SimInstaller) -> None:
    running.close()
    for path in [*running.paths.tuf.rglob("*"), *running.paths.floors.rglob("*")]:
        if path.is_file() or path.is_symlink():
            path.unlink()
    running.paths.anchor.unlink()
    running.open()
    assert running.ask() == "1.0"
    with pytest.raises(EmbrasureError):
        running.poll()


def test_a_stop_in_the_soak_is_an_interruption_and_goes_on_later(running: SimInstaller) -> None:
    running.publish("2.0", soak_s=1)
    problem: list[BaseException] = []

    def work() -> None:
        try:
            running.poll()
        except Unavailable as caught:
            problem.append(caught)

    thread = threading.Thread(target=work)
    thread.start()
    while not running.report.receipts:  # `healthy` of this one: it soaks
        time.sleep(0.01)
    running.acceptor.stop()
    thread.join()
    assert isinstance(problem[0], Unavailable)
    assert problem[0].reason == "stopping"
    assert state_of(running)[0] == State.PROBING
    assert running.acceptor._ground.floors.load().app(running.app).tries == {}
    running.restart()
    assert running.ask() == "2.0"
    assert state_of(running) == (State.IDLE, "committed", "")
    assert [r.kind for r in running.told()[-2:]] == [Kind.HEALTHY, Kind.SOAKED]


def test_two_acceptors_of_one_node_are_refused(running: SimInstaller) -> None:
    with pytest.raises(Unavailable) as caught:
        running.open()
    assert caught.value.reason == "busy"


def test_a_second_call_meanwhile_is_busy(running: SimInstaller) -> None:
    caught: list[str] = []
    with running.acceptor._working():

        def other() -> None:
            try:
                running.poll()
            except Unavailable as problem:
                caught.append(problem.reason)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert caught == ["busy"]


def test_a_lost_link_is_made_again_at_the_next_start(running: SimInstaller) -> None:
    running.close()
    running.paths.current(running.app).unlink()
    running.open()
    assert running.ask() == "1.0"


def test_a_damaged_release_gives_way_to_the_one_before(running: SimInstaller) -> None:
    running.publish("2.0")
    assert running.poll() == "committed"
    running.close()
    (running.paths.current(running.app) / "code/main.py").unlink()
    running.open()
    assert running.ask() == "1.0"
