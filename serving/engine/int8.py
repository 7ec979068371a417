"""INT8 weights with activations quantised on the way, for CPUs.

Each output channel of a weight and each row of activations has a scale of its own. The product is computed in integers,
exactly, so a row's result cannot depend on its neighbours; torch's own dynamic quantisation takes one scale for all
rows of a call, which makes every row's answer depend on who is computed with it.

Shapes: R rows, I inputs, O outputs.
"""

# mypy: allow-subclassing-any
# torch is not read by mypy, so its classes are of type Any.
from __future__ import annotations

import torch
from torch import Tensor, nn

_LARGEST = 127.0
_SMALLEST_SCALE = 1e-12


class Int8Linear(nn.Module):
    """A linear layer without its fp32 weight."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight_OI = linear.weight.detach().float()
        scale_O = weight_OI.abs().amax(1).clamp_min(_SMALLEST_SCALE) / _LARGEST
        self.out_features = linear.out_features
        self.register_buffer("weight_OI", (weight_OI / scale_O[:, None]).round().to(torch.int8).contiguous())
        self.register_buffer("scale_O", scale_O)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().float())

    def forward(self, x: Tensor) -> Tensor:
        x_RI = x.reshape(-1, x.shape[-1])
        scale_R1 = x_RI.abs().amax(1, keepdim=True).clamp_min(_SMALLEST_SCALE) / _LARGEST
        rounded_RI = (x_RI / scale_R1).round().to(torch.int8)
        y_RO = torch._int_mm(rounded_RI, self.weight_OI.t()).float().mul_(scale_R1).mul_(self.scale_O)
        if self.bias is not None:
            y_RO += self.bias
        return y_RO.view(*x.shape[:-1], self.out_features)


def quantize(model: nn.Module) -> nn.Module:
    """Replace every linear layer of `model`, in place; embeddings, norms and the tied head stay as they are."""
    for name, child in model.named_children():
        if isinstance(child, nn.Linear):
            setattr(model, name, Int8Linear(child))
        else:
            quantize(child)
    return model
