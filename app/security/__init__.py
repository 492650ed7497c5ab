"""Derived secrets, callback verification, signatures, the SSRF guard, and the hosts that results may come from."""
