"""Command-line options that the verbs of a node share; click only, so that `--help` stays quick."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

F = TypeVar("F", bound=Callable[..., object])


def node_options(function: F) -> F:
    """The verb takes `--root`."""
    option = click.option(
        "--root",
        "prefix",
        default="/",
        metavar="PREFIX",
        type=click.Path(file_okay=False, path_type=Path),
        help="Where the node lives; / in production.",
    )
    return option(function)


def token_options(function: F) -> F:
    """The verb takes `token_fd` and `token_file`: never a token itself."""
    fd = click.option(
        "--token-fd", type=click.IntRange(0, 1023), help="Read the join token from this descriptor."
    )
    file = click.option(
        "--token-file",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Read the join token from this file, which only you may read.",
    )
    return fd(file(function))
