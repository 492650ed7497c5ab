"""Fluxhook: a job gateway for FLUX Kontext image tasks.

The flow, in the order to read it:

    submit      check a task, mint its id, record it; admit gives it a slot when there is one
    dispatch    ask the provider, with a callback address and a secret of this attempt alone
    callback    prove what arrives there, keep it, answer once it is durable
    settle      decide what a piece of evidence moves; the one place that changes a task's state
    reconcile   ask the provider about tasks that went quiet or were hinted at
    collect     download the result while its link lives, check it, keep it
    notify      tell the application, signed, for days if need be
    worker      do the jobs that these leave; sweep looks for what nobody left
"""

__version__ = "0.2.0"
