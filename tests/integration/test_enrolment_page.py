"""The commands of docs/enrolment.md, run in the order in which they stand there."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.fleet import free_ports
from demo.processes import Processes
from tests.source import TOP

PAGE = (TOP / "docs" / "enrolment.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("embrasure ")
]
BEFORE = """
pki init fleet --domain acme.test --keyholder alice --keyholder bob --keyholder carol --threshold 2 --generate --env prod --kdf moderate
trust app add shop fleet --env prod --operator anna --operator bea --operator carl --threshold 2 --min-soak 5 --max-second-percent 100 --generate --kdf moderate --sign fleet/keys/alice.key --sign fleet/keys/bob.key
"""  # noqa: E501 - as they are typed
AFTER = "pki issue operator/anna fleet --out anna --gateway 127.0.0.1:ADMIN"
SECRET = ("pki init", "pki enrol", "pki join", "pki retire", "pki issue", "trust app")
GATEWAY = ("pki join", "fleet ", "trust submit")


class Typist:
    """Types what the page says; secrets and the context come as options."""

    def __init__(self, folder: Path) -> None:
        self.processes = Processes(folder)
        first, second, *_ = free_ports()
        self.words = {"7001": str(first), "7002": str(second)}

    def type(self, line: str) -> dict[str, object]:
        for old in sorted(self.words, key=len, reverse=True):
            line = re.sub(rf"\b{old}\b", self.words[old], line)
        words = shlex.split(line)
        if line.startswith("node run"):
            self.serve(words, Path(words[3]) / "run" / "embrasure" / "ports.json")
            return {}
        if line.startswith(SECRET):
            words += ["--passphrase-file", "secret"]
        context = self.processes.folder / "anna" / "context.toml"
        found = self.processes.run(
            *words, "--json", timeout=120, context=context if line.startswith(GATEWAY) else None
        )
        if line.startswith("fleet recover"):
            # It is well, and shows another certificate than the one that would be dialled.
            assert "E_BOOT_CERTIFICATE" in found.err, found.err
            return {}
        assert found.code == 0, (line, found.err)
        return json.loads(found.out) if found.out else {}

    def serve(self, words: list[str], ports: Path) -> dict[str, object]:
        service = self.processes.start(words[-1], *words)
        return self.processes.wait_file(self.processes.folder / ports, service, 60)


@pytest.fixture
def typist(tmp_path: Path) -> Iterator[Typist]:
    found = Typist(tmp_path)
    secret = tmp_path / "secret"
    secret.touch(mode=0o600)
    secret.write_text("a passphrase of nothing worth stealing\n")
    (tmp_path / "rootfs" / "etc" / "embrasure").mkdir(parents=True)
    yield found
    found.processes.stop_all()


@pytest.mark.long
@pytest.mark.timeout(240)
def test_the_page_is_true(typist: Typist, tmp_path: Path) -> None:
    for line in BEFORE.strip().splitlines():
        typist.type(line)
    typist.type("gateway init gateway --trust fleet")
    run = ["gateway", "run", "gateway", "--passphrase-file", "secret"]
    ports = typist.serve(run, Path("gateway") / "ports.json")
    typist.words["ADMIN"] = str(ports["admin"])
    typist.type(AFTER)
    assert len(COMMANDS) > 15
    for line in COMMANDS:
        found = typist.type(line.removeprefix("embrasure "))
        if line.startswith("embrasure node init --root n1 "):
            typist.words["NODE"] = str(found["node"])
        elif line.startswith("embrasure pki token"):
            typist.words["NODE2"] = str(found["node"])
        elif line.startswith("embrasure pki join"):
            assert found["answered"] is True
    listed = typist.type("fleet list --env prod")["nodes"]
    assert isinstance(listed, list)
    rows = {row["id"]: row for row in listed}
    first, second = rows[typist.words["NODE"]], rows[typist.words["NODE2"]]
    assert (first["epoch"], first["state"], second["state"]) == (2, "active", "retired")
    assert first["labels"] == second["labels"] == {"site": "a"}
