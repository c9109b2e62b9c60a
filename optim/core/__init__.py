"""What optimizers are built of: update rules, parameter groups, roles, rounding."""
