"""What every verb has in common: the global flags, the two streams, and groups that import late."""

from __future__ import annotations

import functools
import importlib
import json as json_text
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import click

from embrasure.errors import Failed, Misuse, shown

R = TypeVar("R")

EXIT_CODES = (
    "Exit codes: 0 done, 1 failed, 2 usage, 3 denied by policy, 4 verification failed, "
    "5 unreachable or timed out, 6 partial roll-out, 130 interrupted."
)
_META = "embrasure.command"
_DURATION = re.compile(r"([0-9]{1,7}(?:\.[0-9]{1,3})?)(ms|s|m|h|d)?")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def screen(text: str) -> str:
    """Return `text` with every control, bidi and zero-width character escaped but line ends.

    The last gate in front of a terminal: an app's output or a title cannot move the cursor.
    """
    return "\n".join(shown(line, limit=max(1, len(line))) for line in text.split("\n"))


@dataclass(frozen=True, slots=True)
class Common:
    """The global flags of one call."""

    json: bool = False
    no_input: bool = False
    quiet: bool = False
    verbose: bool = False
    context: Path | None = None
    timeout_s: float | None = None

    def emit(self, schema: str, body: Mapping[str, object], text: str) -> None:
        """The result is on stdout: one JSON object under `--json`, else `text`."""
        if self.json:
            # ASCII only, so that nothing in a value can act on a terminal.
            click.echo(json_text.dumps({"schema": schema, **body}, allow_nan=False))
        elif text:
            click.echo(screen(text))

    def say(self, text: str) -> None:
        """`text` is on stderr, unless the user asked for quiet."""
        if not self.quiet:
            click.echo(screen(text), err=True)


def seconds(text: str) -> float:
    """Return the seconds of a duration such as `90`, `1.5s`, `10m`, `14d`; raises Misuse."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise Misuse("duration", expected="a number with ms, s, m, h or d", got=text)
    return float(match[1]) * _UNITS[match[2] or "s"]


def _keep(ctx: click.Context, param: click.Parameter, value: object) -> object:
    # One store for all levels, so that a flag may stand before or after the verb.
    if value not in (None, False) and param.name is not None:
        ctx.meta.setdefault(_META, {})[param.name] = value
    return value


def _keep_seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> object:
    try:
        return _keep(ctx, param, None if value is None else seconds(value))
    except Misuse as problem:
        raise click.BadParameter(str(problem), ctx, param) from None


def flags() -> list[click.Option]:
    """Return new options for the global flags; each keeps its value for the whole call."""

    def option(name: str, text: str) -> click.Option:
        return click.Option([name], is_flag=True, expose_value=False, callback=_keep, help=text)

    return [
        option("--json", "One JSON object on stdout."),
        option("--no-input", "Never ask; missing input is an error."),
        option("--quiet", "No progress on stderr."),
        option("--verbose", "Show where an error came from."),
        click.Option(
            ["--context"],
            metavar="FILE",
            expose_value=False,
            callback=_keep,
            help="The operator's context file.",
        ),
        click.Option(
            ["--timeout", "timeout_s"],
            metavar="DUR",
            expose_value=False,
            callback=_keep_seconds,
            help="Give up after this time.",
        ),
    ]


def read_flags(ctx: click.Context) -> Common:
    """Return the global flags of this call, from whatever level they stood at."""
    found: dict[str, object] = ctx.meta.get(_META, {})
    context = found.get("context") or os.environ.get("EMBRASURE_CONTEXT") or None
    timeout = found.get("timeout_s")
    return Common(
        json=bool(found.get("json")),
        no_input=bool(found.get("no_input")) or not _has_terminal(),
        quiet=bool(found.get("quiet")),
        verbose=bool(found.get("verbose")),
        context=Path(str(context)) if context is not None else None,
        timeout_s=timeout if isinstance(timeout, float) else None,
    )


def _has_terminal() -> bool:
    try:
        return sys.stdin is not None and sys.stdin.isatty()
    except ValueError:  # a closed stdin
        return False


def common(function: Callable[..., R]) -> Callable[..., R]:
    """The verb takes the global flags, and gets them as its argument `common`."""

    @functools.wraps(function)
    def with_flags(*args: object, **kwargs: object) -> R:
        return function(*args, common=read_flags(click.get_current_context()), **kwargs)

    # click reads this list from the innermost decorator outwards, so the flags are listed last.
    known: list[click.Parameter] = getattr(with_flags, "__click_params__", [])
    with_flags.__click_params__ = [*reversed(flags()), *known]  # type: ignore[attr-defined]  # click's own seam
    return with_flags


class LazyGroup(click.Group):
    """A group that lists its verbs from a table and imports one only when it runs.

    table: name -> (`module:attribute`, one line of help), or name -> (group, one line of help)
    """

    def __init__(self, name: str, table: Mapping[str, tuple[str | click.Group, str]], text: str):
        super().__init__(name, help=text, epilog=EXIT_CODES, params=[*flags()])
        self.table = dict(table)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the table's order; nothing is imported."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the verb, imported now; None when the table has no such name."""
        if cmd_name not in self.table:
            return None
        where, _ = self.table[cmd_name]
        return where if isinstance(where, click.Group) else load(where)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of verbs is written from the table; nothing is imported."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self.table.items()])


def load(where: str) -> click.Command:
    """Return the command at `module:attribute`, with the exit codes below its help.

    Raises Failed when this installation lacks the package or one that it needs.
    """
    command = attribute(where)
    if not isinstance(command, click.Command):
        raise Failed(where, expected="a command", got=type(command).__name__)
    command.epilog = command.epilog or EXIT_CODES
    return command


def attribute(where: str) -> object:
    """Return what stands at `module:attribute`, imported now; raises Failed (`not-installed`)."""
    module, _, name = where.partition(":")
    try:
        found: object = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as problem:
        raise Failed(
            where,
            expected="an installed package",
            got=problem,
            hint="this verb belongs to a role whose packages are not installed here",
            reason="not-installed",
        ) from problem
    return found
