"""The journal: the newest whole record, whatever a crash or a worn disk did to the files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embrasure import limits
from embrasure.errors import EmbrasureError, Failed, NotSupported, Refused
from embrasure.fs import Folder
from node.journal import Journal, parse_line, write_line
from node.paths import Paths
from node.states import State
from tests.ablation import Ablation
from tests.unit.node.records import make_record


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    found = Paths(tmp_path)
    found.journal.mkdir(parents=True)
    return found


def test_what_was_written_is_read(paths: Paths) -> None:
    journal = Journal(paths)
    assert journal.read("shop").record is None
    journal.write(make_record(State.SWITCHING))
    journal.write(make_record(State.STARTING))
    assert journal.read("shop").record == make_record(State.STARTING)
    assert journal.read("other").record is None


def test_half_a_record_is_never_taken_for_a_state(paths: Paths) -> None:
    journal = Journal(paths)
    journal.write(make_record(State.SWITCHING))
    journal.write(make_record(State.STARTING))
    whole = (paths.journal / "shop.json").read_bytes()
    for cut in (0, 1, len(whole) // 2, len(whole) - 1):
        (paths.journal / "shop.json").write_bytes(whole[:cut])
        assert journal.read("shop").record == make_record(State.SWITCHING)


@pytest.mark.misuse
def test_a_flipped_bit_is_seen_and_without_the_sum_it_would_not_be(
    paths: Paths, ablation: Ablation
) -> None:
    raw = write_line(make_record(State.PROBING, starts=2))
    flipped = raw.replace(b'"starts":2', b'"starts":3')
    with pytest.raises(Refused):
        parse_line(flipped)
    sums = {parse_line(raw).starts: raw.split(b'"sum":"')[1][:64].decode()}
    with ablation("the digest of a record") as attack:
        attack.without("node.journal.digest", lambda record: sums[2])
        attack.succeeded(parse_line(flipped).starts == 3)


def test_a_record_under_another_apps_name_is_no_record(paths: Paths) -> None:
    (paths.journal / "other.json").write_bytes(write_line(make_record(State.PROBING)))
    found = Journal(paths).read("other")
    assert (found.record, found.damaged) == (None, True)


def test_two_damaged_files_are_reported_and_set_aside(paths: Paths) -> None:
    journal = Journal(paths)
    journal.write(make_record(State.SWITCHING))
    journal.write(make_record(State.STARTING))
    for path in paths.journal.iterdir():
        path.write_bytes(b"\x00" * 40)
    assert journal.read("shop").damaged
    journal.set_aside("shop")
    assert journal.read("shop") == type(journal.read("shop"))(None, False)
    assert {path.name for path in paths.journal.iterdir()} == {
        "shop.json.broken", "shop.prev.broken",
    }  # fmt: skip


def test_a_crash_between_the_renames_leaves_the_state_before(paths: Paths) -> None:
    journal = Journal(paths)
    journal.write(make_record(State.SWITCHING))
    with Folder.open(paths.journal) as folder:
        folder.rename("shop.json", folder, "shop.prev")
        folder.write("shop.next", [b"{"], mode=0o600)
    assert journal.read("shop").record == make_record(State.SWITCHING)
    journal.write(make_record(State.ROLLING_BACK))
    assert journal.read("shop").record == make_record(State.ROLLING_BACK)


def test_a_full_disk_gives_up_the_ballast_for_the_way_back(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(paths)
    journal.keep_ballast()
    assert (paths.journal / "ballast").stat().st_size == limits.BALLAST_BYTES
    real = Journal._put

    def full_unless_given_up(self: Journal, folder: Folder, app: str, raw: bytes) -> None:
        if folder.has("ballast"):
            raise Failed("journal", expected="room", got="none", reason="no-space")
        real(self, folder, app, raw)

    monkeypatch.setattr(Journal, "_put", full_unless_given_up)
    journal.write(make_record(State.ROLLING_BACK))
    assert journal.read("shop").record == make_record(State.ROLLING_BACK)
    # Without ballast the same write fails.
    monkeypatch.setattr(Journal, "_put", real)
    journal.keep_ballast()
    monkeypatch.setattr(Journal, "_put", full_unless_given_up)
    monkeypatch.setattr(Folder, "has", lambda self, name: name == "ballast")
    monkeypatch.setattr(Folder, "unlink", lambda self, name, missing_ok=False: None)
    with pytest.raises(Failed):
        journal.write(make_record(State.ROLLED_BACK))


@given(st.binary(max_size=400))
def test_any_bytes_are_a_record_or_a_typed_error(raw: bytes) -> None:
    with pytest.raises((Refused, NotSupported)):
        parse_line(raw)


@given(
    state=st.sampled_from(State),
    starts=st.integers(0, 3),
    detail=st.text(max_size=50),
    cut=st.integers(0, 5),
)
def test_every_record_comes_back_as_it_was(
    state: State, starts: int, detail: str, cut: int
) -> None:
    record = make_record(state, starts=starts, detail=detail)
    try:
        assert parse_line(write_line(record)) == record
    except EmbrasureError:
        assert not (detail.isascii() and detail.isprintable())  # hidden text is refused
