"""Planning on FrozenLake: the same lake under several discounts, a film of the sweeps, and the best way
within 100 steps."""

from pathlib import Path

import bellgrad as bg
from bellgrad.mdp.finite_horizon import finite_horizon_evaluation
from bellgrad.report.finite.film import Sweeps, animate
from bellgrad.report.finite.pictures import picture
from bellgrad.report.finite.text import solution_text

folder = Path("runs/examples/frozen_lake_planning")
folder.mkdir(parents=True, exist_ok=True)
mdp = bg.FiniteMDP.from_gymnasium("FrozenLake-v1")

for gamma in (0.9, 0.95, 0.99):
    solution = bg.solve(mdp, gamma=gamma)
    print(f"gamma {gamma}: the start is worth {solution.value[0]:.6f}")
print(f"\n{solution_text(mdp, solution)}\n")

print("The same by other methods:")
for method in (
    "policy_iteration",
    "modified_policy_iteration",
    "gauss_seidel",
    "prioritized_sweeping",
    "linear_programming",
):
    other = bg.solve(mdp, method, gamma=0.99)
    print(
        f"  {method:26} {other.value[0]:.6f} after {other.iterations} iterations, at most"
        f" {other.error_bound:.0e} off"
    )

in_time = bg.solve(mdp, horizon=100)
stationary = finite_horizon_evaluation(mdp, solution.policy, 100)[0, 0]
print(
    f"\nThe goal is reached within 100 steps with probability {in_time.value[0, 0]:.4f}, if the policy looks"
    f" at the clock, and {stationary:.4f} if it does not."
)

sweeps = Sweeps()
bg.solve(mdp, "value_iteration", gamma=0.99, on_sweep=sweeps)
film = animate(mdp, sweeps, folder / "sweeps.gif", gamma=0.99)
values = picture(mdp, solution, folder / "values.png", "FrozenLake")
print(f"Look at {values}: the arrows point away from the holes, since the ice is slippery.")
print(f"Look at {film}: the value spreads from the goal.")
