"""The schema: its current revision, and the migrations to that of this version."""
