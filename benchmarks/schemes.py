"""What each scheme adds to forward and backward, in a module and in a graph, beside the best known way to write it.

The overhead is that of the least CPU times of many short turns, for a machine that others use too is never faster than
it is. The memory is what autograd keeps of weights from the forward to the backward, as a multiple of the weights.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import wnconvert
from best_known import BEST_KNOWN
from paired import Race, Side, machine, parse, parser, plain_table

#: by name: what it is, how it is built, and its input
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "8 Conv2d(64, 64, 3), 16 x 16": (lambda: repeated(8, nn.Conv2d, 64, 64, 3, padding=1), (4, 64, 16, 16)),
    "8 Linear(512, 512)": (lambda: repeated(8, nn.Linear, 512, 512), (64, 512)),
    "20 Conv1d(256, 256, 3), length 16": (lambda: repeated(20, nn.Conv1d, 256, 256, 3, padding=1), (2, 256, 16)),
}
COLUMNS = ("scheme", "plain", "module", "graph", "best known", "module / best known", "kept: module", "graph", "best")


def repeated(count: int, layer: Callable[..., nn.Module], *args: int, **options: int) -> nn.Module:
    """Return several layers of one kind."""
    return nn.Sequential(*[layer(*args, **options) for _ in range(count)])


def step(model: nn.Module, x: Tensor) -> None:
    """Run forward and backward."""
    for parameter in model.parameters():
        parameter.grad = None
    model(x).sum().backward()


def kept(model: nn.Module, x: Tensor) -> int:
    """Return how many bytes are kept for the backward, without those of parameters and buffers."""
    mine = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in mine:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = model(x)
    del result
    return sum(found.values())


def ways(scheme: str, build: Callable[[], nn.Module], compiled: bool) -> dict[str, nn.Module]:
    """Return the model in all its ways, ready to be run."""
    models = {"plain": build(), "module": wnconvert.apply(build(), scheme, inplace=True).model}
    models["graph"] = wnconvert.apply(wnconvert.trace(build()), scheme, inplace=True).model
    models |= {name: convert(build()) for name, convert in BEST_KNOWN[scheme].items()}
    if compiled:
        del models["graph"]
        torch.compiler.reset()  # which gives up after some models of one class
        models = {name: torch.compile(model) for name, model in models.items()}
    return models


def row(scheme: str, net: str, rounds: int, compiled: bool) -> list[str]:
    """Return the cells of a scheme."""
    build, shape = NETS[net]
    x = torch.randn(shape)
    models = ways(scheme, build, compiled)
    for model in models.values():
        for _ in range(3):
            step(model, x)
    race = Race({name: Side(lambda _, m=model: step(m, x)) for name, model in models.items()}, rounds)
    plain = race.least("plain")
    over = {name: race.least(name) / plain - 1 for name in models}
    weights = sum(each.numel() * each.element_size() for each in build().parameters() if each.dim() > 1)
    memory = (
        {}
        if compiled
        else {name: (kept(model, x) - kept(models["plain"], x)) / weights for name, model in models.items()}
    )
    best = min(BEST_KNOWN[scheme], key=lambda name: over[name], default=None)
    return [
        scheme,
        f"{plain * 1e3:.3g} ms",
        f"{over['module']:.1%}",
        f"{over['graph']:.1%}" if "graph" in over else "",
        "" if best is None else f"{over[best]:.1%}, `{best}`",
        "" if best is None or over[best] <= 0 else f"**{over['module'] / over[best]:.2f}x**",
        *(f"{memory[name]:.2f}" if name in memory else "" for name in ("module", "graph", best)),
    ]


def main() -> None:
    """Run the benchmark."""
    arguments = parser(__doc__, rounds=60, quick=5)
    arguments.add_argument("--scheme", nargs="+", choices=BEST_KNOWN, default=list(BEST_KNOWN), help="which schemes")
    arguments.add_argument("--net", nargs="+", type=int, choices=range(len(NETS)), help="which nets, by number")
    arguments.add_argument("--compile", action="store_true", help="with torch.compile on all sides")
    options = parse(arguments)
    print(machine())
    for index, net in enumerate(NETS):
        if options.net is None or index in options.net:
            print(f"\n{net}:")
            plain_table(COLUMNS, (row(scheme, net, options.rounds, options.compile) for scheme in options.scheme))


if __name__ == "__main__":
    main()
