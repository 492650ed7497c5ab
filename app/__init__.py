"""Fluxhook: a job gateway for FLUX image tasks.

The flow, in reading order:

    submit      validate a task and record it with its first attempt; admit assigns a slot if one is free
    dispatch    send the task to the provider, with a callback address and secret unique to the attempt
    callback    verify an incoming callback, store it, and answer once it is durable
    settle      apply evidence: decide its effect, then change the task's state in one transaction
    reconcile   poll the provider about tasks whose callback is overdue, hinted at or contradicted
    collect     download the result before its link expires, verify it and store it
    notify      deliver signed webhooks to the application, with retries for up to three days
    worker      runs the jobs that these steps enqueue; its sweep finds work that has no job
"""

__version__ = "0.2.0"
