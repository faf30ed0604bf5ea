"""See `tests`."""
