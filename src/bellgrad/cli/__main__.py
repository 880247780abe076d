"""`python -m bellgrad.cli` is the command `bellgrad`."""

import sys

from bellgrad.cli import main

sys.exit(main())
