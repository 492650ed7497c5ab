"""What one transaction does to a task: its moves, its slot, its announcement, its next job."""
