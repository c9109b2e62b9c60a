"""Stability limits and best constants of optimizers on quadratics."""
