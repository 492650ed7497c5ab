"""What runs in the background: jobs, wakeups, the heartbeat, the sweep and retention."""
