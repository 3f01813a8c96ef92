"""Demonstrations of the kitchen: by script, from recorded states, by noisy replay."""
