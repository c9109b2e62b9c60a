"""Singular values of weights, kernels and their changes."""
