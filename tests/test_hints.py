"""An error that a node's owner meets at the command line says what to do next."""

from __future__ import annotations

import ast

import pytest

from tests.source import TOP

# What is raised here is read by whoever typed the command. Elsewhere it goes to a log, or to the
# other side of a connection, and is told by the verb that asked.
OWNERS = (
    "appfiles", "cli_hold", "cli_join", "cli_mend", "cli_pin", "cli_recover", "cli_repair",
    "config", "enrolment", "first_trust", "hold", "identity", "mending", "pins", "releases",
    "stick", "tokens", "units", "verify",
)  # fmt: skip


@pytest.mark.parametrize("name", OWNERS)
def test_an_error_of_the_owner_says_what_to_do_next(name: str) -> None:
    path = TOP / "node" / f"{name}.py"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            named = {word.arg for word in node.exc.keywords}
            assert "hint" in named or "expected" not in named, f"{path.name}:{node.lineno}"
