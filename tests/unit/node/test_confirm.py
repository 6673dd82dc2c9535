"""A release that a gateway ordered stays only if the gateway confirms it over a new connection."""

from __future__ import annotations

import re
import threading
from base64 import b64decode
from collections.abc import Callable, Iterator
from datetime import timedelta
from json import loads
from pathlib import Path

import msgspec
import pytest
from securesystemslib.signer import CryptoSigner

from embrasure import limits
from embrasure.clock import write_time
from embrasure.errors import EmbrasureError, Refused, Unavailable
from embrasure.trust.receipt import Kind, Outcome, Reason
from node import alone, deadline
from node.accept import Answer
from node.confirm_messages import AwaitsNote
from node.deadline import boot_id, uptime_ms
from node.journal import Journal
from node.records import NodeRecords
from node.states import Record, State, advance
from tests.ablation import Ablation
from tests.simulate.installer import Confirms, SimInstaller, Told

CONFIRM_S = 1  # where nobody confirms
LONG_S = 60  # where somebody does, on a busy machine


@pytest.fixture
def push(tmp_path: Path) -> Iterator[SimInstaller]:
    """A push node that runs release 1.0."""
    found = SimInstaller(tmp_path, mode="push")
    found.publish("1.0")
    assert found.acceptor.order(found.order(oseq=1), found.source(), Confirms(found)).kind
    assert found.ask() == "1.0"
    yield found
    found.close()


def record_of(bench: SimInstaller) -> Record:
    """Return what is on disk."""
    found = bench.acceptor._ground.journal.read(bench.app).record
    assert found is not None
    return found


def order(bench: SimInstaller, report: Told, *, seconds: int) -> Answer:
    """Return what became of an order for a new release that has so long to be confirmed."""
    bench.give_time(seconds)
    bench.publish("2.0")
    floor = max(bench.acceptor._ground.floors.load().oseq.values())
    return bench.acceptor.order(bench.order(oseq=floor + 1), bench.source(), report)


def test_a_release_stays_once_it_is_confirmed_and_then_it_is_told_soaked(
    push: SimInstaller,
) -> None:
    report = Confirms(push)
    answer = order(push, report, seconds=LONG_S)
    assert (answer.kind, push.ask()) == ("committed", "2.0")
    for thread in report.threads:
        thread.join()
    # Whoever confirms is answered at the end of the install, with all that it told.
    assert report.answers == ["done"]
    assert [r.kind for r in push.told()[-2:]] == [Kind.HEALTHY, Kind.SOAKED]
    record = record_of(push)
    assert (record.confirm, record.nonce_hash, record.confirm_by) == ("gateway", "", None)


def test_a_release_that_nobody_confirms_goes_back_and_no_try_is_burnt(push: SimInstaller) -> None:
    answer = order(push, Told(), seconds=CONFIRM_S)
    assert (answer.kind, answer.reason, push.ask()) == ("interrupted", "no-confirm", "1.0")
    last = push.told()[-1]
    assert (last.outcome, last.reason) == (Outcome.INTERRUPTED, Reason.NO_CONFIRM)
    assert push.acceptor._ground.floors.load().app(push.app).tries == {}
    # No quarantine: the same plan again a minute later, then two, and no sooner.
    later = push.acceptor.order(push.order(oseq=20), push.source(), Confirms(push))
    assert (later.kind, later.reason) == ("wait", "later")
    push.clock.ahead = timedelta(seconds=61)
    assert push.acceptor.order(push.order(oseq=30), push.source(), Told()).kind == "interrupted"
    assert round((record_of(push).retry_at - push.clock().timestamp()) / 60) == 2
    push.clock.ahead = timedelta(seconds=200)
    push.give_time(LONG_S)
    again = push.acceptor.order(push.order(oseq=40), push.source(), Confirms(push))
    assert (again.kind, push.ask()) == ("committed", "2.0")


def stolen(
    bench: SimInstaller, attack: Callable[[AwaitsNote], object], *, seconds: int = LONG_S
) -> tuple[str, str]:
    """Return how an install ends and what serves, if `attack` is all that happens meanwhile."""

    class Attacks(Told):
        def awaits(self, note: AwaitsNote) -> None:
            found = bench.acceptor.awaited(uptime_ms())
            assert found is not None

            def work() -> None:
                try:
                    attack(found)
                except EmbrasureError as problem:
                    said.append(problem.reason)

            thread = threading.Thread(target=work)
            thread.start()
            threads.append(thread)

    said: list[str] = []
    threads: list[threading.Thread] = []
    answer = order(bench, Attacks(), seconds=seconds)
    for thread in threads:
        thread.join()
    return answer.kind, ",".join(said)


