"""`fluxhook submit --from FILE`: a task for each row of a file, which can be interrupted and continued at any time."""
