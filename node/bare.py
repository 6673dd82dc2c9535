"""What a node's processes never load: the kits of key services and tokens, wherever they lie.

The signer library that verifies for us imports every kit it finds. A node holds no such key; on a
host where one is installed it would cost each process some 20 MiB, and be code that nobody needs
beside the node's keys. python-tuf brings a way to the network of its own, which no node takes: it
would be a tenth of the time in which a killed apply starts again.
"""

from __future__ import annotations

import sys
from types import ModuleType

from embrasure.errors import Failed

KITS = (
    "PyKCS11", "asn1crypto", "azure", "boto3", "botocore", "google.cloud", "hvac", "keylet",
    "pkcs11", "requests", "sigstore",
)  # fmt: skip
FETCHER = "tuf.ngclient.urllib3_fetcher"


class Urllib3Fetcher:
    """What stands in its place: every file of a node comes from a source of ours."""

    def __init__(self, *_: object, **__: object) -> None:
        raise Failed("metadata", expected="a source of the node", got="none", reason="internal")


def leave_out() -> None:
    """An import of one of `KITS` fails from now on, as if it were not installed; one of `FETCHER`
    finds a class that refuses.

    Called first of all, by a process of a node only: what is loaded already stays.
    """
    modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]  # None is how
    for name in KITS:
        modules.setdefault(name, None)
    fetcher = ModuleType(FETCHER)
    fetcher.__dict__["Urllib3Fetcher"] = Urllib3Fetcher
    modules.setdefault(FETCHER, fetcher)