def confirms(bench: SimInstaller, envelope: bytes, opened_ms: int | None = None) -> str:
    """Return the answer to this word."""
    at = uptime_ms() if opened_ms is None else opened_ms
    answer = bench.acceptor.confirm(envelope, bench.source(), opened_ms=at)
    if answer.kind == "refuse":
        raise Refused("order", expected="", got="", reason=answer.reason)
    return answer.reason


def strange_word(bench: SimInstaller, note: AwaitsNote) -> bytes:
    """Return the right word, signed by whoever stole the fetch process: it has the nonce."""
    keys = bench.repo.sign_with[f"gates-{bench.repo.env}"]
    honest, keys[0] = keys[0], CryptoSigner.generate_ed25519()
    try:
        return bench.confirmation(note)
    finally:
        keys[0] = honest


def unsealed(_: str, raw: bytes, keys: dict[str, object], *, limit: int) -> tuple[bytes, str]:
    """Return the payload and a key id, with no look at the signature."""
    return b64decode(loads(raw)["payload"]), next(iter(keys))


def past(bench: SimInstaller) -> dict[str, object]:
    """Return the times of an order whose life is over."""
    at = bench.clock() - timedelta(seconds=300)
    return {"issued": write_time(at), "expires": write_time(at + timedelta(seconds=60))}


ORDER, NAMES = "node.orderbook.check_order", "node.accept.check_names"
NONCE = "node.waits.check_nonce"
WORDS: list[tuple[dict[str, object], str, str]] = [
    ({"node_nonce": "0" * 64}, "bad-nonce", NONCE),
    ({"tx": "0" * 32}, "not-mine", NAMES),
    ({"plan": "0" * 64}, "not-mine", NAMES),
    ({"app": "other"}, "not-mine", NAMES),
    ({"action": "apply", "tx": None, "node_nonce": None}, "bad-schema", NAMES),
    ({"node": "n-" + "a" * 26}, "not-mine", ORDER),
    ({"node_epoch": 2}, "not-mine", ORDER),
    ({"env": "prod"}, "not-mine", ORDER),
    ({"oseq": 2}, "replay", ORDER),  # a word counts once: its number is used up
]


@pytest.mark.misuse
def test_a_word_that_is_not_exactly_the_one_confirms_nothing(
    push: SimInstaller, ablation: Ablation
) -> None:
    """All of them within one wait; then each guard's absence lets one of them through."""
    before, shown = uptime_ms(), []

    def all_of_them(note: AwaitsNote) -> None:
        for changes, reason, _ in [*WORDS, (past(push), "stale", ORDER)]:
            with pytest.raises(Refused) as caught:
                confirms(push, push.confirmation(note, **changes))
            assert caught.value.reason == reason, changes
        with pytest.raises(Refused) as caught:
            confirms(push, strange_word(push, note))
        assert caught.value.reason == "bad-signature"
        # Over a connection from before the switch the nonce is not even shown.
        old = push.acceptor.awaited(before)
        shown.append(old.nonce if old else None)
        with pytest.raises(Refused) as caught:
            confirms(push, push.confirmation(note), opened_ms=before)
        assert caught.value.reason == "old-connection"
        # A fetch process that speaks for a mirror: this is a push node's release.
        with pytest.raises(Refused) as caught:
            push.acceptor.look_again(push.source(), opened_ms=uptime_ms())
        raise caught.value

    assert stolen(push, all_of_them, seconds=4) == ("interrupted", "nothing-waits")
    assert (shown, push.ask()) == ([""], "1.0")

    def one(guard: str, attack: Callable[[AwaitsNote], object], instead: object = None) -> None:
        with ablation(guard) as attacking:
            attacking.without(guard, instead or (lambda *_, **__: None))
            push.clock.ahead += timedelta(seconds=90)
            attacking.succeeded(stolen(push, attack)[0] == "committed")

    for guard in (NONCE, NAMES, ORDER):
        changes = next(changes for changes, _, named in WORDS if named == guard)
        one(guard, lambda note, changes=changes: confirms(push, push.confirmation(note, **changes)))  # type: ignore[misc]  # bound early
    one(
        "node.orderbook.dsse.unseal",
        lambda note: confirms(push, strange_word(push, note)),
        unsealed,
    )
    one(
        "node.waits.is_new",
        lambda note: confirms(push, push.confirmation(note), opened_ms=before),
        lambda *_: True,
    )
    one(
        "node.waits.Waits.of",
        lambda _: push.acceptor.look_again(push.source(), opened_ms=uptime_ms()),
        lambda self, *_: self._open,
    )


@pytest.mark.misuse
def test_a_fetch_process_that_polls_by_itself_gets_no_release_past_the_gateway(
    push: SimInstaller, ablation: Ablation
) -> None:
    """Without an order it may have the node look; what is installed then still needs the word."""
    push.give_time(CONFIRM_S)
    push.publish("2.0")
    assert push.poll() == "interrupted no-confirm"
    assert push.ask() == "1.0"
    with ablation("the word that every install of a push node needs") as attacking:
        attacking.without("node.confirming.needs_word", lambda record: False)
        push.publish("3.0")
        attacking.succeeded(push.poll() == "committed" and push.ask() == "3.0")


