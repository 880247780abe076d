"""Shared by every test: one thread, since threads of several processes spin on each other, and a quiet
compiler."""

import logging
import os
import signal

# A shell that starts the tests in the background lets them ignore these signals, which the tests send.
for _signal, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_signal) == signal.SIG_IGN:
        signal.signal(_signal, _handler)


os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
logging.getLogger(
    "torch.__trace"
).propagate = False  # a failing compiled test would print the compiler's whole diary
