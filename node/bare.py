"""What a node's processes never load: the kits of key services and tokens, wherever they lie.

The signer library that verifies for us imports every kit it finds. A node holds no such key; on a
host where one is installed it would cost each process some 20 MiB, and be code that nobody needs
beside the node's keys.
"""

from __future__ import annotations

import sys
from types import ModuleType

KITS = (
    "PyKCS11", "asn1crypto", "azure", "boto3", "botocore", "google.cloud", "hvac", "keylet",
    "pkcs11", "requests", "sigstore",
)  # fmt: skip


def leave_out() -> None:
    """An import of one of `KITS` fails from now on, as if it were not installed.

    Called first of all, by a process of a node only: what is loaded already stays.
    """
    modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]  # None is how
    for name in KITS:
        modules.setdefault(name, None)
