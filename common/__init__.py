"""What several parts of Steepest need once; it imports nothing of ours."""
