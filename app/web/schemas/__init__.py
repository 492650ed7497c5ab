"""Response models of the routes, and the models of outgoing webhooks."""
