"""Background work: the job loop, wakeups, heartbeats, the sweep, retention and the metrics snapshot."""
