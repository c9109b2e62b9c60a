"""Studies: fair comparisons of many runs, from one file to a report."""
