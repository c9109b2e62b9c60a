"""Learning-rate range tests: the curve, what it suggests, its report."""
