"""`fluxhook verify-callback`: why a callback is proven, or why it is not."""
