"""The listening page: people mark samples by the rubric without knowing whose they are."""
