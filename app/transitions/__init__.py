"""What one transaction does to a task: its moves, slot, announcement and next jobs."""
