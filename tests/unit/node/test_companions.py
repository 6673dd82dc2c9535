"""Units of systemd beside an app: what systemd may say of one, and what that proves."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embrasure.bundle.manifest import SystemdProbe
from embrasure.errors import Failed, Misuse
from node.companions import Companion, Shown, judge, parse_shown
from node.config import load_app
from tests.ablation import Ablation
from tests.simulate.installer import SimInstaller, quick_http

OLD, NEW, NEWER = "a" * 32, "b" * 32, "c" * 32
WELL = Shown("loaded", "active", NEW, 12, 0)
LINES = (
    "LoadState=loaded",
    "ActiveState=active",
    f"InvocationID={NEW}",
    "MainPID=12",
    "NRestarts=0",
)
PROBE = SystemdProbe(unit="worker", interval_ms=20, timeout_ms=1000, start_s=1, passes=1)
words = st.from_regex(r"[a-z][a-z-]{0,31}", fullmatch=True)
states = st.builds(
    Shown, words, words, st.sampled_from(["", OLD, NEW, NEWER]), st.integers(0, 2**32),
    st.integers(0, 2**32),
)  # fmt: skip


def printed(shown: Shown) -> bytes:
    """Return what systemctl prints of it."""
    return (
        f"MainPID={shown.pid}\nNRestarts={shown.restarts}\nLoadState={shown.load}\n"
        f"ActiveState={shown.active}\nInvocationID={shown.invocation}\n"
    ).encode()


@given(states)
def test_what_systemd_prints_is_read(shown: Shown) -> None:
    assert parse_shown(printed(shown)) == shown


@given(
    st.binary(max_size=300) | st.permutations(LINES).map(lambda lines: "\n".join(lines).encode())
)
def test_nothing_but_five_known_lines_is_read(raw: bytes) -> None:
    try:
        assert parse_shown(raw) == WELL
    except Failed as problem:
        assert problem.reason == "internal" and not raw.startswith(b"LoadState=loaded\nActive")


@pytest.mark.parametrize(
    "raw",
    [
        *("\n".join(LINES[:n] + LINES[n + 1 :]).encode() for n in range(len(LINES))),
        "\n".join((*LINES, LINES[0])).encode(),
        "\n".join((*LINES, "Extra=1")).encode(),
        "\n".join((*LINES[:3], "MainPID=-1", LINES[4])).encode(),
        "\n".join((*LINES[:2], "InvocationID=" + "B" * 32, *LINES[3:])).encode(),
        "\n".join(LINES).encode() + b"\n" * 5000,
        "\n".join(LINES).replace("active", "\N{CYRILLIC SMALL LETTER A}ctive").encode(),
    ],
)  # fmt: skip
def test_other_lines_are_refused(raw: bytes) -> None:
    with pytest.raises(Failed):
        parse_shown(raw)


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({}, ""),
        ({"pid": 0}, ""),  # Type=oneshot, RemainAfterExit=yes
        ({"load": "not-found"}, "not-found"),
        ({"load": "masked"}, "masked"),
        ({"active": "activating"}, "activating"),
        ({"active": "failed"}, "failed"),
        ({"invocation": ""}, "not started with the new release"),
    ],
)
def test_what_a_first_look_proves(changes: dict[str, object], wrong: str) -> None:
    assert judge(Companion(OLD), replace(WELL, **changes)) == wrong  # type: ignore[arg-type]  # by name


@pytest.mark.misuse
def test_a_unit_that_runs_on_from_before_proves_nothing(ablation: Ablation) -> None:
    old = replace(WELL, invocation=OLD)
    assert judge(Companion(OLD), old) == "not started with the new release"
    with ablation("the invocation of before") as attack:
        attack.succeeded(judge(Companion(""), old) == "")


@pytest.mark.parametrize("changes", [{"invocation": NEWER}, {"pid": 13}, {"restarts": 1}])
def test_a_restart_is_told_once_and_then_that_one_must_last(changes: dict[str, object]) -> None:
    held, again = Companion(OLD), replace(WELL, **changes)  # type: ignore[arg-type]  # by name
    assert judge(held, WELL) == "" and judge(held, WELL) == ""
    assert judge(held, again) == "started again by systemd"
    assert judge(held, again) == ""
    assert judge(held, replace(again, active="deactivating")) == "deactivating"
    assert judge(held, again) == ""


@given(st.lists(states, max_size=12))
def test_well_is_only_what_stays_as_it_was(seen: list[Shown]) -> None:
    held, before = Companion(OLD), None
    for now in seen:
        is_good = (
            now.load == "loaded" and now.active == "active" and now.invocation not in ("", OLD)
        )
        assert (judge(held, now) == "") == (is_good and before in (None, now))
        before = now if is_good else None


def test_a_node_without_the_unit_rejects_the_release_and_runs_on(running: SimInstaller) -> None:
    path = running.paths.app_toml(running.app)
    plain = path.read_text()
    path.write_text('units = { worker = "embrasure-test-nowhere-x.service" }\n' + plain)
    with pytest.raises(Misuse):  # none of our own
        load_app(running.paths, running.app)
    path.write_text('units = { worker = "nowhere-embrasure-test.service" }\n' + plain)
    made = running.make("2.0", probes=[quick_http(), PROBE])
    running.publish(release=made)
    assert running.poll() == "rejected no-systemd"
    assert "switching" not in running.report.states and running.ask() == "1.0"


def test_a_release_names_only_units_that_the_owner_gave(running: SimInstaller) -> None:
    running.publish(release=running.make("2.0", probes=[quick_http(), PROBE]))
    assert running.poll() == "rejected trust" and running.ask() == "1.0"


@pytest.mark.parametrize(
    "name", ["-H.service", "a.socket", "*.service", "a b.service", "embrasure-apply.service",
             "a/b.service", "a.service\n"],
)  # fmt: skip
def test_an_owner_gives_services_by_plain_names(running: SimInstaller, name: str) -> None:
    path = running.paths.app_toml(running.app)
    path.write_text(f"units = {{ worker = {msgspec.json.encode(name).decode()} }}\n")
    with pytest.raises(Misuse):
        load_app(running.paths, running.app)
