"""GPUs without one: programs compiled for them, and what these would cost there."""
