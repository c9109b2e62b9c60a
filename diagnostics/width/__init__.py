"""How networks behave as they get wider."""
