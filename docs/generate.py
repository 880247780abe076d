"""Fill the blocks of README.md and docs/ and draw the figures: what the code and stored results say is typed
nowhere by hand.

    python docs/generate.py            write them
    python docs/generate.py --check    fail where one is out of date or missing, and name it

A block stands between `<!-- begin: NAME -->` and `<!-- end: NAME -->`; `BLOCKS` says what NAME is made of.
Every block has its place on some page, so that nothing is added to the code and left out here. `PICTURES` are
the files in `docs/figures/`.
"""

import argparse
import ast
import hashlib
import inspect
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import reading  # noqa: E402 (benchmarks/reading.py)
import tables  # noqa: E402 (benchmarks/tables.py)
from estimator_pictures import PICTURES  # noqa: E402

import bellgrad as bg  # noqa: E402
from bellgrad.cli import Parser, build_parser  # noqa: E402
from bellgrad.cli.solve import NAMED, find_mdp  # noqa: E402
from bellgrad.core.docs import field_notes  # noqa: E402
from bellgrad.core.registry import ALGORITHMS, NETWORKS, OPTIMIZERS, TRANSFORMS, Registry  # noqa: E402
from bellgrad.envs.catalog import NATIVE  # noqa: E402
from bellgrad.mdp.finite_horizon import finite_horizon_evaluation  # noqa: E402
from bellgrad.mdp.solve import SOLVERS  # noqa: E402
from bellgrad.presets import presets  # noqa: E402
from bellgrad.report.finite.text import solution_text  # noqa: E402
from bellgrad.report.tables import markdown_table  # noqa: E402
from bellgrad.runs.settings import Settings  # noqa: E402
from bellgrad.tabular import q_learning  # noqa: E402
from bellgrad.tabular.common import Tabular  # noqa: E402
from bellgrad.training import engine, evaluate, on_policy, plan, session  # noqa: E402

MAXIMIZED = {"discounted": "discounted reward", "horizon": "reward within a horizon", "total": "total reward",
             "average": "average reward"}  # fmt: skip
CLASSES = {name: ALGORITHMS.find(name) for name in ALGORITHMS.own}
SOURCE = re.compile(r"^Source: .*?\.(?=\n\n|\Z)", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"(<!-- begin: (\S+) -->\n).*?(<!-- end: \2 -->)", re.DOTALL)


# ---------------------------------------------------------------------------------------------- from the code
def commands() -> str:
    """One line a command."""
    rows = [
        {"command": f"`{_usage(name, sub)}`", "does": sub.description}
        for name, sub in build_parser().commands.items()
    ]
    return markdown_table(rows, ["command", "does"])


def command_reference() -> str:
    """Every command with its options."""
    parts = []
    for name, sub in build_parser().commands.items():
        rows = []
        for action in sub._actions:
            if action.dest == "help":
                continue
            value = (
                f" {action.metavar or action.dest.upper()}"
                if action.option_strings and action.nargs != 0
                else ""
            )
            words = action.option_strings or [action.metavar or action.dest.upper()]
            meaning = action.help or "a run folder"
            rows.append({"argument": ", ".join(f"`{word}{value}`" for word in words), "meaning": meaning})
        epilog = f"\n{sub.epilog}\n" if sub.epilog else ""
        table = markdown_table(rows, ["argument", "meaning"])
        parts.append(f"## {name}\n\n`{_usage(name, sub)}`: {sub.description}.\n\n{table}{epilog}")
    return "\n".join(parts)


def _usage(name: str, sub: Parser) -> str:
    words = ["bellgrad", name]
    for action in sub._actions:
        if not action.option_strings:
            word = action.metavar or action.dest.upper()
            words.append({"+": f"{word}...", "?": f"[{word}]"}.get(action.nargs, word))
        elif action.required:
            words.append(f"{action.option_strings[0]} {action.metavar or action.dest.upper()}")
    return " ".join(words)


def fields_of(cls: type) -> str:
    """The fields of a dataclass with their defaults and meanings."""
    notes = _notes(cls)
    rows = [
        {"field": f"`{f.name}`", "default": _default(f), "meaning": notes.get(f.name, "")}
        for f in fields(cls)
        if f.repr or f.compare  # else it is known later
    ]
    return markdown_table(rows, ["field", "default", "meaning"])


def _default(f: Any) -> str:
    if f.default_factory is not MISSING:
        return f"`{f.default_factory()!r}`"
    return "required" if f.default is MISSING else f"`{f.default!r}`"


