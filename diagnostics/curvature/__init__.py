"""Curvature of the loss: products with the Hessian, largest eigenvalues, sharpness and its limits."""
