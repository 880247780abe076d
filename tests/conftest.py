"""Shared by every test: a failing compiled test should not print the compiler's whole diary."""

import logging

logging.getLogger("torch.__trace").propagate = False
