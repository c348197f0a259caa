"""A plain loop over layers, directions, rows and steps, with torch.nn's own layers run for one step of one row."""

from __future__ import annotations

import torch


def states_of(module, hx):
    """hx as a list of tensors (L*D, B, .)."""
    return list(hx) if isinstance(module, torch.nn.LSTM) else [hx]


def loop(module: torch.nn.RNNBase, x, hx, lengths, resets=None, reset_state=None):
    """What `module`, a torch.nn layer without dropout, should give for padded x ``(T, B, I)``.

    Args:
        hx: as torch.nn's, ``(L*D, B, .)``.
        lengths: a list of B.
        resets: ``(T, B)`` bool or None.
        reset_state: as hx.

    Returns:
        y ``(T, B, D*P)``; the final states and the states of all steps, ``(T, L*D, B, .)``, each a list over h
        (and c).
    """
    T, B = x.shape[:2]
    D = 2 if module.bidirectional else 1
    start = states_of(module, hx)
    reset = states_of(module, reset_state) if resets is not None else None
    finals = [[None] * B for _ in range(module.num_layers * D)]
    steps = [[[None] * B for _ in range(module.num_layers * D)] for _ in range(T)]
    for layer in range(module.num_layers):
        rows = [[[None] * D for _ in range(B)] for _ in range(T)]
        for d in range(D):
            index = layer * D + d
            one_step = _one_step(module, layer, d)
            for b in range(B):
                state = [s[index, b] for s in start]
                order = range(T) if d == 0 else reversed(range(T))
                for t in order:
                    if t < lengths[b]:
                        if resets is not None and resets[t, b]:
                            state = [s[index, b] for s in reset]
                        state = one_step(x[t, b], state)
                        rows[t][b][d] = state[0]
                    else:
                        rows[t][b][d] = torch.zeros_like(state[0])
                    steps[t][index][b] = state
                finals[index][b] = state
        x = torch.stack([torch.stack([torch.cat(r) for r in step]) for step in rows])
    count = range(len(start))
    final = [torch.stack([torch.stack([s[i] for s in row]) for row in finals]) for i in count]
    every = [
        torch.stack([torch.stack([torch.stack([s[i] for s in row]) for row in step]) for step in steps]) for i in count
    ]
    return x, final, every


def _one_step(module, layer: int, direction: int):
    """(x (I), states) -> states, by a one-layer torch.nn module that reads this layer's weights."""
    suffix = f"_l{layer}" + ("_reverse" if direction else "")
    names = [n for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr") if hasattr(module, n + suffix)]
    weights = {name + "_l0": getattr(module, name + suffix) for name in names}
    input_size = weights["weight_ih_l0"].shape[1]
    extra = {"nonlinearity": module.nonlinearity} if isinstance(module, torch.nn.RNN) else {}
    if module.proj_size:
        extra["proj_size"] = module.proj_size
    single = type(module)(input_size, module.hidden_size, bias=module.bias, device="meta", **extra)

    def step(x, states):
        hx = tuple(s[None, None] for s in states)
        _, new = torch.func.functional_call(single, weights, (x[None, None], hx if len(hx) > 1 else hx[0]))
        return [s[0, 0] for s in (new if isinstance(new, tuple) else (new,))]

    return step
