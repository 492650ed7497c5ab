"""Outgoing webhooks: where a task is announced, what is sent, and how one attempt goes."""