def _notes(cls: type) -> dict[str, str]:
    """What a class says of its fields, in their declarations, in the docstring's list of attributes, or in
    comments beside them; inherited fields too."""
    notes = {f.name: f"{f.metadata['about']}." for f in fields(cls) if "about" in f.metadata}
    for base in reversed(cls.__mro__[:-1]):
        notes |= dict(
            re.findall(r"^    (\w+): [^#\n]*=[^#\n]*  # (.*)$", inspect.getsource(base), re.MULTILINE)
        )
    return notes | field_notes(cls)


def parts_of(kinds: Registry) -> str:
    """A table for each of Bellgrad's own classes of one kind."""
    parts = []
    for name in kinds.own:
        cls = kinds.find(name)
        parts.append(f"**`bg.{cls.__name__}`** (`{name}`): {_summary(cls)}\n\n{fields_of(cls)}")
    return "\n".join(parts)


def presets_of(algorithm: str) -> str:
    """Every preset, where it comes from and in what it differs from the defaults."""
    default = ALGORITHMS.make(algorithm)
    rows = []
    for name, preset in presets(algorithm).items():
        changed = [
            f.name for f in fields(default) if getattr(preset.algorithm, f.name) != getattr(default, f.name)
        ]
        differs = ", ".join(
            [
                *(f"{field}={getattr(preset.algorithm, field)!r}" for field in changed),
                *map(repr, preset.transforms),
            ]
        )
        rows.append(
            {
                "preset": f"`{name}`",
                "environments": preset.num_envs,
                "steps": preset.steps,
                "differs in": f"`{differs}`",
                "source": preset.source,
            }
        )
    return markdown_table(rows, ["preset", "environments", "steps", "differs in", "source"])


def native() -> str:
    """The environments written in batched torch."""
    rows = []
    for name, cls in NATIVE.items():
        made = cls()
        rows.append(
            {
                "id": f"`{name}`",
                "observation": _shape(made.observation_space),
                "action": _shape(made.action_space),
            }
        )
    return markdown_table(rows, ["id", "observation", "action"])


def _shape(space: Any) -> str:
    return f"Discrete, {space.n}" if hasattr(space, "n") else f"Box, {' x '.join(map(str, space.shape))}"


def extras() -> str:
    """The optional dependencies."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    rows = []
    for name, packages in project["optional-dependencies"].items():
        rows.append({"extra": f"`{name}`", "installs": ", ".join(re.split(r"[>=]", p)[0] for p in packages)})
    return markdown_table(rows, ["extra", "installs"])


def examples() -> str:
    """Every script in `examples/`, by its own first line."""
    rows = []
    for script in sorted((ROOT / "examples").glob("*.py")):
        about = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8")))
        rows.append({"script": f"`examples/{script.name}`", "shows": _first_paragraph(about)})
    return markdown_table(rows, ["script", "shows"])


def rules() -> str:
    """The fixed numbers by which a run decides."""
    several = {
        name: cls.default_num_envs for name, cls in CLASSES.items()
    }  # a search says it by its population
    usual = ", ".join(f"{n} for `{name}`" for name, n in several.items() if isinstance(n, int) and n > 1)
    rows = [
        ("environments that step together, unless told", f"1; {usual}"),
        ("planned updates from which `auto` compiles", engine.COMPILE_FROM_UPDATES),
        ("of those, the part that is eager while the compiler works, one in", engine.EAGER_PART),
        ("updates of that part, at most", engine.MOST_EAGER_UPDATES),
        ("parameters x batch size from which more than one thread is used", engine.THREADS_FROM_WORK),
        ("updates in one call, at most", engine.UPDATES_PER_CALL),
        ("planned updates from which a run is long", engine.LONG_RUN_UPDATES),
        ("updates in one call of a long run, at most", engine.LONG_RUN_UPDATES_PER_CALL),
        ("environment steps in one compiled call of a rollout, at most", on_policy.UNROLL),
        ("lines in `metrics.jsonl`, about", plan.LOG_LINES),
        ("episodes behind `episode_return_mean`, the latest", session.RECENT_EPISODES),
        ("newest checkpoints that are kept, beside the best", session.KEPT_CHECKPOINTS),
        ("environments that step together in an evaluation, at most", evaluate.EVAL_ENVS),
        (
            "steps after which an evaluation cuts an episode that has no time limit",
            f"{plan.LEAST_EVAL_CAP:,} to {evaluate.EPISODE_CAP:,}, as there are between checkpoints",
        ),
    ]
    shown = [
        {"what": what, "number": f"{number:,}" if isinstance(number, int) else number}
        for what, number in rows
    ]
    return markdown_table(shown, ["what", "number"])


def public_names() -> str:
    """Everything that `import bellgrad as bg` gives."""
    rows = [{"name": f"`bg.{name}`", "is": _summary(getattr(bg, name))} for name in bg.__all__]
    return markdown_table(rows, ["name", "is"])


def solvers() -> str:
    """Every exact solver: what it maximizes, and how."""
    rows = [
        {
            "method": f"[`{name}`](solvers.md#{name})",
            "maximizes": MAXIMIZED[solver.criterion],
            "how": solver.description,
        }
        for name, solver in SOLVERS.items()
    ]
    return markdown_table(rows, ["method", "maximizes", "how"])


def prose(module: str, name: str) -> str:
    """A function of `bellgrad.mdp`, and what its docstring says of it but for the arguments; the source may
    be its file's."""
    home = import_module(f"bellgrad.mdp.{module}")
    find = getattr(home, name)
    about, _, rest = inspect.getdoc(find).partition("\n\nArgs:\n")
    source = SOURCE.search(rest) or SOURCE.search(inspect.getdoc(home))
    call = f"```text\nbellgrad.mdp.{module}.{name}({', '.join(_parameters(find))})\n```"
    return f"{call}\n\n{about}\n\n{' '.join(source[0].split())}"


