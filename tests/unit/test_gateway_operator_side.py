"""An operator's machine: what it remembers, what it shows, and what it never signs."""

from __future__ import annotations

import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from embrasure.bundle.diff import diff
from embrasure.errors import Damaged, Denied, EmbrasureError, Misuse, NotFound, Refused
from gateway.address import check_address
from gateway.approving import check_confirmed, check_words
from gateway.context import read_context
from gateway.memory import Memory
from gateway.preview import preview
from gateway.records import FIRST, Head
from gateway.review import Review, review_text
from gateway.textdiff import SHOWN_BYTES, text_changes
from tests.ablation import Ablation
from tests.simulate.gateway import Draft, SimGateway
from tests.simulate.releases import make_release
from tests.simulate.repository import SimRepository

ROOT = "ab" * 32


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[SimGateway]:
    sim = SimRepository()
    sim.add_app("shop")
    for _ in range(3):
        sim.add_node()
    sim.publish()
    opened = SimGateway(tmp_path / "gateway", sim)
    yield opened
    opened.close()


@pytest.fixture
def draft(gateway: SimGateway) -> Draft:
    return gateway.draft()


# --- memory ------------------------------------------------------------------------------------


@pytest.mark.misuse
def test_a_second_content_under_one_version_is_refused_also_after_a_restart(
    tmp_path: Path, ablation: Ablation
) -> None:
    Memory(tmp_path, root=ROOT).remember("prod-shop", 7, "a" * 64)
    Memory(tmp_path, root=ROOT).remember("prod-shop", 7, "a" * 64)
    Memory(tmp_path, root=ROOT).remember("prod-shop", 8, "b" * 64)
    with pytest.raises(Denied) as caught:
        Memory(tmp_path, root=ROOT).remember("prod-shop", 7, "c" * 64)
    assert caught.value.reason == "second-content"
    with ablation("the memory of what was signed") as attack:
        (tmp_path / "signed.json").unlink()
        Memory(tmp_path, root=ROOT).remember("prod-shop", 7, "c" * 64)
        attack.succeeded("c" * 64 in (tmp_path / "signed.json").read_text())


def test_a_damaged_memory_or_one_of_another_fleet_is_not_taken_for_an_empty_one(
    tmp_path: Path,
) -> None:
    Memory(tmp_path, root=ROOT).remember("prod-shop", 7, "a" * 64)
    with pytest.raises(Damaged):
        Memory(tmp_path, root="cd" * 32).remember("prod-shop", 7, "b" * 64)
    (tmp_path / "signed.json").write_bytes(b"")
    with pytest.raises(Damaged):
        Memory(tmp_path, root=ROOT).remember("prod-shop", 9, "b" * 64)


def test_the_audit_head_is_kept(tmp_path: Path) -> None:
    memory = Memory(tmp_path, root=ROOT)
    assert memory.head() == FIRST
    memory.keep_head(Head(3, "c" * 64))
    assert Memory(tmp_path, root=ROOT).head() == Head(3, "c" * 64)


# --- review ------------------------------------------------------------------------------------


def review_of(gateway: SimGateway, draft: Draft) -> Review:
    grounds = gateway.grounds()
    entries = [node.entry() for node in gateway.sim.nodes.values()]
    found = preview(draft.release.plan, entries)
    said = check_words([draft.statement], draft.release, grounds, at=gateway.clock())
    text = review_text(draft.release, grounds, found, said, [])
    return Review(draft.release, grounds, found, said, text)


def test_the_screen_names_all_that_a_person_decides_on(gateway: SimGateway, draft: Draft) -> None:
    text = review_of(gateway, draft).text
    for word in (
        "anna proposes shop 1.0 for dev",
        "runs now: nothing yet",
        "would run: 1.0 (seq 1",
        "code/main (file, mode 0555",
        "run.argv",
        "probe 1",
        "soak 0 s",
        next(iter(gateway.sim.nodes)),
        "2 persons of: ben, carl (never anna",
        "propose by anna",
        f"plan     sha256:{draft.release.plan_digest}",
    ):
        assert word in text, word
    assert text.endswith(draft.release.plan_digest)  # the digest stays on the screen


def test_nothing_from_outside_can_move_the_cursor(gateway: SimGateway) -> None:
    evil = "code/\u200bmain"
    with pytest.raises(Refused):  # a manifest cannot even carry it
        make_release("shop", {evil: b"x"})
    lines = text_changes(
        diff(None, make_release("shop", {"code/main": b"\x1b[2Jboo\n\xe2\x80\xaeevil\n"}).manifest),
        lambda *_: b"\x1b[2Jboo\n\xe2\x80\xaeevil\n",
    )
    assert lines
    for line in lines:
        assert not any(unicodedata.category(c) in ("Cc", "Cf") for c in line)


