"""Which signals ask a process to stop."""

import signal

# What a terminal, a batch system or a container sends before it ends a process by force.
SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
    if hasattr(signal, name)
)
