"""What closes the way back, by the rules of that very moment, and what never does."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from embrasure.trust.documents import digest
from embrasure.trust.policy import Policy
from node import hold
from node.states import State
from tests.ablation import Ablation
from tests.simulate.authority import Authority
from tests.simulate.doors import given, real_bundle
from tests.simulate.installer import Confirms, SimInstaller, Told
from tests.unit.node.test_way_back import everything

AUTHORITY = Authority()
Act = Callable[[SimInstaller], None]


class Meanwhile(Told):
    """A report that has `act` happen while the new release is probed."""

    def __init__(self, bench: SimInstaller, act: Act) -> None:
        super().__init__()
        self._bench, self._act = bench, act
        self.has_acted = False

    def progress(self, state: str, done: int, total: int) -> None:
        super().progress(state, done, total)
        if state == State.PROBING and not self.has_acted:
            self.has_acted = True
            self._act(self._bench)


def policy_says(change: Callable[[SimInstaller, Policy], dict[str, object]]) -> Act:
    """Return an act that brings a newer policy by the door."""

    def act(bench: SimInstaller) -> None:
        repo = bench.repo
        repo.set_bundle(real_bundle(repo, AUTHORITY))
        changes = change(bench, repo.policies[repo.env])
        repo.set_policy(**changes)  # type: ignore[arg-type]  # fields by name
        repo.publish()
        assert "fleet-dev" in bench.acceptor.trust(given(repo)).roles

    return act


def old_content(bench: SimInstaller) -> str:
    """Return the digest of the committed manifest."""
    committed = bench.acceptor._ground.floors.load().app(bench.app).committed
    assert committed is not None
    return committed.manifest


def denies_old(bench: SimInstaller, policy: Policy) -> dict[str, object]:
    return {"denied": msgspec.structs.replace(policy.denied, manifests=(old_content(bench),))}


def lifts_old(_: SimInstaller, policy: Policy) -> dict[str, object]:
    return {"denied": msgspec.structs.replace(policy.denied, manifests=())}


def above_old(bench: SimInstaller, _: Policy) -> dict[str, object]:
    assert bench.plan is not None
    return {"min_seq": {bench.app: bench.plan.seq}}


def ended(bench: SimInstaller, act: Act) -> str:
    """Return how a bad release ended, with `act` in the middle."""
    bench.publish("2.0", "bad")
    report = Meanwhile(bench, act)
    (answer,) = bench.acceptor.poll(bench.source(), report)
    assert report.has_acted
    return f"{answer.kind} {answer.reason}"


@pytest.mark.misuse
@pytest.mark.parametrize("change", [denies_old, above_old])
def test_a_policy_that_came_meanwhile_closes_the_way_to_what_it_names(
    running: SimInstaller,
    tmp_path: Path,
    ablation: Ablation,
    change: Callable[[SimInstaller, Policy], dict[str, object]],
) -> None:
    assert ended(running, policy_says(change)) == "degraded probe"
    # Nothing may run: neither the failed release nor the denied one, now or after a boot.
    for _ in range(2):
        assert running.supervisor.running(running.app) is None
        assert not running.paths.current(running.app).is_symlink()
        running.restart()
    with ablation("the look at the rules of that moment") as attack:
        attack.without("node.rollback.check_denied")
        other = SimInstaller(tmp_path / "other")
        try:
            other.publish("1.0")
            other.poll()
            attack.succeeded(
                ended(other, policy_says(change)) == "rolled_back probe" and other.ask() == "1.0"
            )
        finally:
            other.close()


@pytest.mark.misuse
def test_a_denied_release_does_not_take_the_place_of_one_that_was_destroyed(
    running: SimInstaller, tmp_path: Path, ablation: Ablation
) -> None:
    """A boot goes no way that a roll-back would not go."""

    def destroyed(bench: SimInstaller) -> None:
        policy_says(denies_old)(bench)  # while it runs
        bench.publish("2.0")
        assert bench.poll() == "committed"
        bench.close()
        (bench.paths.current(bench.app) / "code/main.py").unlink()
        bench.open()

    destroyed(running)
    for _ in range(2):
        assert running.supervisor.running(running.app) is None
        assert not running.paths.current(running.app).is_symlink()
        running.restart()
    running.publish("3.0")
    assert (running.poll(), running.ask()) == ("committed", "3.0")
    with ablation("the look at what is denied") as attack:
        attack.without("node.recovery.names_as_denied")
        other = SimInstaller(tmp_path / "other")
        try:
            other.publish("1.0")
            other.poll()
            destroyed(other)
            attack.succeeded(other.ask() == "1.0")
        finally:
            other.close()


def test_a_denial_that_was_lifted_meanwhile_opens_the_way_again(running: SimInstaller) -> None:
    policy_says(denies_old)(running)
    assert running.ask() == "1.0"  # a denial stops installs, never services
    assert ended(running, policy_says(lifts_old)) == "rolled_back probe"
    assert running.ask() == "1.0"


def test_floors_that_are_lost_in_the_middle_close_no_way_back(running: SimInstaller) -> None:
    def lose(bench: SimInstaller) -> None:
        shutil.rmtree(bench.paths.floors)

    assert ended(running, lose) == "rolled_back probe"
    assert running.ask() == "1.0"
    running.restart()
    assert running.ask() == "1.0"


def test_no_stop_hold_or_denial_of_others_keeps_an_unconfirmed_release(tmp_path: Path) -> None:
    bench = SimInstaller(tmp_path, mode="push")
    try:
        old = bench.publish("1.0")
        bench.acceptor.order(bench.order(oseq=1), bench.source(), Confirms(bench))
        bench.give_time(1)
        plan = bench.publish("2.0")
        assert bench.release is not None

        def stop_all(bench: SimInstaller) -> None:
            for app in (bench.app, hold.NODE):
                hold.put(bench.paths, app, seconds=3600, reason="nobody touches it")
            assert bench.release is not None
            denials = everything(bench, digest(old), digest(plan), bench.release.digest)
            bench.repo.revoke(**denials)  # type: ignore[arg-type]  # lists by name
            bench.repo.publish()
            bench.acceptor.trust(given(bench.repo))

        report = Meanwhile(bench, stop_all)
        answer = bench.acceptor.order(bench.order(oseq=10), bench.source(), report)
        assert report.has_acted
        assert (answer.kind, answer.reason, bench.ask()) == ("interrupted", "no-confirm", "1.0")
    finally:
        bench.close()


@pytest.mark.misuse
def test_a_first_install_that_nobody_confirms_leaves_nothing_that_runs(
    tmp_path: Path, ablation: Ablation
) -> None:
    bench = SimInstaller(tmp_path, mode="push", confirm_s=1)
    try:
        bench.publish("1.0")
        answer = bench.acceptor.order(bench.order(oseq=1), bench.source(), Told())
        assert (answer.kind, answer.reason) == ("interrupted", "no-confirm")
        assert bench.supervisor.running(bench.app) is None
        assert not bench.paths.current(bench.app).is_symlink()
        bench.restart()
        assert bench.supervisor.running(bench.app) is None
        with ablation("the removal of the link") as attack:
            attack.without("node.rollback.switch.remove", lambda app: None)
            bench.clock.ahead += timedelta(minutes=3)
            bench.publish("2.0")
            bench.acceptor.order(bench.order(oseq=10), bench.source(), Told())
            # What starts apps at boot goes by the link: it would start what was never confirmed.
            attack.succeeded(bench.paths.current(bench.app).is_symlink())
    finally:
        bench.close()
