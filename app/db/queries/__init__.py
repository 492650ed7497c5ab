"""Statements over several tables."""
