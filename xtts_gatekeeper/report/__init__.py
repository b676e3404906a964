"""What a person reads: the checklist's tracking table and the summary of a run."""
