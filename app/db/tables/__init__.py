"""One module for each table: its columns, its statements, its rows as frozen values."""
