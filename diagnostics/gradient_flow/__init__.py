"""How gradients flow through the layers, and which units are dead."""
