"""Five searches that never look at a gradient balance the same pole, each a whole population at a time."""

from pathlib import Path

import bellgrad as bg

folder = Path("runs/examples/search_without_gradients")
folder.mkdir(parents=True, exist_ok=True)
searches = [bg.HillClimbing(), bg.SimulatedAnnealing(), bg.CEM(), bg.CMAES(), bg.OpenAIES()]

runs = []
for search in searches:
    runs.append(bg.train(search, "CartPole-v1", 60_000, engine="eager", progress="off", eval_episodes=0))
    result = bg.evaluate(runs[-1], episodes=100)
    name, population = type(search).__name__, search.population
    print(
        f"{name:18} {population:3} candidates a generation: {result.return_mean:5.1f} of 500 after 60,000"
        " steps"
    )

picture = bg.plot(runs, folder / "returns.png")
print(f"\nLook at {picture}: what the candidates earn, not what the center of the search would.")
