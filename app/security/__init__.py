"""Derived secrets, verification, signatures, the HTTP clients with their SSRF guard, and the hosts of results."""
