# SPDX-License-Identifier: Apache-2.0
"""Calls that the attention ops must refuse, each naming the argument."""

from __future__ import annotations

import functools

import torch
from opspec import ErrorSample

from fastreid_ops.ops.attention import (
    Gate,
    attention_gate,
    attention_pool,
    channel_attention,
    spatial_channel_attention,
)

HALVES = (torch.bfloat16, torch.float16)


class Malformed:
    """A valid call, ``fn(x, *more, **good)``, with something changed."""

    def __init__(self, fn, *more, **good):
        self.fn, self.more, self.good = fn, more, good
        self.x = torch.randn(2, 6, 4, 3)
        self.samples: list[ErrorSample] = []

    def add(self, name, error, argument, pattern, /, **changes):
        def call():
            arguments = {"x": self.x, **self.good, **changes}
            return self.fn(arguments.pop("x"), *self.more, **arguments)

        self.samples.append(ErrorSample(name, call, error, argument, pattern))

    def tensor(self, name, good, **also):
        """What is wrong with any dense floating tensor."""
        change = functools.partial(self.add, **also)
        for dtype in (torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn):
            change(f"{name} {dtype}", TypeError, name, "float32", **{name: good.to(dtype)})
        for value in (good.numpy(), 1.0, "map", object()):
            change(f"{name} {type(value).__name__}", TypeError, name, "torch.Tensor", **{name: value})
        change(f"{name} sparse", TypeError, name, "layout sparse_coo", **{name: good.to_sparse()})
        nested = torch.nested.nested_tensor([good[0], good[0]])
        change(f"{name} nested", TypeError, name, "nested", **{name: nested})
        change(f"{name} meta", ValueError, name, "device meta, expected cpu", **{name: good.to("meta")})

    def shapes(self, name, good, *shapes, **also):
        for shape in shapes:
            value = torch.zeros(shape, dtype=good.dtype)
            self.add(f"{name} {shape}", ValueError, name, r"shape \(", **also, **{name: value})

    def maps(self, *, several):
        """x itself, and lists of maps where these are taken."""
        x = self.x
        for dtype in (torch.int64, torch.int8, torch.bool, torch.complex128):
            self.add(f"x {dtype}", TypeError, "x", "float32, float64, bfloat16 or float16", x=x.to(dtype))
        for value in (x.numpy(), None, 1.0, "map", {"x": x}):
            self.add(f"x {type(value).__name__}", TypeError, "x", "torch.Tensor", x=value)
        self.add("x sparse", TypeError, "x", "sparse_coo", x=x.to_sparse())
        self.add("x mkldnn", TypeError, "x", "layout", x=x.to_mkldnn())
        for shape in ((), (6,), (6, 4), (6, 4, 3), (1, 2, 6, 4, 3)):
            self.add(f"x {len(shape)}-D", ValueError, "x", "4 dimensions", x=torch.zeros(shape))
        for dim in (1, 2, 3):
            shape = [2, 6, 4, 3]
            shape[dim] = 0
            self.add(
                f"x empty in {dim}", ValueError, "x", f"at least 1 in dimension {dim}", x=torch.zeros(shape)
            )
        if not several:
            self.add("x list", TypeError, "x", "got list", x=[x, x])
            self.add("x tuple", TypeError, "x", "got tuple", x=(x,))
            return
        self.add("no maps", ValueError, "x", "got 0 maps, expected 1 to 8", x=[])
        self.add("9 maps", ValueError, "x", "got 9 maps, expected 1 to 8", x=[x] * 9)
        self.add("a map in a list", TypeError, "x", "got list", x=[x, [x]])
        self.add("None in a list", TypeError, "x", "got NoneType", x=[x, None])
        self.add("maps of two shapes", ValueError, "x", "shape of the first map", x=[x, x[:, :, :2]])
        self.add("maps that broadcast", ValueError, "x", "shape of the first map", x=[x, x[:1]])
        self.add("maps of two dtypes", TypeError, "x", "dtype of the first map", x=(x, x.double()))
        self.add("maps of two devices", ValueError, "x", "device of the first map", x=[x, x.to("meta")])
        self.add("3-D second map", ValueError, "x", "4 dimensions", x=[x, x[0]])

    def statistics(self, name, *, empty):
        for value in ("avg", None, 3, {"avg"}):
            label = f"{name} {type(value).__name__} {value}"
            self.add(label, TypeError, name, "a tuple of avg and max", **{name: value})
        self.add(f"{name} near", ValueError, name, "one of avg or max", **{name: ("mean",)})
        self.add(f"{name} hint", ValueError, name, "did you mean 'max'", **{name: ("avg", "maxx")})
        self.add(f"{name} number", TypeError, name, "got int", **{name: (1,)})
        self.add(f"{name} twice", ValueError, name, "no name twice", **{name: ("avg", "avg")})
        if empty:
            self.add(f"{name} empty", ValueError, name, empty, **{name: ()})

    def ties(self):
        self.add("ties near", ValueError, "ties", "one of first or equal", ties="last")
        self.add("ties hint", ValueError, "ties", "did you mean 'first'", ties="First")
        for value in (None, True, 0):
            self.add(f"ties {value}", TypeError, "ties", "one of first or equal", ties=value)

    def ends(self):
        """activation, residual, relu."""
        for value, hint in (("Sigmoid", "did you mean 'sigmoid'"), ("tanh", "one of"), ("", "sigmoid_relu")):
            self.add(f"activation {value}", ValueError, "activation", hint, activation=value)
        for value in (None, 0, torch.sigmoid):
            self.add(
                f"activation {type(value).__name__}", TypeError, "activation", "one of", activation=value
            )
        for value in (1, None, "yes", torch.tensor(True)):
            self.add(f"relu {value}", TypeError, "relu", "True or False", relu=value)
        shapes = ((2, 6, 4), (1, 6, 4, 3), (2, 6, 3, 4), (2, 6, 4, 3, 1))
        self.shapes("residual", self.x, *shapes)
        for value in (self.x.numpy(), [self.x], 0.0):
            label = f"residual {type(value).__name__}"
            self.add(label, TypeError, "residual", "torch.Tensor", residual=value)
        for dtype in (torch.float64, *HALVES):
            self.add(f"residual {dtype}", TypeError, "residual", "dtype of x", residual=self.x.to(dtype))
        self.add("residual meta", ValueError, "residual", "device", residual=self.x.to("meta"))


