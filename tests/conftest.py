"""Shared by every test: one thread, since threads of several processes spin on each other, and a quiet
compiler."""

import logging
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
logging.getLogger(
    "torch.__trace"
).propagate = False  # a failing compiled test would print the compiler's whole diary
