"""Every signature has a type: no code of pki signs bytes that came from elsewhere."""

from __future__ import annotations

import ast

from tests.source import calls, dotted, modules

# file -> what it signs there; a new line is a decision.
SIGNED = {
    "pki/ca.py": "certificates (X.509)",
    "pki/ceremony.py": "TUF metadata it has just written",
    "pki/signing.py": "TUF metadata that its signer has read",
    "pki/checked.py": "what the signer's caller signs, by another library",
    "pki/signerkey.py": "certificates and TLS handshakes, on behalf of ca.py and gRPC",
}


def test_only_metadata_and_certificates_are_signed_and_all_else_is_an_envelope() -> None:
    found = {
        module.name: [call.lineno for call in calls(module) if _signs(call)]
        for module in modules("pki")
    }
    assert {name for name, lines in found.items() if lines} == set(SIGNED)


def test_metadata_is_signed_by_its_own_bytes_only() -> None:
    for module in modules("pki"):
        if module.name in ("pki/ceremony.py", "pki/signing.py"):
            for call in calls(module):
                if _signs(call):
                    assert ast.unparse(call.args[0]).endswith("metadata.signed_bytes")


def _signs(call: ast.Call) -> bool:
    # `signing.sign` and `acting.sign_with` are our own, and take a reviewed draft.
    name = dotted(call.func)
    return (
        isinstance(call.func, ast.Attribute)
        and call.func.attr == "sign"
        and not (name.startswith("signing."))
    )
