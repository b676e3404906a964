"""The data: what is in it, which of it is trained on, and what is heard in an evaluation."""
