"""Help is quick and loads nothing heavy; every verb of the table exists and documents itself."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from embrasure.cli import TABLE, root
from embrasure.command import EXIT_CODES, LazyGroup
from embrasure.errors import EmbrasureError
from tools import commands_doc
from tools.commands_doc import entries

HEAVY = ("cryptography", "grpc", "msgspec", "nacl", "rich", "sqlalchemy", "tuf")
HELP_CPU_SECONDS = 0.150  # cli.md: 52 ms lazy, 449 ms with everything imported
RUN = """
import json, sys
from embrasure.cli import main
code = main(json.loads(sys.argv[1]))
loaded = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps({"code": code, "loaded": loaded}), file=sys.stderr)
"""
# One interpreter for all, which stops at the first that loads one.
RUN_ALL = """
import contextlib, io, json, sys
from embrasure.cli import main
heavy, loaded = set(json.loads(sys.argv[1])), {}
for path in json.loads(sys.argv[2]):
    with contextlib.redirect_stdout(io.StringIO()):
        assert main([*path, "--help"]) == 0, path
    found = {name.partition(".")[0] for name in sys.modules} & heavy
    loaded[" ".join(path)] = sorted(found)
    if found:
        break
print(json.dumps(loaded))
"""


def groups() -> Iterator[tuple[str, ...]]:
    """Yield the path of every group, the root as ()."""
    yield ()
    for path, where in entries():
        if isinstance(where, LazyGroup):
            yield path


def verbs() -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the path of every verb, and where it is."""
    for path, where in entries():
        if isinstance(where, str):
            yield path, where


def loaded_by(*arguments: str, code: int = 0) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(arguments)],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    *said, last = done.stderr.splitlines()
    report = json.loads(last)
    assert report["code"] == code, "\n".join(said)
    return set(report["loaded"])


def test_help_of_no_group_and_no_verb_loads_a_heavy_module() -> None:
    paths = sorted({*groups(), *{where.partition(":")[0]: p for p, where in verbs()}.values()})
    assert len(paths) > 50
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL, json.dumps(HEAVY), json.dumps(paths)],
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # The first that loads one ends it, and is named.
    assert json.loads(done.stdout) == {" ".join(path): [] for path in paths}


def test_the_test_sees_a_heavy_module_once_a_verb_runs() -> None:
    assert "msgspec" in loaded_by("release", "inspect", "/does/not/exist", code=2)


def test_help_takes_less_processor_time_than_a_person_notices() -> None:
    def spent() -> float:
        child = subprocess.Popen(
            [sys.executable, "-c", RUN, json.dumps(["--help"])],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == 0
        return usage.ru_utime + usage.ru_stime

    # The least of three: a shared machine only ever adds.
    assert min(spent() for _ in range(3)) < HELP_CPU_SECONDS


@pytest.mark.parametrize(("path", "where"), sorted(verbs()), ids=lambda item: str(item))
def test_every_verb_of_the_table_exists_and_has_its_help(path: tuple[str, ...], where: str) -> None:
    done = CliRunner().invoke(root, [*path, "--help"], prog_name="embrasure")
    assert done.exit_code == 0, (where, done.exception)
    assert "exit codes: " in done.output.lower(), "command.load adds them, if a verb has none"
    assert "--json" in done.output, f"{where} lacks @common"
    words = done.output.split()
    assert words.count("Examples:") + words.count("Example:") == 1, f"{where} lacks examples"


def test_the_table_gives_each_name_one_line_of_help() -> None:
    for line in (text for _, text in TABLE.values()):
        assert line.endswith(".") and "\n" not in line and len(line) <= 70


def test_every_group_says_its_exit_codes() -> None:
    for path in groups():
        group = root
        for name in path:
            inner = group.table[name][0]
            assert isinstance(inner, LazyGroup)
            group = inner
        assert group.epilog == EXIT_CODES


def test_the_page_of_commands_is_current() -> None:
    held = commands_doc.DOCUMENT.read_text(encoding="utf-8")
    assert held == commands_doc.document(), "run: python -m tools.commands_doc"


def test_exit_codes_in_help_are_those_of_the_errors() -> None:
    told = {int(code) for code in re.findall(r"\b([0-9]+) [a-z]", EXIT_CODES)}
    held = {kind.exit_code for kind in every_subclass(EmbrasureError)}
    assert told == held | {0, 6, 130}


def every_subclass(kind: type[EmbrasureError]) -> Iterator[type[EmbrasureError]]:
    for below in kind.__subclasses__():
        yield below
        yield from every_subclass(below)
