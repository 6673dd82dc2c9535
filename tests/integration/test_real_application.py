from __future__ import annotations

from pathlib import Path

import pytest

from tools.real_application import BROKEN, FIRST, SECOND, RealApplication


@pytest.mark.long
@pytest.mark.timeout(900)
def test_datasette_goes_out_by_waves_and_a_broken_build_reaches_nobody(tmp_path: Path) -> None:
    found = RealApplication(tmp_path, push=3, pull=3).run()
    nodes = {f"{mode}-{number}" for mode in ("push", "pull") for number in (1, 2, 3)}
    assert found.exits == {FIRST: 0, SECOND: 0, BROKEN: 1}
    assert found.versions[FIRST] == dict.fromkeys(nodes, FIRST)
    assert found.versions[SECOND] == dict.fromkeys(nodes, SECOND)
    # The broken build: rolled back on the canary, and no other node switched to it.
    assert found.versions[BROKEN] == dict.fromkeys(nodes, SECOND)
    before, after = found.linked[SECOND], found.linked[BROKEN]
    assert before == after
    # Nothing ever connects to the gateway except operators.
    assert found.strangers == []
    assert found.operators_seen > 0
    assert found.gateway_listeners == set()
    assert found.files > 500
    print(f"figure: real_application_files = {found.files} files")
    print(f"figure: real_application = {found.seconds:.0f} s")
