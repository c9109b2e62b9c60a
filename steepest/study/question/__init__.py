"""A study file: what it asks, read and checked."""
