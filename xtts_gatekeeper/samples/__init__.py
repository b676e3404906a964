"""The same prompts spoken at every check, measured, compared and scored."""
