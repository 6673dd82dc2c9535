"""The kits of key services and tokens: loaded once a key lies in one, and by nothing else.

The library that signs and verifies for us imports every kit it finds: a quarter of a second and
30 MiB a process, and code that nobody needs beside keys. Its modules that need one first run as if
none were installed; `take_in` runs one of them again, in its place.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

KITS = ("azure", "boto3", "botocore", "google.cloud", "hvac", "keylet", "pkcs11")
_SIGNERS = "securesystemslib.signer._{}_signer"
# back end of a key's URI -> the module that signs with it; one that we never use has no URI here
_MODULES = {
    uri: _SIGNERS.format(name)
    for uri, name in {
        "awskms": "aws", "azurekms": "azure", "gcpkms": "gcp", "hsm": "hsm", "hv": "vault",
        "": "tkey",
    }.items()
}  # fmt: skip
_taken: set[str] = set()


class _Without(SourceFileLoader):
    """Runs a module as if no kit were installed."""

    def exec_module(self, module: ModuleType) -> None:
        modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]  # None is how
        absent = [name for name in KITS if name not in modules]
        modules.update(dict.fromkeys(absent))
        try:
            super().exec_module(module)
        finally:
            for name in absent:
                modules.pop(name, None)


class _HeldBack:
    """Finds the modules of `_MODULES`, until each is taken in."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how such a module is loaded without its kit; None leaves it to the others."""
        if name not in _MODULES.values() or name in _taken:
            return None
        found = PathFinder.find_spec(name, path, target)
        if found is not None and isinstance(found.loader, SourceFileLoader):
            found.loader = _Without(name, found.loader.path)
        return found


def hold_back() -> None:
    """Nothing of `KITS` is loaded for the signer library from now on; done once a process."""
    if _HeldBack not in sys.meta_path:
        sys.meta_path.insert(0, _HeldBack)


def take_in(backend: str) -> None:
    """Keys of this back end can be used, where its kit is installed."""
    name = _MODULES.get(backend, "")
    if not name or name in _taken:
        return
    _taken.add(name)
    if module := sys.modules.get(name):
        importlib.reload(module)  # in the same namespace: its classes are used by others by now
