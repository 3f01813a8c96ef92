"""The one place where a policy meets environments."""
