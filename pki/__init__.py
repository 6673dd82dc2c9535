"""Everything that can sign for people and services."""
