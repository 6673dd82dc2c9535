"""Secrets sealed to nodes: keys, the sealed file, opening; nothing here seals."""
