from __future__ import annotations

import pytest

from embrasure.config import parse_toml
from embrasure.errors import Misuse
from node.appfiles import app_texts
from node.config import AppConfig


def test_ports_and_interpreters_are_written_as_the_node_reads_them() -> None:
    found = app_texts(["shop:web=8001", "shop:admin=8002", "db:main=5432"], ["python3=/usr/bin/py"])
    shop = parse_toml(found["shop"].encode(), AppConfig, thing="test")
    assert shop.ports == {"web": 8001, "admin": 8002}
    assert shop.interpreters == {"python3": "/usr/bin/py"}
    assert set(found) == {"shop", "db"}


def test_nothing_asked_is_nothing_allowed() -> None:
    assert app_texts([], []) == {}


@pytest.mark.parametrize(
    ("apps", "interpreters"),
    [
        (["shop"], []),
        (["shop:web"], []),
        (["shop:web=80x"], []),
        (["shop:web=0"], []),
        (["shop:web=65536"], []),
        (["shop:WEB=80"], []),
        (["../shop:web=80"], []),
        (["shop:web=80", "shop:web=81"], []),
        (["shop:web=80"], ["python3"]),
        (["shop:web=80"], ["python3=bin/python"]),
        (["shop:web=80"], ['python3=/usr/bin/py"\n[ports]']),
        ([], ["python3=/usr/bin/python3"]),
    ],
)
def test_what_does_not_fit_is_refused(apps: list[str], interpreters: list[str]) -> None:
    with pytest.raises(Misuse):
        app_texts(apps, interpreters)
