"""What a training process died of, and what to do about it."""
