"""The policy-gradient theorem on five states in a row: one gradient, many estimates of it, and how much their
noise costs."""

from pathlib import Path

import numpy as np

from bellgrad.mdp.estimators import Estimator, episode_gradients, expected_gradient
from bellgrad.mdp.evaluation import evaluate_policy
from bellgrad.mdp.examples import corridor
from bellgrad.mdp.gradient import expected_return, softmax_gradient, softmax_policy
from bellgrad.mdp.trajectories import sample_trajectories
from bellgrad.report.figures import INK, figure_in_style, save

folder = Path("runs/examples/policy_gradient_theorem")
folder.mkdir(parents=True, exist_ok=True)
mdp, gamma, horizon = corridor(), 0.9, 300  # steps: no episode needs as many
theta = np.tile([0.0, 1.0], (5, 1))

exact = softmax_gradient(mdp, theta, gamma)
step = np.zeros_like(theta)
step[3, 1] = 1e-6
up, down = (expected_return(mdp, softmax_policy(mdp, x), gamma) for x in (theta + step, theta - step))
print("Every step costs 1, from 3 to the right 10; in 5 the episode ends at no cost.")
print(f"dJ by the preference for R in 4: {exact[3, 1]:.6f}, and by nudging it: {(up - down) / 2e-6:.6f}\n")

policy = softmax_policy(mdp, theta)
known = evaluate_policy(mdp, policy, gamma)
critic = {"value": known.value, "q": known.q}
estimators = {
    "R(tau)": Estimator("return", gamma),
    "G": Estimator("reward_to_go", gamma, "discount"),
    "G - V": Estimator("baseline", gamma, "discount", **critic),
    "Q": Estimator("q", gamma, "discount", **critic),
    "A": Estimator("advantage", gamma, "discount", **critic),
    "TD residual": Estimator("td_residual", gamma, "discount", **critic),
    "GAE(0.9)": Estimator("gae", gamma, "discount", **critic, lambda_=0.9),
    "all actions": Estimator("all_actions", gamma, "discount", **critic),
    "A, no weight": Estimator("advantage", gamma, "none", **critic),
}
episodes = sample_trajectories(mdp, policy, horizon, episodes=5_000, seed=1)
print("R in 4, from 5,000 episodes    mean   +- error   should be   variance of one")
for name, estimator in estimators.items():
    estimates = episode_gradients(mdp, theta, episodes, estimator)[:, 3, 1]
    should_be = expected_gradient(mdp, theta, estimator, horizon)[3, 1]
    error = estimates.std() / np.sqrt(len(estimates))
    print(f"  {name:26} {estimates.mean():8.4f}    {error:.4f}    {should_be:8.4f}   {estimates.var():9.3f}")

print("\nClimbing J by ten episodes per step, with the same step size for all:")
with figure_in_style((6.5, 3.6), "light") as figure:
    axes = figure.subplots()
    for color, phi in zip(
        INK["light"].lines, ("return", "reward_to_go", "baseline", "all_actions"), strict=False
    ):
        theta, climbed = np.zeros((5, 2)), []
        for update in range(60):
            policy = softmax_policy(mdp, theta)
            known = evaluate_policy(mdp, policy, gamma)
            climbed.append(expected_return(mdp, policy, gamma))
            weight = "none" if phi == "return" else "discount"
            estimator = Estimator(phi, gamma, weight, known.value, known.q)
            episodes = sample_trajectories(mdp, policy, horizon, episodes=10, seed=update)
            theta = theta + 0.1 * episode_gradients(mdp, theta, episodes, estimator).mean(axis=0)
        print(f"  {phi:13} J = {climbed[-1]:.2f} after {len(climbed)} updates")
        axes.plot(climbed, color=color, label=phi)
    axes.set_xlabel("updates of ten episodes")
    axes.set_ylabel("J, exactly")
    axes.legend()
    save(figure, folder / "climbing.png")
print(f"\nLook at {folder / 'climbing.png'}")