def named_mdps() -> str:
    """The MDPs that the command line knows by a name of their own."""
    rows = []
    for name, module in NAMED.items():
        about = _summary(getattr(import_module(f"bellgrad.mdp.{module}"), name))
        rows.append({"name": f"`{name}`", "made by": f"`bellgrad.mdp.{module}.{name}`", "is": about})
    return markdown_table(rows, ["name", "made by", "is"])


def solved(env: str, gamma: float | None = None) -> str:
    """Values and policy as `bellgrad solve` shows them."""
    mdp = find_mdp(env, {})
    _, _, table = solution_text(mdp, bg.solve(mdp, gamma=gamma, progress="off")).partition("\n\n")
    return f"```text\n{table}\n```"


def frozen_lake() -> str:
    """What FrozenLake is worth by several measures, and how often the policy that is best by each arrives in
    time."""
    lake = bg.FiniteMDP.from_gymnasium("FrozenLake-v1")
    limit = lake.max_episode_steps
    wanted = {f"discounted, gamma {gamma}": {"gamma": gamma} for gamma in (0.99, 0.95, 0.9)}
    wanted |= {"without a discount": {"gamma": 1.0}, f"within {limit} steps": {"horizon": limit}}
    rows = []
    for name, options in wanted.items():
        found = bg.solve(lake, progress="off", **options)
        value = found.value if found.horizon is None else found.value[0]
        arrives = finite_horizon_evaluation(lake, found.policy, limit)[0]
        rows.append(
            {
                "maximized": name,
                "V*(start)": f"{lake.initial @ value:.6f}",
                "arrives": f"{lake.initial @ arrives:.4f}",
            }
        )
    return markdown_table(
        rows, {"maximized": "maximized", "V*(start)": "V*(start)", "arrives": f"arrives within {limit} steps"}
    )


def tabular_learners() -> str:
    """Every tabular learner."""
    rows = []
    for name, cls in CLASSES.items():
        if issubclass(cls, Tabular):
            what = _summary(cls).removeprefix("Hyper-parameters of ").removesuffix(".")
            rows.append({"name": f"`{name}`", "class": f"`bg.{cls.__name__}`", "is": what,
                         "file": f"`{cls.__module__.rpartition('.')[2]}.py`"})  # fmt: skip
    return markdown_table(rows, {"name": "name", "class": "in Python", "is": "is", "file": "in `tabular/`"})


def q_learning_source() -> str:
    """The compiled function of Q-learning, as it stands."""
    return f"```python\n{inspect.getsource(q_learning.learn.py_func)}```"


def signature(name: str) -> str:
    """A call with its documented arguments."""
    call = getattr(bg, name)
    doc = inspect.getdoc(call)
    text = re.sub(r"\n(Args|Returns|Raises):\n", r"\n**\1**\n\n", doc)
    text = re.sub(r"^    (\w+): ", r"- `\1`: ", text, flags=re.MULTILINE)
    shown = ", ".join(_parameters(call))
    return f"```python\nbg.{name}({shown})\n```\n\n{text}\n"


