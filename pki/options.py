"""Command-line options that several verbs share; click only, so that `--help` stays quick."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

F = TypeVar("F", bound=Callable[..., object])


def passphrase_options(function: F) -> F:
    """The command takes `passphrase_fd` and `passphrase_file`: never a passphrase itself."""
    fd = click.option(
        "--passphrase-fd",
        type=click.IntRange(0, 1023),
        help="Read the passphrase from this descriptor.",
    )
    file = click.option(
        "--passphrase-file",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Read it from this file, which only you may read.",
    )
    return fd(file(function))


def kdf_option(function: F) -> F:
    """The command takes `kdf`: how much a guess at the passphrase costs."""
    return click.option(
        "--kdf",
        type=click.Choice(["moderate", "sensitive"]),
        default=None,
        help="Cost of one passphrase guess; default: sensitive (1 GiB, 5 s) for offline keys.",
    )(function)


def sign_option(function: F) -> F:
    """The command takes `sign`: key files that sign at once."""
    return click.option(
        "--sign",
        multiple=True,
        metavar="KEYFILE",
        help="Sign with this key now (repeat); enough of them put the change in force.",
    )(function)


def next_key_option(function: F) -> F:
    """The command takes `uri`: where the new key lies already."""
    return click.option(
        "--key", "uri", metavar="URI", help="Its key lies in a token or key service already."
    )(function)
