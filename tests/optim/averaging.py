"""A user's own schedule-free class, which neither its name nor its module gives away."""

from schedulefree import AdamWScheduleFree


class Averaging(AdamWScheduleFree):
    """As it is."""
