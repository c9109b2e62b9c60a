"""What each step does to the weights."""