def test_what_an_administrator_installs_by_hand_needs_nobodys_word(push: SimInstaller) -> None:
    push.publish("2.0")
    (answer,) = push.acceptor.poll(push.source(), Told(), is_local=True)
    assert (answer.kind, push.ask()) == ("committed", "2.0")


def interrupted(bench: SimInstaller) -> None:
    """The node was stopped while release 2.0 waited for its word."""

    class Stops(Told):
        def awaits(self, note: AwaitsNote) -> None:
            bench.acceptor._ground.halt.set()

    with pytest.raises(Unavailable, match="own end"):
        order(bench, Stops(), seconds=CONFIRM_S)
    assert record_of(bench).state is State.PROVISIONAL
    bench.close()


def another_boot(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's file says that the machine was started again."""
    path = folder / "boot_id"
    path.write_text("11111111-2222-4333-8444-555555555555\n")
    monkeypatch.setattr(deadline, "_BOOT_ID", path)


def test_after_a_boot_the_time_that_was_left_counts_and_then_the_old_release_runs(
    push: SimInstaller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(push)
    before, old = record_of(push), boot_id()
    another_boot(tmp_path, monkeypatch)
    push.open()  # recovery: started once more, probed, waits for what is left, goes back
    record = record_of(push)
    assert (record.ending, record.reason) == ("interrupted", "no-confirm")
    assert before.confirm_by is not None and record.confirm_by is not None
    assert (before.confirm_by.boot, record.confirm_by.boot) == (old, boot_id())
    assert record.confirm_by.span_ms == before.confirm_by.span_ms == CONFIRM_S * 1000
    assert record.starts == before.starts - 1
    assert (record.nonce_hash, push.ask()) != (before.nonce_hash, "2.0")
    assert push.ask() == "1.0"


def test_in_the_same_boot_the_time_goes_on_and_a_late_release_is_not_started_again(
    push: SimInstaller,
) -> None:
    interrupted(push)
    threading.Event().wait(CONFIRM_S)
    push.open()
    record = record_of(push)
    assert (record.ending, record.reason, push.ask()) == ("interrupted", "no-confirm", "1.0")
    # The stop gave the first one back; one that was started again would have used another.
    assert record.starts == limits.STARTS


def test_a_release_that_takes_the_machine_down_each_time_runs_out_of_starts(
    push: SimInstaller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(push)
    journal = push.acceptor._ground.journal
    record = record_of(push)
    assert record.starts == limits.STARTS
    # As a machine leaves it that goes down in the middle of the next start.
    journal.write(advance(record, State.STARTING, starts=1, final=record.since + 1))
    another_boot(tmp_path, monkeypatch)
    push.open()
    assert (record_of(push).ending, push.ask()) == ("interrupted", "1.0")


def test_without_an_agent_a_release_that_was_not_confirmed_goes_once_its_time_is_over(
    push: SimInstaller,
) -> None:
    interrupted(push)
    (app,) = NodeRecords(push.paths).state().apps
    assert re.fullmatch("stays if the gateway confirms it within [01] s", app.detail)
    found = alone.undo(push.paths)
    assert (found.left, found.undone) == ((push.app,), ())  # the agent could still come back
    threading.Event().wait(CONFIRM_S)
    found = alone.undo(push.paths)
    assert (found.undone, found.is_running) == ((push.app,), False)
    record = Journal(push.paths).read(push.app).record
    assert record is not None and (record.ending, record.reason) == ("interrupted", "no-confirm")
    assert alone.undo(push.paths) == alone.Undone()  # twice is once
    push.open()
    assert push.ask() == "1.0"


def test_with_an_agent_that_runs_nothing_is_undone(push: SimInstaller) -> None:
    journal, record = Journal(push.paths), record_of(push)
    journal.write(msgspec.structs.replace(record, state=State.PROBING))
    assert alone.undo(push.paths).is_running
    assert record_of(push).state is State.PROBING


def test_an_install_that_a_dead_agent_left_in_the_middle_is_not_gone_on_with(
    push: SimInstaller,
) -> None:
    interrupted(push)
    journal = Journal(push.paths)
    record = journal.read(push.app).record
    assert record is not None
    journal.write(msgspec.structs.replace(record, state=State.PROBING, confirm_by=None))
    # As a kill leaves it between the two renames of a record.
    current = push.paths.journal / f"{push.app}.json"
    current.rename(current.with_suffix(".prev"))
    assert alone.undo(push.paths).undone == (push.app,)
    push.open()
    assert push.ask() == "1.0"
