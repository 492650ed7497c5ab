"""Decisions without side effects: task states, waits and limits. Pure functions; no third-party imports."""
