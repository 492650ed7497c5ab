"""One module per table: its columns, its statements, and its rows as frozen dataclasses."""
