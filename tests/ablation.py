"""Ablations: a test of a defence also shows that the attack succeeds without that one guard.

A test with the marker `misuse` takes the fixture `ablation`, shows the refusal, and then:

    with ablation("the check of the file's mode") as attack:
        attack.without("pki.keyfile.check_mode")  # only where no layer below can be called instead
        attack.succeeded(open_below(exposed) == SECRET)

A test with the marker that passes without a whole ablation fails, and so does one that uses the
fixture and has no marker.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest

MARKER, PROPERTY = "misuse", "ablation"


class Attack:
    """The same attack once more, with one guard gone."""

    def __init__(self, guard: str, patch: pytest.MonkeyPatch) -> None:
        self.guard = guard
        self.proofs = 0
        self._patch = patch

    def without(self, name: str, instead: object = lambda *_, **__: None) -> None:
        """Take the guard at this dotted name out until the block ends; it lets everything pass.

        Only a guard is ever taken out, and only here: nothing else of ours is replaced.
        """
        self._patch.setattr(name, instead)

    def succeeded(self, proof: object) -> None:
        """Say what the attacker got: anything true."""
        assert proof, f"without {self.guard} the attack got nothing: {proof!r}"
        self.proofs += 1


class Ablation:
    """Opens the blocks of one test, and records each that ran to its end with a proof."""

    def __init__(self, node: pytest.Item) -> None:
        self._node = node

    @contextmanager
    def __call__(self, guard: str) -> Iterator[Attack]:
        """Open the block that repeats the attack without `guard`."""
        with pytest.MonkeyPatch.context() as patch:
            attack = Attack(guard, patch)
            yield attack
        assert attack.proofs, f"the block without {guard} says nothing of what the attacker got"
        self._node.user_properties.append((PROPERTY, guard))


@pytest.fixture
def ablation(request: pytest.FixtureRequest) -> Ablation:
    """Show that an attack succeeds without its guard."""
    if request.node.get_closest_marker(MARKER) is None:
        pytest.fail(f"the fixture `ablation` is for tests with the marker `{MARKER}`")
    return Ablation(request.node)


def ablated(properties: list[tuple[str, object]]) -> bool:
    """Return whether an ablation ran to its end, from the properties of an item or a report."""
    return any(name == PROPERTY for name, _ in properties)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test of a defence that passed and never showed what its guard is worth."""
    result = yield
    if item.get_closest_marker(MARKER) is not None and not ablated(item.user_properties):
        pytest.fail(f"marked `{MARKER}`, and no ablation ran to its end", pytrace=False)
    return result


def figures(passed: list[pytest.TestReport]) -> Iterator[str]:
    """Yield both figures of the tests of defences that passed: how many, and how many ablated."""
    misuse = [report for report in passed if MARKER in report.keywords]
    if misuse:
        shown = sum(ablated(report.user_properties) for report in misuse)
        yield f"figure: misuse_tests = {len(misuse)} tests"
        yield f"figure: misuse_ablations = {shown} tests"
