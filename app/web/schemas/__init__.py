"""What the routes show."""
