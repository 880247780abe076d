"""Two ways to differentiate an expectation, through the sample and by the score: on a parabola, with their
variances known."""

from pathlib import Path

import torch

from bellgrad.ops.distributions import DiagonalGaussian
from bellgrad.ops.policy_gradient import pathwise, score_function
from bellgrad.report.figures import INK, figure_in_style, save

folder = Path("runs/examples/reparameterization")
folder.mkdir(parents=True, exist_ok=True)
ways = {
    "pathwise": (pathwise, lambda m, s: 4 * s**2),
    "score function": (score_function, lambda m, s: m**4 / s**2 + 14 * m**2 + 15 * s**2),
}


def parabola(x: torch.Tensor) -> torch.Tensor:
    """`x^2`, whose mean under N(m, s) is `m^2 + s^2`."""
    return x.square().sum(-1)


print(
    "d/dm E[x^2] = 2 m, from 100,000 draws of x ~ N(m, s)\n   m    s  way             mean   variance   in"
    " theory"
)
for m, s in ((1.0, 0.5), (0.0, 1.0), (2.0, 0.2)):
    noise = torch.randn(100_000, 1, generator=torch.Generator().manual_seed(0))
    for name, (estimate, theory) in ways.items():
        mean = torch.full_like(noise, m, requires_grad=True)
        x = DiagonalGaussian(mean, torch.tensor([s]).log())
        (gradient,) = torch.autograd.grad(estimate(parabola, x, noise).sum(), mean)
        print(f"{m:4} {s:4}  {name:14} {gradient.mean():6.3f} {gradient.var():10.3f} {theory(m, s):11.3f}")

with figure_in_style((6.5, 3.4), "light") as figure:
    axes = figure.subplots()
    for color, (name, (estimate, _)) in zip(INK["light"].lines, ways.items(), strict=False):
        rng, mean, walked = torch.Generator().manual_seed(0), torch.tensor([2.0]), []
        for _ in range(150):  # down the parabola, by ten draws per step
            walked.append(mean.item())
            mean.requires_grad_()
            x = DiagonalGaussian(mean.expand(10, 1), torch.tensor([0.2]).log())
            (gradient,) = torch.autograd.grad(
                estimate(parabola, x, torch.randn(10, 1, generator=rng)).mean(), mean
            )
            mean = mean.detach() - 0.02 * gradient
        axes.plot(walked, color=color, label=name)
    axes.set_xlabel("updates of ten draws")
    axes.set_ylabel("m")
    axes.legend()
    save(figure, folder / "descent.png")
print(f"\nLook at {folder / 'descent.png'}")
