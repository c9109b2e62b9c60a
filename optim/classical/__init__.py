"""The classics: torch.optim's with the right decay, L-BFGS, Lion, SAM, and all again from scratch."""
