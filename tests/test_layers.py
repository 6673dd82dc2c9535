"""Imports point down only: a breached node or mirror holds no code that can sign for others."""

from __future__ import annotations

import ast

import pytest

from tests.source import PACKAGES, TOP, Module, imported, modules

# Who may import whom (docs/architecture.md); a package may always import itself.
MAY_IMPORT = {
    "embrasure": set[str](),
    "pki": {"embrasure"},
    "gateway": {"embrasure", "pki"},
    "mirror": {"embrasure"},
    "node": {"embrasure"},
    "demo": {"embrasure", "gateway", "mirror", "node", "pki"},
    "tools": {"demo", "embrasure", "gateway", "mirror", "node", "pki"},
}
OURS = {*PACKAGES, "drills", "tests", "tools"}

# The decision and its documents: bytes and a time in, a verdict out.
PURE = {"canonical", "decide", "directory", "documents", "dsse", "evidence", "gate", "layout",
        "manifest", "order", "plan", "policy", "receipt", "view", "waves"}  # fmt: skip
INPUT_AND_OUTPUT = {"asyncio", "grpc", "os", "pathlib", "random", "secrets", "shutil", "socket",
                    "sqlite3", "ssl", "subprocess", "tempfile", "threading", "time",
                    "urllib3", "logging"}  # fmt: skip


def violations(module: Module) -> list[str]:
    allowed = MAY_IMPORT[module.package] | {module.package}
    return [
        f"{module.at(item)} imports {name}"
        for name, item in imported(module)
        if (first := name.partition(".")[0]) in OURS and first not in allowed
    ]


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_imports_point_down_only(package: str) -> None:
    found = [line for module in modules(package) for line in violations(module)]
    assert not found, "\n".join(found)


def test_the_shared_core_and_node_and_mirror_never_name_a_signing_package() -> None:
    assert not MAY_IMPORT["node"] & {"pki", "gateway"}
    assert not MAY_IMPORT["mirror"] & {"pki", "gateway"}
    assert not MAY_IMPORT["embrasure"]


def test_the_install_decision_does_no_input_or_output() -> None:
    found = [
        f"{module.at(item)} imports {name}"
        for module in modules("embrasure/trust", "embrasure/bundle")
        if module.path.stem in PURE
        for name, item in imported(module)
        if name.partition(".")[0] in INPUT_AND_OUTPUT
    ]
    assert not found, "\n".join(found)


def test_only_the_command_table_imports_by_name() -> None:
    found = [module.name for module in modules(*PACKAGES) if "import_module" in module.text]
    assert found == ["embrasure/command.py"]


def test_an_import_of_a_higher_package_is_seen_wherever_it_hides() -> None:
    text = "def f():\n    from pki import signers\n    import gateway.run as run\n"
    module = Module(TOP / "node" / "hidden.py", text, ast.parse(text))
    assert violations(module) == [
        "node/hidden.py:2 imports pki.signers",
        "node/hidden.py:3 imports gateway.run",
    ]
