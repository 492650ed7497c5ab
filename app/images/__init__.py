"""Image files: what they are, how they are written as text, how they arrive and how they are linked."""
