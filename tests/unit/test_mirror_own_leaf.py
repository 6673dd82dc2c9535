from __future__ import annotations

import pytest

from embrasure.errors import Refused
from mirror.config import check_own_leaf
from tests.simulate.authority import Authority


def test_a_service_takes_only_the_certificate_of_its_own_role_and_name() -> None:
    authority = Authority()
    mine = authority.leaf("mirror", "m1").chain_pem
    check_own_leaf(mine, kind="mirror", name="m1", domain=authority.domain)
    for kind, name, domain in (
        ("mirror", "m2", authority.domain),
        ("letterbox", "m1", authority.domain),
        ("mirror", "m1", "other.test"),
    ):
        with pytest.raises(Refused):
            check_own_leaf(mine, kind=kind, name=name, domain=domain)  # type: ignore[arg-type]  # from a table
