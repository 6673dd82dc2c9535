"""The one command, and the one place where an error becomes an exit code.

Nothing below is imported before it runs, so `--help` is quick and loads no cryptography.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence

import click

from embrasure import __version__
from embrasure.command import LazyGroup, screen
from embrasure.errors import Denied, EmbrasureError, Failed, Misuse, Refused
from embrasure.verbs import TABLE as TABLE

INTERRUPTED = 130


root = LazyGroup(
    "embrasure", TABLE, "Deploy to a fleet without giving a breached server a way back."
)
root.params.append(
    click.Option(
        ["--version"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        help="Show the version.",
        callback=lambda ctx, _, value: _show_version(ctx) if value else None,
    )
)


def _show_version(ctx: click.Context) -> None:
    click.echo(f"embrasure {__version__}")
    ctx.exit(0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code of one call; whatever went wrong is told on stderr, in one form."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        ended = root.main(args=given, prog_name="embrasure", standalone_mode=False)
        sys.stdout.flush()
        return ended if isinstance(ended, int) and not isinstance(ended, bool) else 0
    except click.exceptions.NoArgsIsHelpError as problem:
        click.echo(problem.format_message(), err=True)
        return Misuse.exit_code
    except (click.Abort, KeyboardInterrupt) as problem:
        if isinstance(problem.__cause__, EOFError):
            return tell(given, _no_answer(), problem)
        return INTERRUPTED
    except BrokenPipeError:
        _drop_output()  # who reads it has gone, and knows
        return Failed.exit_code
    except Exception as problem:  # the last line of defence: never a traceback unasked
        _drop_output()
        return tell(given, as_ours(problem), problem)


def _drop_output() -> None:
    """What stdout cannot take is dropped: the flush at exit must not fail a second time."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def worst(problem: Exception) -> Exception:
    """Return the error of a group that decides: a failed verification before every other."""
    if not isinstance(problem, ExceptionGroup):
        return problem
    found = [worst(one) for one in problem.exceptions]
    ours = [one for one in found if isinstance(one, EmbrasureError)]
    refused = [one for one in ours if one.exit_code == Refused.exit_code]
    return [*refused, *ours, *found][0]


def as_ours(problem: Exception) -> EmbrasureError:
    """Return the error that says what `problem` says, in our form and with our exit code."""
    problem = worst(problem)
    if isinstance(problem, EmbrasureError):
        return problem
    if isinstance(problem, click.ClickException):
        ctx = getattr(problem, "ctx", None)
        path = ctx.command_path if ctx is not None else "embrasure"
        return Misuse(
            "command line",
            expected=f"the arguments of `{path}`",
            got=problem.format_message().rstrip("."),
            hint=f"{path} --help",
        )
    if isinstance(problem, OSError):
        return Failed(
            str(problem.filename) if problem.filename is not None else "system call",
            expected="an operation that the system allows",
            got=problem.strerror or type(problem).__name__,
            untouched="whatever was in force stays in force",
            reason="io",
        )
    return Failed(
        "embrasure",
        expected="no internal error",
        got=f"{type(problem).__name__}: {problem}",
        untouched="whatever was in force stays in force",
        hint="the same command with --verbose shows where; please report it",
        reason="internal",
    )


def _no_answer() -> EmbrasureError:
    return Denied(
        "input",
        expected="an answer",
        got="the end of the input",
        hint="run it on a terminal, or give the answer as a flag",
        reason="no-input",
    )


def tell(given: Sequence[str], error: EmbrasureError, cause: BaseException) -> int:
    """Return the exit code after the error is on stderr: as JSON under `--json`, else as text."""
    flags = given[: given.index("--")] if "--" in given else given
    if "--verbose" in flags:
        click.echo(screen("".join(traceback.format_exception(cause))), err=True)
    if "--json" in flags:
        click.echo(json.dumps(error.as_json()), err=True)
    else:
        first, *others = error.lines()
        click.echo(screen("\n".join([f"embrasure: {first}", *others])), err=True)
    return error.exit_code
