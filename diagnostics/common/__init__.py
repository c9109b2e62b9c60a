"""What every diagnostic needs: extra evaluations that leave no trace, batches, histories, written files."""
