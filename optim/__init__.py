"""Optimizers, schedules and parameter roles, found by name in two registries."""
