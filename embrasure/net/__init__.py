"""Identities, TLS credentials and authorization."""
