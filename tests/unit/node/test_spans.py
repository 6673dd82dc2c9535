"""What each state may take: never less than its own time-outs, and never without an end."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embrasure import limits
from embrasure.bundle.manifest import Hook, Manifest, TcpProbe
from embrasure.errors import Refused
from node.deadline import armed
from node.journal import Journal, parse_line, write_line
from node.spans import Allowed, Content, check_spans, is_shared, needed_s, span_s
from node.states import BACK, HARMLESS, OPEN, RESTING, State
from tests.ablation import Ablation
from tests.simulate.installer import SimInstaller
from tests.simulate.releases import make_release
from tests.simulate.sweep_install import sign_of_life
from tests.unit.node.records import make_record
from tests.unit.node.test_state_deadlines import cut_at

# As the version before wrote it.
_ONE = {"id": "1-" + "0" * 16, "manifest": f"{1:064x}", "plan": "f" * 56 + "00000001", "seq": 1}
_TWO = {"id": "2-" + "0" * 16, "manifest": f"{2:064x}", "plan": "f" * 56 + "00000002", "seq": 2}
_RECORD = {
    "v": 1, "app": "shop", "attempt": 1, "back": {**_ONE, "wave": 0}, "back_denied": False,
    "began": 0, "boot": "0" * 32, "collect": "0" * 64, "confirm": "none", "confirm_by": None,
    "detail": "", "ending": "", "final": 0, "gseq": 1, "interruptions": 0, "migrated": "no",
    "nonce": "0" * 32, "nonce_hash": "", "reason": "", "retry_at": 0, "since": 0, "soaked_s": 0,
    "starts": 3, "state": "probing", "to": {**_TWO, "wave": 0}, "transitions": 0, "try_number": 1,
    "tx": "0" * 32,
}  # fmt: skip
_SUM = "2ea20298f8d9804ec0bf83054d63187f56bc3e6b0199a9fc7bc1aff178b1b8b0"
OLD = json.dumps({"record": _RECORD, "sum": _SUM}, sort_keys=True, separators=(",", ":"))

BASE = make_release(
    "shop", {"code/main.py": b"x"}, version="1", argv=("python3", "code/main.py")
).manifest
POINTS = ("check", "prepare", "migrate", "finish", "revert")
HOOK_OF = {
    State.WAITING: "check",
    State.PREPARING: "prepare",
    State.QUIESCING: "migrate",
    State.COMMITTED: "finish",
    State.ROLLING_BACK: "revert",
}
probes = st.builds(
    TcpProbe, port=st.just("web"), interval_ms=st.integers(10, 60_000),
    timeout_ms=st.integers(10, 60_000), start_s=st.integers(1, 3600), passes=st.integers(1, 100),
)  # fmt: skip
manifests = st.builds(
    lambda seconds, found: msgspec.structs.replace(
        BASE, probes=tuple(found),
        hooks=tuple(Hook(point=p, argv=("x",), timeout_s=s) for p, s in seconds.items()),
    ),
    st.dictionaries(st.sampled_from(POINTS), st.integers(1, limits.HOOK_SECONDS)),
    st.lists(probes, min_size=1, max_size=4),
)  # fmt: skip
WITHOUT_END = RESTING | {State.PROVISIONAL, State.REJECTED, State.ROLLED_BACK}


def allowed(to: Manifest | None, back: Manifest | None, soak_s: int = 0) -> Allowed:
    return Allowed(
        fetch_s=limits.FETCH_SECONDS, build_s=limits.BUILD_SECONDS,
        to=None if to is None else Content(to, soak_s),
        back=None if back is None else Content(back, soak_s),
    )  # fmt: skip


@given(manifests, manifests, st.integers(0, limits.SOAK_SECONDS))
def test_a_state_has_room_for_its_own_time_outs_and_an_end(
    to: Manifest, back: Manifest, soak_s: int
) -> None:
    known, unknown = allowed(to, back, soak_s), allowed(None, None)
    for state in State:
        span, most = span_s(state, known), span_s(state, unknown)
        assert (span is None) == (most is None) == (state in WITHOUT_END)
        if span is not None and most is not None:
            asked = sum(h.timeout_s for h in to.hooks if h.point == HOOK_OF.get(state))
            assert asked < span <= most
    probing = span_s(State.PROBING, known)
    assert probing is not None and probing > soak_s + min(
        needed_s(to.probes), limits.PROBING_SECONDS
    )


def test_only_states_that_end_each_other_share_their_time() -> None:
    for before in State:
        for after in State:
            if is_shared(before, after):
                kinds = [HARMLESS, OPEN, BACK]
                assert sum(before in kind and after in kind for kind in kinds) == 1
                assert span_s(before, allowed(None, None)) == span_s(after, allowed(None, None))


@given(st.lists(probes, min_size=1, max_size=4))
def test_a_release_that_could_never_pass_in_time_is_refused(found: list[TcpProbe]) -> None:
    manifest = msgspec.structs.replace(BASE, probes=tuple(found))
    if needed_s(found) <= limits.PROBING_SECONDS:
        check_spans(manifest)
    else:
        with pytest.raises(Refused, match="probes that pass"):
            check_spans(manifest)


@pytest.mark.misuse
def test_such_a_release_touches_nothing_on_a_node(tmp_path: Path, ablation: Ablation) -> None:
    bench = SimInstaller(tmp_path, inner=True)
    slow = msgspec.structs.replace(sign_of_life(), timeout_ms=1_900_000)
    bench.publish(release=bench.make("1.0", probes=[slow]))
    assert bench.poll() == "rejected trust"
    assert "probes that pass within 3600 s" in bench.acceptor._ground.journal.records()[0].detail
    with ablation("the look at what a release asks for") as attack:
        attack.without("node.install.spans.check_spans")
        bench.publish(release=bench.make("2.0", probes=[slow]))
        attack.succeeded(bench.poll() == "committed")
    bench.close()


# Records of the version before


def test_a_record_of_the_version_before_is_read_and_written_back_byte_for_byte() -> None:
    record = parse_line(OLD.encode())
    assert (record.v, record.state, record.by) == (1, State.PROBING, msgspec.UNSET)
    assert write_line(record).decode() == OLD


def test_each_version_has_one_form() -> None:
    new, old = make_record(State.PROBING, by=armed(5)), parse_line(OLD.encode())
    assert parse_line(write_line(new)) == new
    for bad in (
        {"v": 1, **{k: v for k, v in msgspec.to_builtins(new).items() if k != "v"}},
        {**msgspec.to_builtins(old), "v": 2},
        {**msgspec.to_builtins(new), "v": 3},
    ):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(bad, type(new), strict=True)


@pytest.mark.parametrize("state", [State.PROBING, State.ROLLING_BACK, State.COMMITTED])
def test_an_install_that_the_version_before_left_open_comes_to_rest(
    tmp_path: Path, state: State
) -> None:
    bench = SimInstaller(tmp_path, inner=True)
    bench.publish(release=bench.make("1.0", probes=[sign_of_life()]))
    assert bench.poll() == "committed"
    is_back = state is State.ROLLING_BACK
    mode = "crash" if is_back else "good"
    bench.publish(release=bench.make("2.0", mode, probes=[sign_of_life()]))
    cut_at(bench, state)
    journal = Journal(bench.paths)
    record = journal.read(bench.app).record
    assert record is not None
    journal.write(msgspec.structs.replace(record, v=1, by=msgspec.UNSET))
    assert b'"by"' not in (bench.paths.journal / "shop.json").read_bytes()
    bench.open()
    record = journal.read(bench.app).record
    assert record is not None and record.state is State.IDLE
    assert record.ending == ("rolled_back" if is_back else "committed")
    assert record.v == 2
    bench.close()
