"""LightningModules, one per kind of task, and the plain networks they train."""
