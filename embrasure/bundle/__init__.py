"""Manifests and content-addressed blobs."""
