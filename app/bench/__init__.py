"""Measuring Fluxhook: how fast it is, and whether it stays so as it grows."""
