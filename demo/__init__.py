"""`embrasure demo`: the whole product as real processes on loopback."""
