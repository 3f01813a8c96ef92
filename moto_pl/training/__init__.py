"""A run: its configuration, its data, its command."""
