"""Drafters: cheap guesses at the next tokens, for the target to verify."""
