"""The schema: how far a database is, and how it reaches this version."""
