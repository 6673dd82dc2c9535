"""`embrasure rollout` as an operator types it, at a real gateway whose nodes all are away."""

from __future__ import annotations

import contextlib
import io
import time
from pathlib import Path
from typing import Any

import pytest

from embrasure.cli import main
from tests.simulate.office import Answer, Office, Running, verb

PLAN = "deadline_s = 2\n"


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Office:
    return Office.make(tmp_path_factory.mktemp("office") / "first")


@pytest.fixture
def mine(office: Office, tmp_path: Path) -> Office:
    return office.copy(tmp_path / "office")


def staffed(office: Office, running: Running) -> None:
    for person in ("anna", "ben", "carl"):
        office.as_person(person, running.port)


def proposed(office: Office, version: str = "1.0", text: str = PLAN) -> str:
    found = office.verb("release", "propose", office.bundle(version), "--plan",
                        office.plan_file(text), person="anna", signs=True)  # fmt: skip
    assert found.code == 0, found.told
    return str(found.body["plan"])


def approved(office: Office, version: str = "1.0", text: str = PLAN) -> str:
    plan = proposed(office, version, text)
    for person in ("ben", "carl"):
        assert office.approve(plan, person=person).code == 0
    return plan


def rollout(office: Office, *arguments: object) -> Answer:
    return office.verb("rollout", *arguments, person="anna")


def screen(office: Office, *arguments: object) -> tuple[int, str]:
    """Return exit code and stdout of a verb without --json."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        code = main([*map(str, arguments), "--context", str(office.context("anna"))])
    return code, out.getvalue()


@pytest.mark.timeout(120)
def test_a_roll_out_from_its_preview_to_its_abort(mine: Office) -> None:
    with mine.gateway() as running:
        staffed(mine, running)
        preview = rollout(mine, "plan", mine.plan_file(PLAN), "--bundle", mine.bundle("1.0"))
        assert preview.code == 0
        waves: Any = preview.body["waves"]
        assert (waves[0]["name"], len(waves[0]["nodes"]), waves[-1]["percent"]) == (
            "canary",
            1,
            100,
        )
        assert sum(len(wave["nodes"]) for wave in waves) == 3
        assert "release propose" in str(preview.body["next"])

        plan = approved(mine)
        name = plan.removeprefix("sha256:")[:16]
        started = rollout(mine, "start", "--plan", plan, "--detach")
        assert (started.code, started.body["schema"], started.body["id"]) == (
            0, "embrasure.rollout.status/1", name,
        )  # fmt: skip
        again = rollout(mine, "start", "--plan", plan, "--detach")
        assert (again.code, again.body["id"]) == (0, name)

        paused = rollout(mine, "pause", name[:8], "--reason", "lunch")
        assert (paused.code, paused.body["state"], paused.body["reason"]) == (0, "paused", "lunch")
        assert rollout(mine, "pause", name).code == 0
        waited = rollout(mine, "wait", name, "--timeout", "1s")
        assert (waited.code, waited.error["reason"]) == (5, "E_UNKNOWN")
        assert "still paused when last seen" in waited.error["got"]
        assert rollout(mine, "resume", name).body["state"] == "running"

        # Nobody can be dialled: halted for reach, which is no failure of the release.
        ended = rollout(mine, "wait", name)
        assert (ended.code, ended.body["state"]) == (1, "halted")
        assert "min_reached" in str(ended.body["reason"])
        assert ended.body["counts"] == {"pending": 2, "unreachable": 1}
        resumed = rollout(mine, "resume", name)
        assert (resumed.code, resumed.error["reason"]) == (3, "E_POLICY")
        retried = rollout(mine, "retry", name, "--unreachable", "--detach")
        assert (retried.code, retried.body["state"], retried.body["attempt"]) == (0, "running", 1)
        aborted = rollout(mine, "abort", name, "--reason", "enough")
        assert (aborted.code, aborted.body["state"]) == (0, "rolled_back")
        assert rollout(mine, "abort", name).code == 3

        listed: Any = rollout(mine, "list").body["rollouts"]
        assert [(row["id"], row["state"]) for row in listed] == [(name, "rolled_back")]
        code, text = screen(mine, "rollout", "status", name)
        assert code == 0
        assert "verdict  rolled back: seq 1 runs nowhere (enough)" in text
        code, text = screen(mine, "rollout", "list")
        assert name in text


def test_init_of_a_gateway_that_exists_takes_no_other_name_or_address(mine: Office) -> None:
    first = ("gateway", "init", mine.gateway_folder, "--trust", mine.trust)
    assert verb(*first, "--listen", "127.0.0.1:7443").code == 0
    held = (mine.gateway_folder / "gateway.toml").read_bytes()
    for option, value in (("--listen", "127.0.0.1:7444"), ("--name", "g2")):
        found = verb(*first, option, value)
        assert (found.code, "gateway.toml" in found.error["hint"]) == (2, True)
    assert verb(*first).code == 0
    assert verb(*first, "--listen", "127.0.0.1:7443", "--name", "g1").code == 0
    assert (mine.gateway_folder / "gateway.toml").read_bytes() == held


@pytest.mark.timeout(120)
def test_what_may_not_start_is_refused_with_one_clear_error(mine: Office) -> None:
    with mine.gateway() as running:
        staffed(mine, running)
        plan = proposed(mine)
        for digest, code, reason in (
            (plan[:20], 2, "E_USAGE"),
            ("sha256:" + "ab" * 32, 5, "E_NOT_FOUND"),
            (plan, 3, "E_PENDING_APPROVAL"),
        ):
            found = rollout(mine, "start", "--plan", digest, "--detach")
            assert (found.code, found.error["reason"]) == (code, reason), found.told
        assert rollout(mine, "status", "abcdef").code == 5
        assert rollout(mine, "status", "../../etc").code == 5
        assert rollout(mine, "retry", plan[7:23]).code == 2
        back = mine.verb("rollout", "rollback", "shop", "--env", "prod", person="anna", signs=True)
        assert back.code == 5
        wrong = mine.plan_file("wavez = 1\n")
        found = rollout(mine, "plan", wrong, "--bundle", mine.bundle("1.0"))
        assert (found.code, "wavez" in found.told) == (2, True)
        unsupported = mine.plan_file('fallback = "41"\n')
        found = rollout(mine, "plan", unsupported, "--bundle", mine.bundle("1.0"))
        assert (found.code, found.error["reason"]) == (3, "E_NOT_SUPPORTED")


@pytest.mark.timeout(120)
def test_a_gateway_that_goes_away_is_unknown_not_failed(
    mine: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.following.AWAY_SECONDS", 1.0)
    with mine.gateway() as running:
        staffed(mine, running)
        plan = approved(mine)
        name = plan.removeprefix("sha256:")[:16]
        assert rollout(mine, "start", "--plan", plan, "--detach").code == 0
    begin = time.monotonic()
    found = rollout(mine, "wait", name, "--timeout", "20s")
    assert (found.code, found.error["reason"]) == (5, "E_UNKNOWN")
    assert time.monotonic() - begin < 20
    # The roll-out is where it was when the gateway is back.
    with mine.gateway() as running:
        staffed(mine, running)
        assert rollout(mine, "status", name).body["id"] == name
