"""What makes the speed claims checkable: each module prints a table, this package beside the alternatives."""
