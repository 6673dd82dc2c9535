"""docs/ceremonies.md, command for command: root, operators and online keys are rotated on a living
fleet of two environments, whose nodes install before, during and after.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.fleet import free_ports
from gateway.states import ENDED
from tests.simulate.softhsm import SoftHsm, softhsm_session
from tests.simulate.typist import PASSPHRASE, TOP, Typist, commands, environment

__all__ = ["softhsm_session"]
PAGE = TOP / "docs" / "ceremonies.md"
PORTS = ("7443", "7001", "7002", "7501", "7502", "7503", "7504", "8001", "8002", "8003")
STAGING, PUSH, PULL = "8001", "8002", "8003"


@pytest.fixture
def typist(tmp_path: Path, softhsm_session: SoftHsm) -> Iterator[Typist]:
    secret = tmp_path / "passphrase"
    secret.touch(mode=0o600)
    secret.write_text(PASSPHRASE + "\n")
    (tmp_path / "embrasure").symlink_to(TOP)
    (tmp_path / "rehearsal").mkdir()
    words = {"$(command -v python3)": sys.executable, "PIN": f"'{PASSPHRASE}'"}
    words |= dict(zip(PORTS, map(str, free_ports()), strict=False))
    found = Typist(
        tmp_path / "rehearsal", environment(tmp_path, softhsm_session.environment), words
    )
    yield found
    found.stop()


def lines_of(section: str) -> list[str]:
    """The commands of one numbered section of the page."""
    text = PAGE.read_text(encoding="utf-8")
    start = text.index(f"### {section}")
    ends = [text.find(mark, start + 4) for mark in ("\n### ", "\n## ")]
    end = min(place for place in ends if place > 0)
    return commands(text[start:end])


def rotate(typist: Typist, section: str) -> tuple[str, str]:
    """Type a section whose roll-out runs while new trust files arrive; return the roll-out's state
    just before they were published, and just after.
    """
    before = after = ""
    for line in lines_of(section):
        status = ("rollout", "status", typist.words.get("ID", ""), "--context",
                  "people/dora/context.toml")  # fmt: skip
        if line.startswith("embrasure trust submit"):
            before = str(typist.ask(*status)["state"])
        typist.type(line)
        if line.startswith("embrasure trust submit"):
            after = str(typist.ask(*status)["state"])
    return before, after


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_the_walk_through_of_the_page_is_true(typist: Typist) -> None:
    start = time.monotonic()
    seen = [line for number in range(1, 10) for line in lines_of(f"{number}. ")]
    assert seen == commands(PAGE.read_text(encoding="utf-8")), (
        "each command is in a numbered section"
    )
    for number in (1, 2, 3, 4, 5):
        for line in lines_of(f"{number}. "):
            found = typist.type(line)
            if line == "embrasure trust pending fleet":
                (root, *_) = found["drafts"]
                wanted = {key["person"]: key for key in root["needs"][0]["keys"]}
                assert set(wanted) == {"bob", "dave", "erin"}
                assert "insert token 'root-erin'" in wanted["erin"]["where"]
    running = {port: typist.version_at(port, wanted="1.0") for port in (STAGING, PUSH, PULL)}
    assert set(running.values()) == {"1.0"}
    schemes = {role["role"]: role for role in typist.ask("trust", "show", "fleet")["roles"]}
    assert schemes["root"]["threshold"] == 3 and len(schemes["root"]["owners"]) == 5
    for section, version in (("6. ", "1.1"), ("7. ", "1.2"), ("8. ", "1.3")):
        before, after = rotate(typist, section)
        assert before not in ENDED, f"{section}published too late: {before}"
        assert after == "succeeded" or after not in ENDED
        now = {port: typist.version_at(port, wanted=version) for port in (PUSH, PULL)}
        assert set(now.values()) == {version}, (section, now)
    assert typist.version_at(STAGING) == "1.0"
    for line in lines_of("9. "):
        typist.type(line)
    assert typist.version_at(STAGING, wanted="1.3") == "1.3"
    roles = {role["role"]: role for role in typist.ask("trust", "show", "fleet")["roles"]}
    assert (roles["root"]["version"], roles["root"]["threshold"]) == (4, 4)
    print(f"figure: ceremony_commands = {typist.typed} commands")
    print(f"figure: ceremony_walk_through = {time.monotonic() - start:.0f} s")
