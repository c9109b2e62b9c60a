"""A run on disk and in processes: its folder, record, checkpoints and ranks."""
