"""Reading finished and running runs, and judging their results."""
