"""Checkpoint files: integrity, safe writing, retention, and the actor that keeps a run's folder small."""
