"""The loss around and along the way of the weights."""
