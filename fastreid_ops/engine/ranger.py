# SPDX-License-Identifier: Apache-2.0
"""Ranger: RAdam whose weights are drawn towards slow ones every few steps.

Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond" (2020), algorithm 2, and Zhang et al.,
"Lookahead Optimizer: k steps forward, 1 step back" (2019), algorithm 1, put together as in the NAIC2020 systems:
weight decay is decoupled, and epsilon is 1e-5.
"""

import torch


class Ranger(torch.optim.RAdam):
    """After every `k`-th step of a parameter: slow += alpha * (p - slow), p = slow.

    The slow weights begin as the parameter before its first step, and are counted by the parameter's own steps: one
    that is frozen for some epochs does not lose its turn. They are part of the state that is saved.
    """

    def __init__(
        self,
        params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.95, 0.999),
        eps: float = 1e-5,
        weight_decay: float = 0.0,
        *,
        alpha: float = 0.5,
        k: int = 6,
    ) -> None:
        super().__init__(
            params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, decoupled_weight_decay=True
        )
        self.alpha, self.k = alpha, k

    @torch.no_grad()
    def step(self, closure=None):
        moving = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        slow = [self.state[p].get("slow") for p in moving]
        begun = [p.clone() if s is None else s for p, s in zip(moving, slow, strict=True)]
        loss = super().step(closure)
        due = []
        for p, s in zip(moving, begun, strict=True):
            self.state[p]["slow"] = s
            if int(self.state[p]["step"]) % self.k == 0:
                due.append((s, p))
        if due:
            slow, fast = (list(each) for each in zip(*due, strict=True))
            torch._foreach_lerp_(slow, fast, self.alpha)
            torch._foreach_copy_(fast, slow)
        return loss
