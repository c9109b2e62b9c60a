"""The commands that build a model, data and a trainer."""
