"""`fluxhook probe`: one real task at the provider, watched from every side, and a report without secrets."""
