"""What decides without acting: states, waits, limits. Pure; imports no third party."""
