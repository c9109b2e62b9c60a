"""Muon, and steps of matrices within a spectral-norm budget."""
