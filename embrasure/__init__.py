"""Verify, describe and move releases: everything that a machine which may be breached needs."""

import os

from embrasure import kits

__version__ = "0.1.0"

# gRPC reads this once, when it is imported, and has no setting for the TLS version. With this
# one suite TLS 1.2 has nothing to agree on; TLS 1.3 does not look at it. Source: pki, G1.
os.environ["GRPC_SSL_CIPHER_SUITES"] = "ECDHE-PSK-CHACHA20-POLY1305"

kits.hold_back()
