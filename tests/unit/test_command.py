"""The one command: flags on every level, two streams, one form of error, known exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from embrasure import cli
from embrasure.command import Common, LazyGroup, common, load, screen, seconds
from embrasure.errors import (
    Damaged,
    Denied,
    EmbrasureError,
    Failed,
    Misuse,
    NotFound,
    NotSupported,
    Refused,
    Unavailable,
)
from tests.ablation import Ablation

SEEN: list[Common] = []
OUTCOME: list[Exception | int | None] = [None]


@click.command()
@click.argument("words", nargs=-1)
@common
def act(common: Common, words: tuple[str, ...]) -> int | None:
    """Do what the test wants."""
    SEEN.append(common)
    outcome = OUTCOME[0]
    if isinstance(outcome, Exception):
        raise outcome
    common.say("working")
    common.emit("embrasure.act/1", {"words": list(words)}, f"did {' '.join(words)}")
    return outcome


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The real command with one verb more, at two depths."""
    where = f"{__name__}:act"
    group = LazyGroup("inner", {"act": (where, "Act.")}, "Inner.")
    monkeypatch.setitem(cli.root.table, "act", (where, "Act."))
    monkeypatch.setitem(cli.root.table, "inner", (group, "Inner."))
    monkeypatch.delenv("EMBRASURE_CONTEXT", raising=False)
    SEEN.clear()
    OUTCOME[0] = None
    yield


def test_data_is_on_stdout_and_talk_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["act", "a", "b"]) == 0
    found = capsys.readouterr()
    assert (found.out, found.err) == ("did a b\n", "working\n")


def test_json_is_one_object_with_its_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["act", "--json", "a"]) == 0
    assert json.loads(capsys.readouterr().out) == {"schema": "embrasure.act/1", "words": ["a"]}


def test_quiet_silences_talk_and_not_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--quiet", "act"]) == 0
    found = capsys.readouterr()
    assert (found.out, found.err) == ("did \n", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--json", "--timeout", "2m", "--context", "c.toml", "inner", "act"],
        ["inner", "--json", "--timeout", "2m", "--context", "c.toml", "act"],
        ["inner", "act", "--json", "--timeout", "2m", "--context", "c.toml"],
        ["--json", "inner", "--timeout", "2m", "act", "--context", "c.toml"],
    ],
)
def test_a_flag_may_stand_before_or_after_the_verb(arguments: list[str]) -> None:
    assert cli.main(arguments) == 0
    assert (SEEN[0].json, SEEN[0].timeout_s, SEEN[0].context) == (True, 120.0, Path("c.toml"))


def test_the_last_flag_wins_and_beats_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBRASURE_CONTEXT", "env.toml")
    assert cli.main(["act"]) == 0
    assert cli.main(["--context", "a.toml", "act", "--context", "b.toml"]) == 0
    assert [one.context for one in SEEN] == [Path("env.toml"), Path("b.toml")]


def test_flags_of_one_call_do_not_reach_the_next() -> None:
    assert cli.main(["--json", "act"]) == 0
    assert cli.main(["act"]) == 0
    assert [one.json for one in SEEN] == [True, False]


def test_without_a_terminal_nothing_is_asked() -> None:
    assert cli.main(["act"]) == 0
    assert SEEN[0].no_input


FORM = {"expected": "x", "got": "y"}


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (Failed, 1),
        (Damaged, 1),
        (Misuse, 2),
        (Denied, 3),
        (NotSupported, 3),
        (Refused, 4),
        (Unavailable, 5),
        (NotFound, 5),
    ],
)
def test_each_class_of_error_has_its_exit_code(
    capsys: pytest.CaptureFixture[str], kind: type[EmbrasureError], code: int
) -> None:
    OUTCOME[0] = kind("thing", hint="do that", **FORM)
    assert cli.main(["act"]) == code
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("embrasure: thing: expected x, got y [E_")
    assert lines[1:] == ["untouched: nothing was changed", "hint: do that"]


def test_an_error_under_json_is_one_object_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    OUTCOME[0] = Refused("role prod", expected="2 persons", got="1", reason="threshold")
    assert cli.main(["--json", "act"]) == 4
    found = capsys.readouterr()
    assert found.out == ""
    body = json.loads(found.err)
    assert (body["schema"], body["code"], body["reason"]) == (
        "embrasure.error/1",
        4,
        "E_THRESHOLD",
    )


def test_a_verb_may_end_with_another_code() -> None:
    OUTCOME[0] = 6
    assert cli.main(["act"]) == 6