def pool():
    bad = Malformed(attention_pool)
    bad.maps(several=False)
    bad.statistics("channel", empty="at least one statistic")
    bad.statistics("spatial", empty=None)
    bad.ties()
    return bad.samples


def gate():
    x, row, column = torch.randn(2, 6, 4, 3), torch.randn(2, 6), torch.randn(2, 4, 3)
    bad = Malformed(attention_gate, channel=row)
    bad.maps(several=False)
    # With several maps every map wants its logits.
    bad.samples = [sample for sample in bad.samples if sample.name not in ("x list", "x tuple")]
    bad.ends()
    bad.tensor("channel", row)
    bad.shapes(
        "channel", row, (6,), (2,), (2, 5), (1, 6), (6, 2), (2, 6, 1), (2, 6, 4, 3), (2, 6, 1, 1, 1), (2, 0)
    )
    bad.tensor("spatial", column, channel=None)
    bad.shapes(
        "spatial", column, (4, 3), (2, 3, 4), (1, 4, 3), (2, 2, 4, 3), (2, 12), (2, 4, 3, 1), channel=None
    )
    bad.tensor("shift", torch.randn(2, 6), spatial=column)
    bad.shapes("shift", row, (), (1,), (2,), (1, 6), (2, 6, 1), (2, 6, 4, 3), spatial=column)
    bad.tensor("full", x, channel=None)
    shapes = (
        (2, 6),
        (2, 6, 4),
        (1, 6, 4, 3),
        (2, 5, 4, 3),
        (2, 6, 3, 3),
        (2, 6, 4, 2),
        (2, 6, 8, 3),
        (2, 6, 0, 3),
    )
    bad.shapes("full", x, *shapes, channel=None)
    bad.add("no logits", ValueError, "channel", "no logits, expected channel, spatial or full", channel=None)
    bad.add("full and channel", ValueError, "full", "one kind of gate", full=x)
    bad.add("full and spatial", ValueError, "full", "one kind", channel=None, spatial=column, full=x)
    bad.add("shift without spatial", ValueError, "shift", "without both", shift=row)
    bad.add(
        "shift without channel", ValueError, "shift", "without both", channel=None, spatial=column, shift=row
    )
    bad.add("shift and full", ValueError, "shift", "without both", channel=None, full=x, shift=row)
    bad.add("logits list for one map", TypeError, "channel", "got list", channel=[row])
    two = {"x": [x, x]}
    bad.add("tensor for two maps", TypeError, "channel", "a sequence, one entry for each", **two)
    bad.add(
        "spatial tensor for two maps", TypeError, "spatial", "a sequence", **two, channel=None, spatial=column
    )
    for count in (0, 1, 3):
        bad.add(
            f"{count} logits for two maps",
            ValueError,
            "channel",
            "2, one for each map",
            **two,
            channel=[row] * count,
        )
    bad.add("None among logits", TypeError, "channel", "got NoneType", **two, channel=[row, None])
    bad.add("wrong second logits", ValueError, "channel", r"shape \(2, 5\)", **two, channel=[row, row[:, 1:]])
    bad.add(
        "outer for two maps", ValueError, "spatial", "one map", **two, channel=[row] * 2, spatial=[column] * 2
    )
    bad.add("full for two maps", ValueError, "full", "one map", **two, channel=None, full=x)
    bad.add("empty list of maps", ValueError, "x", "0 maps", x=[], channel=[])
    bad.add("9 maps", ValueError, "x", "9 maps", x=[x] * 9, channel=[row] * 9)
    bad.add("maps differ", ValueError, "x", "shape of the first map", x=[x, x[:, :, 1:]], channel=[row] * 2)
    bad.add("maps of two dtypes", TypeError, "x", "dtype", x=[x, x.half()], channel=[row] * 2)
    return bad.samples


