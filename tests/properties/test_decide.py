from __future__ import annotations

import dataclasses
import tempfile
from functools import cache
from pathlib import Path

from hypothesis import given, reject
from hypothesis import strategies as st

from tests.unit.test_decide import CASES, Scene, build


@cache
def honest() -> Scene:
    with tempfile.TemporaryDirectory() as folder:
        return build(Path(folder) / "trust")


@given(st.lists(st.sampled_from(CASES), min_size=1, max_size=4))
def test_no_mix_of_faults_ever_installs(
    faults: list[tuple[str, str, str, object]],
) -> None:
    scene = dataclasses.replace(honest())
    assert scene.said() == "install"
    for *_, change in faults:
        assert callable(change)
        try:
            change(scene)
        except (KeyError, ValueError):
            reject()  # two faults that cannot be in one input
    assert scene.said() != "install"


@given(st.sampled_from(CASES))
def test_the_same_input_has_the_same_verdict(fault: tuple[str, str, str, object]) -> None:
    scene = dataclasses.replace(honest())
    assert callable(fault[3])
    fault[3](scene)
    assert scene.verdict() == scene.verdict()
