"""Learning-rate phases: the plan, where a run stands in it, and the proof that the optimizer follows it."""
