"""The figures of the style guide, measured with `ast` on everything but generated code."""

from __future__ import annotations

import ast
import re
import statistics
from collections.abc import Iterator

import pytest

from tests.source import PACKAGES, TOP, Function, Module, modules, product

FILE_LINES_MEDIAN, FILE_LINES_MAX = 220, 350
FUNCTION_LINES_MEDIAN, FUNCTION_LINES_P90 = 12, 40
DOCUMENTED_PERCENT = 95
WORST = 5

# Names that say nothing, and names of the standard library that would hide it.
BAD_NAMES = {"utils", "util", "common", "helpers", "misc", "types", "select", "ssl"}
SUPPRESSION = re.compile(
    r"#\s*(noqa|type:\s*ignore)(?P<code>:\s*[A-Z]+[0-9]+[A-Z0-9, ]*|\[[a-z, -]+\])?(?P<rest>.*)"
)


def length(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def worst_files(package: str) -> str:
    ranked = sorted(modules(package), key=lambda module: -module.lines)[:WORST]
    return "worst: " + ", ".join(f"{module.name} {module.lines}" for module in ranked)


def worst_functions(package: str) -> str:
    ranked = sorted(
        ((length(f), f"{m.at(f)} {f.name}") for m in modules(package) for f in m.functions()),
        reverse=True,
    )[:WORST]
    return "worst: " + ", ".join(f"{name} {lines}" for lines, name in ranked)


def percentile(values: list[int], share: float) -> int:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


@pytest.mark.parametrize("package", PACKAGES)
def test_files_are_short(package: str) -> None:
    lines = [m.lines for m in modules(package) if m.path.name != "__init__.py"]
    if lines:
        assert statistics.median(lines) <= FILE_LINES_MEDIAN, worst_files(package)
        assert max(lines) <= FILE_LINES_MAX, worst_files(package)


@pytest.mark.parametrize("package", PACKAGES)
def test_functions_are_short(package: str) -> None:
    lines = [length(function) for module in modules(package) for function in module.functions()]
    if lines:
        assert statistics.median(lines) <= FUNCTION_LINES_MEDIAN, worst_functions(package)
        assert percentile(lines, 0.9) <= FUNCTION_LINES_P90, worst_functions(package)


def test_every_function_says_what_it_returns_in_tests_too() -> None:
    missing = [
        f"{module.at(function)} {function.name}"
        for module in (*product(), *modules("tests", "tools"))
        for function in module.functions()
        if function.returns is None and function.name != "__init__"
    ]
    assert not missing, "\n".join(missing)


def public(module: Module) -> Iterator[ast.ClassDef | Function]:
    """Yield what others may use: no leading underscore on the way, nothing inside a function."""
    queue: list[ast.stmt] = list(module.tree.body)
    while queue:
        item = queue.pop()
        if isinstance(item, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if item.name.startswith("_"):
                continue
            yield item
            if isinstance(item, ast.ClassDef):
                queue.extend(item.body)


@pytest.mark.parametrize("package", PACKAGES)
def test_what_is_public_is_documented(package: str) -> None:
    found = [(module, item) for module in modules(package) for item in public(module)]
    bare = [f"{m.at(item)} {item.name}" for m, item in found if not ast.get_docstring(item)]
    share = len(found) * (100 - DOCUMENTED_PERCENT)
    assert len(bare) * 100 <= share, "\n".join(bare)


def test_every_file_says_in_its_first_line_what_it_is_for() -> None:
    silent = [
        module.name
        for module in (*product(), *modules("tools", "tests/simulate"))
        if module.text.strip() and not _opens_with_purpose(module)
    ]
    assert not silent, "\n".join(silent)


def _opens_with_purpose(module: Module) -> bool:
    doc = ast.get_docstring(module.tree)
    first = module.text.splitlines()[0]
    return bool(doc) and (first.startswith('"""') or first.startswith("#!"))


def test_no_file_has_a_name_that_says_nothing_or_hides_the_standard_library() -> None:
    assert [m.name for m in product() if m.path.stem in BAD_NAMES] == []


def test_every_suppression_names_its_rule_and_its_reason() -> None:
    unexplained = []
    for module in (*product(), *modules("tests", "tools")):
        for number, line in enumerate(module.text.splitlines(), start=1):
            match = SUPPRESSION.search(line)
            if match is None or module.path.name == "test_style.py":
                continue
            if not match["code"] or not re.search(r"[a-z]{3}", match["rest"]):
                unexplained.append(f"{module.name}:{number} {line.strip()}")
    assert not unexplained, "\n".join(unexplained)


def test_each_test_folder_is_a_package_and_proto_is_none() -> None:
    # Without the first, pytest takes `tests/unit/node` for `node`; the second would hide
    # proto-plus's package `proto`.
    folders = {path.parent for path in (TOP / "tests").rglob("test_*.py")}
    assert [str(f) for f in sorted(folders) if not (f / "__init__.py").exists()] == []
    assert not (TOP / "proto" / "__init__.py").exists()


def test_the_measure_of_a_function_counts_its_signature_and_body() -> None:
    tree = ast.parse("@a\n@b\ndef f(\n    x: int,\n) -> int:\n    return x\n")
    function = tree.body[0]
    assert isinstance(function, ast.FunctionDef)
    assert length(function) == 4
