"""DataModules, one per data set, and the loaders they share."""
