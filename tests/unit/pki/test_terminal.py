"""A person at a terminal: the passphrase is asked twice and never echoed; a draft is confirmed."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

from embrasure.clock import now
from pki import denials, keyfile
from pki.folder import TrustFolder
from tests.simulate import ceremony, softhsm
from tests.simulate.softhsm import SoftHsm

SECRET = ceremony.PASSPHRASE.decode()
PROGRAM = [sys.executable, "-c", "import sys; from embrasure.cli import main; sys.exit(main())"]


def typed(*words: object, answers: list[tuple[str, str]]) -> tuple[int, str]:
    """Return exit code and all that was on the screen, when each prompt got its answer."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [*PROGRAM, *map(str, words)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=lambda: os.login_tty(theirs),
        close_fds=True,
    )
    os.close(theirs)
    screen, waiting = "", list(answers)
    try:
        end = time.monotonic() + 40
        while time.monotonic() < end:
            ready, _, _ = select.select([ours], [], [], 0.1)
            piece = _read(ours) if ready else b""
            if ready and not piece:
                break
            screen += piece.decode()
            if waiting and waiting[0][0] in screen.rpartition("\n")[2]:
                os.write(ours, f"{waiting.pop(0)[1]}\n".encode())
        return process.wait(timeout=10), screen
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 4096)
    except OSError:  # the other side has gone
        return b""


def test_a_new_passphrase_is_typed_twice_and_not_echoed(tmp_path: Path) -> None:
    prompts = [("new passphrase for", SECRET), ("the same again", SECRET)]
    code, screen = typed("keys", "generate", "anna", "--out", tmp_path, answers=prompts)
    assert code == 0, screen
    assert SECRET not in screen
    keyfile.open_bytes((tmp_path / "anna.key").read_bytes(), ceremony.PASSPHRASE)


def test_two_different_passphrases_make_no_key(tmp_path: Path) -> None:
    prompts = [("new passphrase for", SECRET), ("the same again", "something else")]
    code, _ = typed("keys", "generate", "anna", "--out", tmp_path, answers=prompts)
    assert code == 2 and not list(tmp_path.iterdir())


def test_a_draft_is_read_then_confirmed_by_its_digest_then_signed(
    first: Path, tmp_path: Path
) -> None:
    shutil.copytree(first, tmp_path / "trust")
    trust = TrustFolder.open(tmp_path / "trust")
    (draft,) = denials.renew(trust, "targets", clock=now)
    words = ["trust", "sign", trust.path, "--key", trust.path / "keys" / "alice.key"]
    code, screen = typed(*words, answers=[("first 8 digits", "00000000")])
    assert code == 3 and "role targets, version 2" in screen
    assert not list(draft.folder.glob("signatures/*"))
    prompts = [("first 8 digits", draft.digest[:8]), ("passphrase of alice", SECRET)]
    code, screen = typed(*words, answers=prompts)
    assert code == 0, screen
    assert SECRET not in screen and len(list(draft.folder.glob("signatures/*"))) == 1


def test_a_pin_is_typed_and_not_echoed_and_a_wrong_one_asked_again(
    hsm: SoftHsm, tmp_path: Path
) -> None:
    pin = softhsm.PIN.decode()
    label = hsm.token("typed-pin")
    words = ["keys", "hsm", "generate", "alice", "--token", label, "--purpose", "security"]
    prompts = [("PIN of token", "not this one"), ("PIN of token", pin)]
    code, screen = typed(*words, "--out", tmp_path, answers=prompts)
    assert code == 0, screen
    assert pin not in screen and "not this one" not in screen
    assert (tmp_path / "alice.pub").exists()