@pytest.mark.parametrize(
    "arguments",
    [["nothing"], ["act", "--nothing"], ["inner"], [], ["--timeout", "soon", "act"]],
)
def test_a_wrong_command_line_is_two(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert cli.main(arguments) == 2
    found = capsys.readouterr()
    assert found.out == "" and found.err


def test_a_misspelt_verb_is_told_with_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["release", "bild"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith("[E_USAGE]") and lines[2] == "hint: embrasure release --help"


def test_an_error_of_the_system_is_told_without_a_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    OUTCOME[0] = PermissionError(13, "Permission denied", "/etc/x")
    assert cli.main(["act"]) == 1
    error = capsys.readouterr().err
    assert "/etc/x" in error and "Permission denied" in error and "Traceback" not in error


def test_a_bug_is_told_without_a_traceback_and_with_one_when_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    OUTCOME[0] = KeyError("plan")
    assert cli.main(["act"]) == 1
    assert "Traceback" not in (error := capsys.readouterr().err) and "[E_INTERNAL]" in error
    assert cli.main(["act", "--verbose"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_of_several_errors_a_failed_verification_decides(
    capsys: pytest.CaptureFixture[str],
) -> None:
    inner = ExceptionGroup("b", [KeyError("x"), Refused("role", **FORM)])
    OUTCOME[0] = ExceptionGroup("a", [Unavailable("gateway", **FORM), inner])
    assert cli.main(["act"]) == 4
    assert capsys.readouterr().err.startswith("embrasure: role: expected x, got y")
    OUTCOME[0] = ExceptionGroup("a", [KeyError("x"), Unavailable("gateway", **FORM)])
    assert cli.main(["act"]) == 5


def test_the_end_of_the_input_is_a_missing_answer(capsys: pytest.CaptureFixture[str]) -> None:
    OUTCOME[0] = EOFError()
    assert cli.main(["act"]) == 3
    assert "[E_NO_INPUT]" in capsys.readouterr().err


def test_a_package_that_is_not_installed_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    cli.root.table["act"] = ("no_such_package.cli:act", "Act.")
    assert cli.main(["act"]) == 1
    assert "[E_NOT_INSTALLED]" in capsys.readouterr().err
    with pytest.raises(Failed):
        load("embrasure.command:seconds")


@pytest.mark.misuse
@pytest.mark.parametrize("evil", ["\x1bc", "\x07", "\r", "\u202e", "\u200b", "\x9b31m"])
def test_what_comes_from_outside_cannot_act_on_the_terminal(
    capsys: pytest.CaptureFixture[str], ablation: Ablation, evil: str
) -> None:
    assert cli.main(["act", f"a{evil}b"]) == 0
    assert evil not in capsys.readouterr().out
    assert cli.main(["--json", "act", f"a{evil}b"]) == 0
    assert evil not in capsys.readouterr().out
    OUTCOME[0] = KeyError(evil)
    assert cli.main(["act", "--verbose"]) == 1
    assert evil not in capsys.readouterr().err
    OUTCOME[0] = None
    with ablation("the rendering of outside text") as attack:
        attack.without("embrasure.command.screen", lambda text: text)
        assert cli.main(["act", f"a{evil}b"]) == 0
        attack.succeeded(evil in capsys.readouterr().out)


def test_lines_stay_lines() -> None:
    assert screen("a\nb\tc\n") == "a\nb\\tc\n"


@pytest.mark.parametrize(
    ("text", "value"), [("90", 90), ("1.5s", 1.5), ("200ms", 0.2), ("10m", 600), ("14d", 1_209_600)]
)
def test_durations(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "s", "-1s", "1 s", "1e3", "inf", "nan", "1w", "9" * 50])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(Misuse):
        seconds(text)


def run(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", f"import sys\nfrom embrasure import cli\n{code}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_an_interrupt_is_130_without_a_word() -> None:
    code = (
        "import click, signal, time\n"
        # A suite that was started in the background hands on that SIGINT is ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def wait():\n    print('ready', flush=True)\n    time.sleep(20)\n"
        "cli.root.add_command(click.Command('wait', callback=wait))\n"
        "cli.root.get_command = lambda ctx, name: cli.root.commands[name]\n"
        "sys.exit(cli.main(['wait']))"
    )
    with run(code) as child:
        assert child.stdout is not None and child.stderr is not None
        assert child.stdout.readline() == b"ready\n"
        child.send_signal(signal.SIGINT)
        assert child.wait(10) == 130
        assert b"Traceback" not in child.stderr.read()


def test_a_reader_that_has_gone_is_no_traceback() -> None:
    read, write = os.pipe()
    os.close(read)
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from embrasure import cli; sys.exit(cli.main())",
            "--help",
        ],
        stdout=write,
        stderr=subprocess.PIPE,
    ) as child:
        os.close(write)
        assert child.stderr is not None
        assert child.stderr.read() == b""
        assert child.wait(10) == 1


def test_a_full_disk_behind_stdout_is_told() -> None:
    with (
        Path("/dev/full").open("wb") as full,
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys; from embrasure import cli; sys.exit(cli.main())",
                "--help",
            ],
            stdout=full,
            stderr=subprocess.PIPE,
        ) as child,
    ):
        assert child.stderr is not None
        said = child.stderr.read()
        assert b"No space left" in said and b"Exception ignored" not in said
        assert child.wait(10) == 1
