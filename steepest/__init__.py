"""The Steepest application: command line, trainer, run folders, tables and figures."""

__version__ = "0.1.0"
