"""From nothing to a trained agent: PPO on CartPole-v1, its curve, its video and its report. Run by `make
demo`."""

from pathlib import Path

from bellgrad import api
from bellgrad.presets import find_preset

ENV, STEPS, SEED = "CartPole-v1", 100_000, 0

preset = find_preset("ppo", ENV)
folder = api.default_folder(preset.algorithm, ENV, SEED)
command = f"bellgrad train ppo --env {ENV} --preset {ENV} --steps {STEPS} --seed {SEED}"
run = api.train(
    preset.algorithm, ENV, STEPS, seed=SEED, out=folder, num_envs=preset.num_envs, command=command
)
result = api.evaluate(run, episodes=100)
print(
    f"return {result.return_mean:.1f} +- {result.return_std:.1f} over {result.episodes} episodes (the most"
    " possible is 500)"
)
api.record(run, Path(folder) / "videos" / "agent.mp4")
page = api.write_report(run)
print(f"""
{folder} now holds learning_curve.png, videos/agent.mp4 and {page.name}: open {page} in a browser.

Try next:
  .venv/bin/bellgrad train dqn --env CartPole-v1 --steps 50k          another algorithm
  .venv/bin/bellgrad train ppo --env Acrobot-v1 --steps 200k          another environment (Ctrl-C saves)
  .venv/bin/bellgrad compare runs/*                                   set runs side by side
  .venv/bin/bellgrad list                                             algorithms, environments, presets
  .venv/bin/pip install -e '.[box2d]' && .venv/bin/bellgrad train ppo --env LunarLander-v3 --steps 1_000_000
""")
