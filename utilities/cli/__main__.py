"""`python -m utilities.cli`, and `python -m msgld.cli` where the project is installed."""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())