def _parameters(call: Callable[..., Any]) -> Iterator[str]:
    starred = False
    for p in inspect.signature(call).parameters.values():
        if p.kind is p.KEYWORD_ONLY and not starred:
            starred = True
            yield "*"
        prefix = "**" if p.kind is p.VAR_KEYWORD else ""
        yield f"{prefix}{p.name}" + ("" if p.default is p.empty else f"={p.default!r}")


def _summary(thing: Any) -> str:
    """The first paragraph of a docstring, in one line."""
    return _first_paragraph(inspect.getdoc(thing))


def _first_paragraph(text: str) -> str:
    return " ".join(text.partition("\n\n")[0].split())


def rooms() -> str:
    """Every package and what it holds, by its own docstring."""
    rows = []
    for init in sorted((ROOT / "src" / "bellgrad").glob("*/__init__.py")):
        module = __import__(f"bellgrad.{init.parent.name}", fromlist=["__doc__"])
        rows.append({"room": f"`{init.parent.name}/`", "holds": _summary(module)})
    return markdown_table(rows, ["room", "holds"])


def transition_way() -> str:
    """Where a transition of DQN goes."""
    parts = reading.way()
    rows = [
        {
            "file": f"`{part.file}`",
            "functions": ", ".join(f"`{name}`" for name in part.functions),
            "lines": str(part.lines),
        }
        for part in parts
    ]
    total = sum(part.lines for part in parts)
    table = markdown_table(rows, ["file", "functions", "lines"])
    return f"{table}\n{len(parts)} files, {total} lines of functions.\n"


# ------------------------------------------------------------------------------------ from the stored results
MADE_BY = {
    "speed": "make bench",
    "compile": "make bench",
    "learning": "make learning",
    "memory": ".venv/bin/python benchmarks/memory.py",
    "first_step": ".venv/bin/python benchmarks/memory.py",
    "solve_time": ".venv/bin/python benchmarks/solve_time.py",
    "planning": ".venv/bin/python benchmarks/planning.py",
    "tabular": ".venv/bin/python benchmarks/tabular.py",
    "tabular_compile": ".venv/bin/python benchmarks/tabular.py",
    "estimators": ".venv/bin/python benchmarks/estimators.py",
}


def results(name: str, of: str = "") -> str:
    """A table of stored results with a link to their provenance, or the command that makes it; `of` keeps
    one algorithm's rows, for its page."""
    file, write = tables.TABLES[name]
    stored = tables.read_results(tables.RESULTS / file)
    rows = stored.get(name, {}) if name in ("memory", "first_step") else stored
    rows = {key: row for key, row in rows.items() if not of or of == _algorithm_of(key, row)}
    if not rows:
        return f"_Not measured yet: `{MADE_BY[name]}` makes this table._\n"
    table = write({**stored, name: rows} if name in ("memory", "first_step") else rows)
    page = f"{'../' if of else ''}provenance.md#{file.removesuffix('.json')}"
    return f"{table}\n{tables.measured(rows)}; commits and commands: [provenance]({page}).\n"


def provenance(file: str) -> str:
    """How the results of a file were measured."""
    return tables.provenance_table(tables.read_results(tables.RESULTS / file))


HEADLINES = {
    "learning": (
        "cartpole-ppo",
        "cartpole-dqn",
        "cartpole-openai_es",
        "pendulum-sac",
        "lunarlander-ppo-preset",
        "halfcheetah-sac-preset",
        "halfcheetah-ppo-preset",
        "halfcheetah-trpo-preset",
        "velocity-free-cartpole-ppo-preset",
        "pixelcopter-reinforce-preset",
    ),
    "speed": (
        "sac-64",
        "sac-64-rltools",
        "sac-256",
        "dqn-64",
        "ppo-4",
        "ppo-4-tianshou",
        "a2c-8",
        "ppo-1024",
    ),
    "planning": ("garnet-1m-mdpsolver", "grid-300-mdpsolver", "garnet-10k-quantecon"),
}


def headlines(name: str) -> str:
    """A few rows of a table."""
    file, write = tables.TABLES[name]
    stored = tables.read_results(tables.RESULTS / file)
    return write({key: stored[key] for key in HEADLINES[name]})


def _algorithm_of(key: str, row: Mapping[str, Any]) -> str:
    settings = row["settings"]
    return settings["algorithm"]["name"] if "algorithm" in settings else key.partition("-")[0]


