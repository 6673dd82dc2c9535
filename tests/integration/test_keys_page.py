"""The commands of docs/keys.md, run in the order in which they stand there."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest

from embrasure.cli import main
from pki.folder import TrustFolder
from tests.simulate.softhsm import PIN, SoftHsm
from tests.source import TOP

PAGE = (TOP / "docs" / "keys.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("embrasure ")
]
ASKS = ("keys hsm generate", "keys generate", "keys export", "pki ", "trust sign", "trust env",
        "trust app")  # fmt: skip
COSTS = ("keys generate", "pki init", "trust env", "trust app", "pki online")


def typed(line: str, secret: Path) -> list[str]:
    """What a person types, with the passphrase in a file and cheap key files."""
    words = shlex.split(line)[1:]
    verb = " ".join(words)
    if verb.startswith(ASKS):
        words += ["--passphrase-file", str(secret)]
    if verb.startswith(COSTS):
        words += ["--kdf", "moderate"]
    if verb.startswith("trust sign"):
        drafts = TrustFolder.open(Path(words[2])).drafts()
        words += [word for one in drafts for word in ("--confirm-digest", one.digest)]
    return words


@pytest.mark.long
@pytest.mark.timeout(180)
def test_the_page_is_true(hsm: SoftHsm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for label in ("root-1", "ca"):
        hsm.token(label)
    secret = tmp_path / "secret"
    secret.write_bytes(PIN)
    secret.chmod(0o600)
    monkeypatch.chdir(tmp_path)
    assert len(COMMANDS) > 15
    for line in COMMANDS:
        assert main(typed(line, secret)) == 0, line
    assert not (tmp_path / "second" / "ca" / "root.key").exists()
    assert "keyrecord:keys/snapshot-" in (tmp_path / "gateway" / "gateway.toml").read_text()
    assert os.environ["EMBRASURE_KEYS"].startswith(str(tmp_path))
