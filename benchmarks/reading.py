"""What a newcomer reads who follows one transition of DQN from the environment to the gradient.

    python benchmarks/reading.py [--backend native|gymnasium]

One call of the driver is traced on CartPole: files and functions of Bellgrad that step the environment, keep
the transition, sample a batch and differentiate its loss. Choosing an action, drawing random numbers, the
optimizer, the target network and the helpers that every room uses (trees, shape checks) are not on the way;
`everything` counts them too.
"""

import argparse
import inspect
import sys
from pathlib import Path
from types import CodeType, FrameType
from typing import NamedTuple

import torch

import bellgrad as bg
from bellgrad.runs.settings import Settings
from bellgrad.training.assembly import make_run_env
from bellgrad.training.engine import Engine
from bellgrad.training.off_policy import OffPolicy

SOURCE = Path(bg.__file__).parent
# Calls that lead off the way, with all that they call; and files of helpers that every room uses.
ASIDE = ("act", "draw", "_draw_updates", "mean_metrics", "descend", "move_every")
HELPERS = ("core/", "ops/checks.py")


class Part(NamedTuple):
    """Functions of one file."""

    file: str
    functions: list[str]
    lines: int


def way(backend: str = "native", everything: bool = False) -> list[Part]:
    """The files in the order in which a transition reaches them."""
    settings = Settings(bg.DQN(learning_starts=4, batch_size=4), "CartPole-v1", 1_000, backend=backend)
    env = make_run_env(settings, torch.device("cpu"), 1)
    learner = settings.algorithm.build(env.spec)
    driver = OffPolicy(learner, env, Engine("eager", 1, 1, ""), 0, torch.device("cpu"))
    for _ in range(10):
        driver.advance()
    seen: dict[CodeType, None] = {}
    depth, aside = 0, None  # aside: the depth of a call that leads off the way

    def trace(frame: FrameType, event: str, _: object) -> None:
        nonlocal depth, aside
        code = frame.f_code
        if event == "call":
            depth += 1
            if aside is None and code.co_filename.startswith(str(SOURCE)):
                if not everything and code.co_name in ASIDE:
                    aside = depth
                elif everything or not _file(code).startswith(HELPERS):
                    seen[code] = None
        elif event == "return":
            aside = None if aside == depth else aside
            depth -= 1

    sys.setprofile(trace)
    driver.advance()
    sys.setprofile(None)
    return _by_file(list(seen))


def _by_file(codes: list[CodeType]) -> list[Part]:
    """Functions by their files; one inside another is a part of it."""
    spans = {
        code: range(start, start + len(lines))
        for code in codes
        for lines, start in [inspect.getsourcelines(code)]
    }
    parts: dict[str, Part] = {}
    for code, span in spans.items():
        around = (s for c, s in spans.items() if c.co_filename == code.co_filename and s != span)
        if code.co_name.startswith("<") or any(span.start in outer for outer in around):
            continue
        old = parts.get(_file(code), Part(_file(code), [], 0))
        parts[_file(code)] = Part(old.file, [*old.functions, code.co_qualname], old.lines + len(span))
    return list(parts.values())


def _file(code: CodeType) -> str:
    return code.co_filename[len(str(SOURCE)) + 1 :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=("native", "gymnasium"), default="native")
    backend = parser.parse_args().backend
    for everything in (False, True):
        parts = way(backend, everything)
        if not everything:
            for part in parts:
                print(f"{part.lines:>5}  {part.file:26s} {', '.join(part.functions)}")
        kind = "with all that is called" if everything else "on the way"
        print(f"{len(parts)} files, {sum(part.lines for part in parts)} lines of functions {kind}")


if __name__ == "__main__":
    main()
