"""The commands of their own: what each prints and draws."""
