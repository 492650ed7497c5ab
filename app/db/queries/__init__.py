"""Statements that span tables."""
