"""`fluxhook doctor`: the configuration, what is missing, and whether what the service depends on answers."""
