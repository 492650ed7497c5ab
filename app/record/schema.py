"""All tables of `record` in one place, for whoever needs the whole: migrations and their test."""

from app.record import downloads, evidence, keys, results, submissions, tasks
from app.record.columns import metadata

__all__ = ["downloads", "evidence", "keys", "metadata", "results", "submissions", "tasks"]
