"""What a run left, read and shown."""