def evidence(algorithm: str) -> str:
    """What was measured of one algorithm."""
    return f"**Learning**\n\n{results('learning', algorithm)}\n**Speed**\n\n{results('speed', algorithm)}"


BLOCKS: dict[str, Callable[[], str]] = {
    "commands": commands,
    "command-reference": command_reference,
    "settings": partial(fields_of, Settings),
    "networks": partial(parts_of, NETWORKS),
    "optimizers": partial(parts_of, OPTIMIZERS),
    "transforms": partial(parts_of, TRANSFORMS),
    "native": native,
    "finite-mdp": partial(fields_of, bg.FiniteMDP),
    "named-mdps": named_mdps,
    "solution": partial(fields_of, bg.Solution),
    "solvers": solvers,
    "solved-corridor": partial(solved, "corridor", gamma=1),
    "solved-frozen-lake": partial(solved, "FrozenLake-v1"),
    "frozen-lake": frozen_lake,
    "tabular-learners": tabular_learners,
    "q-learning-source": q_learning_source,
    "extras": extras,
    "examples": examples,
    "rules": rules,
    "public-names": public_names,
    "rooms": rooms,
    "way": transition_way,
}
BLOCKS |= {f"fields-{name}": partial(fields_of, cls) for name, cls in CLASSES.items()}
NETWORKED = [name for name, cls in CLASSES.items() if not issubclass(cls, Tabular)]
BLOCKS |= {f"presets-{name}": partial(presets_of, name) for name in NETWORKED if presets(name)}
BLOCKS |= {f"evidence-{name}": partial(evidence, name) for name in NETWORKED}
BLOCKS |= {f"solver-{name}": partial(prose, solver.module, name) for name, solver in SOLVERS.items()}
BLOCKS["solver-evaluate_policy"] = partial(prose, "evaluation", "evaluate_policy")
CALLS = (
    "train",
    "resume",
    "evaluate",
    "load",
    "record",
    "picture",
    "plot",
    "compare",
    "export",
    "write_report",
    "solve",
)
BLOCKS |= {f"call-{name.replace('_', '-')}": partial(signature, name) for name in CALLS}
BLOCKS |= {f"headlines-{name}": partial(headlines, name) for name in HEADLINES}
BLOCKS |= {f"provenance-{file}": partial(provenance, file) for file, _ in tables.TABLES.values()}
BLOCKS |= {f"results-{name.replace('_', '-')}": partial(results, name) for name in MADE_BY}


def fill(text: str) -> str:
    """A page with its blocks made anew.

    Raises:
        SystemExit: it has a block that nothing makes.
    """

    def made(found: re.Match[str]) -> str:
        if found[2] not in BLOCKS:
            sys.exit(f"no block is called {found[2]!r}; there are {', '.join(BLOCKS)}")
        return f"{found[1]}\n{BLOCKS[found[2]]().rstrip()}\n\n{found[3]}"

    return BLOCK.sub(made, text)


def draw(check: bool) -> list[str]:
    """Draw the figures; those that were out of date. A figure names what it was made of: other machines may
    draw other bytes."""
    sources = (tables.RESULTS / "estimators.json", ROOT / "benchmarks" / "estimator_pictures.py")
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    mark, stale = f"<!-- made of {digest} -->\n", []
    for name, picture in PICTURES.items():
        place = ROOT / "docs" / "figures" / name
        if place.exists() and place.read_text(encoding="utf-8").endswith(mark):
            continue
        stale.append(str(place.relative_to(ROOT)))
        if not check:
            place.parent.mkdir(exist_ok=True)
            picture(tables.read_results(sources[0]), place)
            place.write_text(place.read_text(encoding="utf-8") + mark, encoding="utf-8")
    return stale


def main() -> None:
    """Write or check every page and figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail where a block is out of date"
    )
    check = parser.parse_args().check
    stale, shown = draw(check), set()
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        before = page.read_text(encoding="utf-8")
        shown |= {found[2] for found in BLOCK.finditer(before)}
        after = fill(before)
        if after != before:
            stale.append(str(page.relative_to(ROOT)))
            if not check:
                page.write_text(after, encoding="utf-8")
    if missing := BLOCKS.keys() - shown:
        sys.exit(f"no page has the blocks {', '.join(sorted(missing))}")
    if check and stale:
        sys.exit(f"out of date: {', '.join(stale)}; run python docs/generate.py")
    print(f"{'checked' if check else 'wrote'}: {', '.join(stale) or 'everything is up to date'}")


if __name__ == "__main__":
    main()
