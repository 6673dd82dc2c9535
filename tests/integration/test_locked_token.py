"""A token that locks, for real: a TPM 2.0 counts wrong PINs and then refuses the right one, too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.simulate.softtpm import LABEL, PIN, TRIES, SoftTpm

KEY = f"hsm:50?label={LABEL}"  # tpm2_ptool writes an id as the text that it was given: "2" is 50


def secret(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.write_text(text)
    file.chmod(0o600)
    return file


@pytest.mark.long
def test_a_token_that_locked_is_said_and_works_again_once_its_owner_unlocked_it(
    softtpm: SoftTpm, tmp_path: Path
) -> None:
    right, wrong = secret(tmp_path, "right", PIN), secret(tmp_path, "wrong", "another passphrase")
    out = tmp_path / "public"

    def export(pin: Path) -> tuple[int, dict[str, Any]]:
        done = softtpm.embrasure("keys", "export", KEY, "alice", "--purpose", "security", "--out",
                                 out, "--passphrase-file", pin, "--json")  # fmt: skip
        lines = done.stderr.strip().splitlines() if done.returncode else done.stdout.splitlines()
        return done.returncode, json.loads(lines[-1])

    code, made = export(right)
    assert (code, made["scheme"]) == (0, "ecdsa-p256"), made
    assert softtpm.signs(KEY, right) == ""
    # A wrong PIN in a file uses up one try, not all of them.
    said = [softtpm.signs(KEY, wrong) for _ in range(TRIES)]
    assert all("expected its PIN, got another one" in line for line in said), said
    # The TPM itself says it now; no flag of the token does.
    for pin in (wrong, right):
        assert "a locked one: too many wrong PINs" in softtpm.signs(KEY, pin)
    code, told = export(right)
    assert (code != 0, told["reason"]) == (True, "E_TOKEN_LOCKED"), told
    assert "unlock it" in told["hint"]
    listed = softtpm.embrasure("keys", "hsm", "list", "--json")
    assert listed.returncode == 0 and LABEL in listed.stdout
    softtpm.unlock()
    assert softtpm.signs(KEY, right) == ""