def channel():
    w1, w2 = torch.randn(2, 6), torch.randn(6, 2)
    bad = Malformed(channel_attention, weight1=w1, bias1=w1[:, 0], weight2=w2, bias2=w2[:, 0])
    bad.maps(several=True)
    bad.statistics("statistics", empty="at least one of avg and max")
    bad.ties()
    bad.ends()
    bad.tensor("weight1", w1)
    bad.tensor("weight2", w2)
    bad.tensor("bias1", torch.randn(2))
    bad.tensor("bias2", torch.randn(6))
    bad.add("weight1 None", TypeError, "weight1", "torch.Tensor", weight1=None)
    bad.shapes("weight1", w1, (6,), (2, 5), (2, 12), (6, 2), (2, 6, 1, 1), (0, 6), (2, 0))
    bad.shapes("bias1", w1, (1,), (6,), (2, 1), ())
    bad.shapes("weight2", w2, (6,), (6, 3), (2, 6), (5, 2), (6, 2, 1, 1))
    bad.shapes("bias2", w2, (1,), (2,), (1, 6), (6, 1, 1))
    both = {"statistics": ("avg", "max")}
    bad.add("weight1 for one statistic", ValueError, "weight1", r"\(h, 12\) for 6 channels", **both)
    bad.add(
        "weight1 for two", ValueError, "weight1", r"\(h, 6\)", **both, shared=True, weight1=torch.randn(2, 12)
    )
    bad.add("weight1 alone", ValueError, "weight1", r"\(6, 6\)", weight2=None, bias2=None)
    bad.add(
        "bias2 alone",
        ValueError,
        "bias2",
        "None without weight2",
        weight1=torch.randn(6, 6),
        bias1=None,
        weight2=None,
    )
    for statistics in (("avg",), ("max",)):
        bad.add(
            f"shared {statistics[0]}",
            ValueError,
            "shared",
            "both avg and max",
            shared=True,
            statistics=statistics,
        )
    for value in (1, None, "no"):
        bad.add(f"shared {value}", TypeError, "shared", "True or False", shared=value)
    return bad.samples


def _logits(values):
    return Gate(channel=values.channel_avg)


def whole():
    x = torch.randn(2, 6, 4, 3)
    bad = Malformed(spatial_channel_attention, network=_logits)
    bad.maps(several=True)
    bad.statistics("channel", empty="at least one statistic")
    bad.statistics("spatial", empty=None)
    bad.ties()
    bad.ends()
    for value in (None, "network", torch.ones(2), Gate()):
        bad.add(f"network {type(value).__name__}", TypeError, "network", "a callable", network=value)
    returned = {
        "tensor": torch.ones(2, 6),
        "None": None,
        "tuple": (torch.ones(2, 6), None, None, None),
        "dict": {},
    }
    for name, value in returned.items():
        bad.add(f"network returns {name}", TypeError, "network", "a Gate", network=lambda _, v=value: v)
    gates = {
        "nothing": (ValueError, "channel", "no logits", Gate()),
        "wrong channels": (ValueError, "channel", r"shape \(2, 5\)", Gate(channel=torch.ones(2, 5))),
        "integers": (TypeError, "channel", "int64", Gate(channel=torch.ones(2, 6).long())),
        "wrong positions": (ValueError, "spatial", r"shape \(2, 3, 4\)", Gate(spatial=torch.ones(2, 3, 4))),
        "shift alone": (ValueError, "shift", "without both", Gate(torch.ones(2, 6), shift=torch.ones(6))),
        "full and channel": (ValueError, "full", "one kind", Gate(torch.ones(2, 6), full=x)),
        "list": (TypeError, "channel", "got list", Gate(channel=[torch.ones(2, 6)])),
    }
    for name, (error, argument, pattern, found) in gates.items():
        bad.add(f"network returns {name}", error, argument, pattern, network=lambda _, g=found: g)

    def in_turn(*values):
        """A network that returns another gate for each map."""
        return lambda _, left=list(values): left.pop(0)

    row, column = torch.ones(2, 6), torch.ones(2, 4, 3)
    two, outer = {"x": [x, x]}, Gate(row, column)
    mixed = {
        "channel then spatial": (TypeError, "channel", "NoneType", (Gate(row), Gate(spatial=column))),
        "spatial then channel": (TypeError, "channel", "NoneType", (Gate(spatial=column), Gate(row))),
        "channel then outer": (TypeError, "spatial", "NoneType", (Gate(row), outer)),
        "outer for two maps": (ValueError, "spatial", "one map", (outer, outer)),
        "shift in the second": (ValueError, "shift", "without both", (Gate(row), Gate(row, shift=row))),
        "full for two maps": (ValueError, "full", "one map", (Gate(full=x), Gate(full=x))),
        "full in the second": (ValueError, "full", "one kind", (Gate(row), Gate(row, full=x))),
    }
    for name, (error, argument, pattern, gates) in mixed.items():
        bad.samples.append(
            ErrorSample(name, lambda g=gates: bad.fn(**two, network=in_turn(*g)), error, argument, pattern)
        )
    return bad.samples
