"""`python -m steepest` is the same as `steepest`."""

from steepest.cli import main

if __name__ == "__main__":
    main()
