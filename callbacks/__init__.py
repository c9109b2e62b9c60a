"""Thin Lightning callbacks around the functions of `diagnostics`."""
