"""The measurements run, print their figures and keep their limits, on a small fleet."""

from __future__ import annotations

import pytest

from bench import authorization, node_install, node_memory, trust_chain


@pytest.mark.long
def test_a_node_believes_within_its_budget(capsys: pytest.CaptureFixture[str]) -> None:
    assert trust_chain.main(["--quick"]) == 0
    told = capsys.readouterr().out
    for name in ("trust_cold_cpu", "trust_idle_bytes", "flat_idle_cpu_ratio"):
        assert f"figure: {name} = " in told
    print(told)


@pytest.mark.long
def test_authorization_costs_little(capsys: pytest.CaptureFixture[str]) -> None:
    assert authorization.main(["--quick"]) == 0
    print(capsys.readouterr().out)


@pytest.mark.long
def test_a_node_does_nothing_and_installs_within_its_budget(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert node_install.main(["--quick"]) == 0
    told = capsys.readouterr().out
    for name in ("idle_rss_fetch_pull", "noop_poll_without_handshake", "install_new_ratio"):
        assert f"figure: {name} = " in told
    print(told)


@pytest.mark.long
def test_a_large_file_takes_no_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert node_memory.main(["--quick"]) == 0
    print(capsys.readouterr().out)
