"""From finished trials to numbers."""
