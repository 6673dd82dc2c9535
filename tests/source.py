"""The project's own source, parsed once: what the tests of its rules look at."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
PACKAGES = ("demo", "embrasure", "gateway", "mirror", "node", "pki")
GENERATED = TOP / "embrasure" / "wire"

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Module:
    """One file: where, its text and its syntax tree."""

    path: Path
    text: str
    tree: ast.Module

    @property
    def package(self) -> str:
        """The first part of its path."""
        return self.path.relative_to(TOP).parts[0]

    @property
    def name(self) -> str:
        """The path below the project, for sentences."""
        return str(self.path.relative_to(TOP))

    @property
    def lines(self) -> int:
        """How many lines it has."""
        return len(self.text.splitlines())

    def functions(self) -> Iterator[Function]:
        """Yield every function and method, at any depth."""
        for item in nodes(self):
            if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
                yield item

    def at(self, item: ast.stmt | ast.expr) -> str:
        """Return `file:line` of a piece of the tree."""
        return f"{self.name}:{item.lineno}"


@functools.cache
def nodes(module: Module) -> tuple[ast.AST, ...]:
    """Return every piece of the tree, walked once for all tests."""
    return tuple(ast.walk(module.tree))


@functools.cache
def _parsed(path: Path) -> Module:
    text = path.read_text(encoding="utf-8")
    return Module(path, text, ast.parse(text, filename=str(path)))


def modules(*folders: str) -> tuple[Module, ...]:
    """Return every Python file below the folders but generated ones, sorted; each read once."""
    found = [path for folder in folders for path in sorted((TOP / folder).rglob("*.py"))]
    return tuple(_parsed(path) for path in found if not path.is_relative_to(GENERATED))


def product() -> tuple[Module, ...]:
    """Return the files that the wheel carries."""
    return modules(*PACKAGES)


def imported(module: Module) -> Iterator[tuple[str, ast.stmt | ast.expr]]:
    """Yield the absolute name of every import, also inside functions and under TYPE_CHECKING."""
    for item in nodes(module):
        if isinstance(item, ast.Import):
            for alias in item.names:
                yield alias.name, item
        elif isinstance(item, ast.ImportFrom):
            base = _absolute(module, item)
            for alias in item.names:
                yield f"{base}.{alias.name}", item
        elif isinstance(item, ast.Call) and dotted(item.func) == "importlib.import_module":
            for argument in item.args[:1]:
                if isinstance(argument, ast.Constant):
                    yield str(argument.value), item


def _absolute(module: Module, item: ast.ImportFrom) -> str:
    if not item.level:
        return item.module or ""
    parts = module.path.relative_to(TOP).with_suffix("").parts
    return ".".join([*parts[: -item.level], *([item.module] if item.module else [])])


def dotted(item: ast.expr) -> str:
    """Return `a.b.c` for a name or an attribute of one, else what could be read of it."""
    if isinstance(item, ast.Name):
        return item.id
    if isinstance(item, ast.Attribute):
        return f"{dotted(item.value)}.{item.attr}"
    return "?"


def calls(module: Module) -> Iterator[ast.Call]:
    """Yield every call."""
    for item in nodes(module):
        if isinstance(item, ast.Call):
            yield item
