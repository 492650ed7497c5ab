"""Outgoing webhooks: subscriptions, the outbox, payloads, and single delivery attempts."""
