"""What one transaction does to a task: its moves, slot, announcement and next jobs.

A function that takes a connection runs in the caller's transaction. An async function opens transactions of its own:
`admit.readmit`, `erase.remove_images`, `idempotency.claim` and `idempotency.release`.
"""
