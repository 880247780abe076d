"""How torch's threads wait for each other: they spin for a moment, then sleep.

By default they spin for a millisecond and more. Beside another busy process one then spins on a processor
that the other thread needs: a run on two threads was measured at a hundredth of its speed. OpenMP reads its
variables once, when torch is imported, so this is set when Bellgrad is.
"""

import os
import sys

VARIABLE = "GOMP_SPINCOUNT"
# About as long as it takes to wake a thread: on a quiet machine an eighth of the speed at most is lost.
SPINS = "3000"
OTHERS = ("OMP_WAIT_POLICY", "KMP_BLOCKTIME")  # by which a user may have decided otherwise


def sleep_soon() -> None:
    """Decide how threads wait, unless the user did, or torch is imported already."""
    if "torch" not in sys.modules and not any(name in os.environ for name in OTHERS):
        os.environ.setdefault(VARIABLE, SPINS)


def manner() -> str:
    """How they wait, for a user."""
    decided = [f"{name}={os.environ[name]}" for name in (VARIABLE, *OTHERS) if name in os.environ]
    return ", ".join(decided) or "spinning: torch was imported before bellgrad; import bellgrad first"
