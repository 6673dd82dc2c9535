"""Write `docs/commands.md` from the command table; run it after every change of a verb."""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click

from embrasure.cli import root
from embrasure.command import EXIT_CODES, LazyGroup, flags, load

TOP = Path(__file__).resolve().parent.parent
DOCUMENT = TOP / "docs" / "commands.md"

_HEAD = """# Commands

Every verb of `embrasure`, made by `python -m tools.commands_doc` from the help texts and tested to
be current. Results are on stdout, all else is on stderr.

{codes}
A host's own verbs (`embrasure node ...`) refine them; `--plain-exit` folds them back.

These flags may stand before or after any verb:

{flags}
"""


def entries() -> Iterator[tuple[tuple[str, ...], LazyGroup | str]]:
    """Yield the path of every group and verb, in the table's order, a group before its verbs."""
    yield from _below((), root)


def _below(
    path: tuple[str, ...], group: LazyGroup
) -> Iterator[tuple[tuple[str, ...], LazyGroup | str]]:
    for name, (where, _) in group.table.items():
        here = (*path, name)
        if isinstance(where, LazyGroup):
            yield here, where
            yield from _below(here, where)
        elif isinstance(where, str):
            yield here, where


def document() -> str:
    """Return the whole page; every verb is imported."""
    common = "\n".join(_option(option) for option in flags())
    parts = [_HEAD.format(codes=textwrap.fill(EXIT_CODES, 100), flags=common)]
    for path, where in entries():
        parts.append(_group(path, where) if isinstance(where, LazyGroup) else _verb(path, where))
    return "\n".join(parts)


def _group(path: tuple[str, ...], group: LazyGroup) -> str:
    return f"## {' '.join(path)}\n\n{group.help}\n"


def _verb(path: tuple[str, ...], where: str) -> str:
    command = load(where)
    shared = {option.name for option in flags()}
    own = [p for p in command.params if p.name not in shared]
    words = [_argument(p) for p in own if isinstance(p, click.Argument)]
    options = [p for p in own if isinstance(p, click.Option)]
    level = "##" if len(path) == 1 else "###"
    usage = " ".join(["embrasure", *path, *(["[OPTIONS]"] if options else []), *words])
    lines = [f"{level} `{usage}`", "", _text(command)]
    if options:
        lines += ["", *(_option(option) for option in options)]
    return "\n".join([*lines, ""])


def _argument(argument: click.Argument) -> str:
    name = argument.metavar or (argument.name or "").upper()
    name = f"{name}..." if argument.nargs != 1 and not name.endswith("...") else name
    return name if argument.required or name.startswith("[") else f"[{name}]"


def _text(command: click.Command) -> str:
    """Return the help, its examples as a block of code."""
    lines = inspect.cleandoc(command.help or "").replace("\b", "").splitlines()
    found: list[str] = []
    for line in lines:
        is_heading = line.strip() in ("Example:", "Examples:")
        found.append("" if is_heading else f"  {line}" if line.startswith("  ") else line)
    return re.sub(r"\n\n\n+", "\n\n", "\n".join(found)).strip()


def _option(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    marks = [
        mark for mark, on in (("required", option.required), ("repeatable", option.multiple)) if on
    ]
    told = f" ({', '.join(marks)})" if marks else ""
    return f"- {names}{told}: {option.help or ''}".rstrip(": ")


if __name__ == "__main__":
    (Path(sys.argv[1]) if len(sys.argv) > 1 else DOCUMENT).write_text(document(), encoding="utf-8")