def test_large_binary_and_missing_files_are_named_not_skipped() -> None:
    files = {
        "code/a": b"#!/bin/sh\n",
        "code/big": b"x" * (1 << 20),
        "code/bin": b"\x00\x01",
        "code/gone": b"gone",
        "config/latin": b"\xff\xfe",
    }
    release = make_release("shop", files, argv=("code/a",))

    def fetch(digest: str, length: int) -> bytes:
        if release.blobs[digest] == b"gone":
            raise NotFound("blob", expected="a blob", got="none")
        return release.blobs[digest]

    lines = text_changes(diff(None, release.manifest), fetch)
    assert any(line == "+#!/bin/sh" for line in lines)
    for name in ("code/big", "code/bin", "code/gone", "config/latin"):
        assert name in lines[-1]


def test_the_text_is_bounded_and_what_can_run_comes_first() -> None:
    body = b"".join(b"line %d\n" % n for n in range(3000))
    files = {f"config/{n:02}": body for n in range(10)} | {"code/main": b"#!/bin/sh\nhello\n"}
    release = make_release("shop", files)
    lines = text_changes(diff(None, release.manifest), lambda d, _: release.blobs[d])
    assert sum(map(len, lines)) < SHOWN_BYTES + 2000
    assert "proposed/code/main" in lines[1]
    assert "config/09" in lines[-1]


# --- the proposer's word -----------------------------------------------------------------------


@pytest.mark.misuse
@pytest.mark.parametrize("words", ["none", "another person", "an approval", "another release"])
def test_a_proposal_without_its_proposers_own_word_is_refused(
    words: str, gateway: SimGateway, draft: Draft, ablation: Ablation
) -> None:
    other = gateway.draft(by="ben", version="2.0")
    given = {
        "none": [],
        "another person": [gateway.statement(draft.release, "ben", "propose")],
        "an approval": [gateway.statement(draft.release, "anna", "approve")],
        "another release": [other.statement],
    }[words]
    with pytest.raises(Refused) as caught:
        check_words(given, draft.release, gateway.grounds(), at=gateway.clock())
    assert caught.value.reason == "unsigned-proposal"
    with ablation("the proposer's own word") as attack:
        # Who believes the plan believes any name in it.
        attack.succeeded(draft.release.plan.proposer == "anna")


def test_words_that_do_not_verify_are_not_shown(gateway: SimGateway, draft: Draft) -> None:
    garbage = [b"", b"{}", draft.statement[:-10], draft.statement]
    said = check_words(garbage, draft.release, gateway.grounds(), at=gateway.clock())
    assert [word.decision for word in said] == ["propose"]


# --- confirming --------------------------------------------------------------------------------


def test_a_person_types_eight_digits_and_a_script_all_of_them(
    gateway: SimGateway, draft: Draft
) -> None:
    review, digest = review_of(gateway, draft), draft.release.plan_digest
    check_confirmed(review, digest[:8], whole=False)
    check_confirmed(review, f"sha256:{digest}", whole=True)
    for typed in ("", digest[:7], digest[:9], "y", "yes", digest[8:16], digest.upper()):
        with pytest.raises(Denied):
            check_confirmed(review, typed, whole=False)
        with pytest.raises(Denied):
            check_confirmed(review, typed, whole=True)
    with pytest.raises(Denied):
        check_confirmed(review, digest[:8], whole=True)


# --- addresses and contexts --------------------------------------------------------------------


@pytest.mark.parametrize("text", ["10.0.0.1:1", "host.example:65535", "[::1]:443", "a:80"])
def test_addresses_that_can_be_dialled(text: str) -> None:
    assert check_address(text) == text


@pytest.mark.parametrize(
    "text",
    ["", "host", ":80", "host:", "host:0", "host:65536", "unix:/run/x:80", "unix:80/x", "a b:80",
     "http://x:80", "[::1:80", "[x]:80", "-x:80", "x:80\n", "dns:///x:80", "x,y:80", "xds:///a:1"],
)  # fmt: skip
def test_addresses_that_gRPC_would_take_for_something_else_are_refused(text: str) -> None:
    with pytest.raises(Misuse):
        check_address(text)


def test_a_context_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(Misuse, match="--context"):
        read_context(None)
    file = tmp_path / "context.toml"
    file.write_text('gateway = "127.0.0.1:1"\nverify = false\n')
    file.chmod(0o600)
    with pytest.raises(EmbrasureError) as caught:
        read_context(file)
    assert caught.value.exit_code == 2


OPERATORS = ("approving", "client", "context", "memory", "proposing", "review", "shown", "records")


@pytest.mark.parametrize("name", [f"gateway.{name}" for name in OPERATORS])
def test_an_operators_machine_loads_no_database(name: str) -> None:
    code = f"import sys, {name}; print('sqlalchemy' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
