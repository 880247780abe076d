"""`python -m bellgrad` is the command `bellgrad`."""

import sys

from bellgrad.cli import main

if __name__ == "__main__":
    sys.exit(main())
