"""Which gateways a fleet lets in by their id, as the security team changes it."""

from __future__ import annotations

import pytest

from embrasure.clock import Clock
from embrasure.errors import Misuse
from embrasure.net.identity import Identity
from embrasure.net.trustbundle import Trust, trust_of
from embrasure.trust import layout
from embrasure.trust.directory import parse_tls_bundle
from pki import gateways
from pki.folder import TrustFolder


def believed(trust: TrustFolder) -> Trust:
    documents = trust.documents(layout.fleet_role("prod"))
    return trust_of(parse_tls_bundle(documents[layout.tls_path("prod")]))


def test_a_gateway_comes_and_the_former_one_goes(shop: TrustFolder, ticking: Clock) -> None:
    gateways.change(shop, "prod", add=("g2", "g2"), remove=(), clock=ticking)
    assert sorted(believed(shop).gateways or ()) == ["g1", "g2"]
    gateways.change(shop, "prod", add=(), remove=("g1",), clock=ticking)
    found = believed(shop)
    found.check_admitted(Identity("gateway", "g2"), "0" * 64)
    assert sorted(found.gateways or ()) == ["g2"]


@pytest.mark.parametrize(("add", "remove"), [(("G2",), ()), ((), ("g9",)), ((), ("g1",))])
def test_a_list_that_cannot_be_is_a_usage_error(
    shop: TrustFolder, ticking: Clock, add: tuple[str, ...], remove: tuple[str, ...]
) -> None:
    with pytest.raises(Misuse):
        gateways.change(shop, "prod", add=add, remove=remove, clock=ticking)
    assert sorted(believed(shop).gateways or ()) == ["g1"]
