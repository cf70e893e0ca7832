# SPDX-License-Identifier: Apache-2.0
"""What the contract frame cannot know about pairwise_distance: values, gradients, range, and the ways torch
calls it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spec_distance import METRICS, oracle

import fastreid_ops
from fastreid_ops.ops import distance as module
from fastreid_ops.ops.distance import pairwise_distance, reference

F64 = torch.float64
all_metrics = pytest.mark.parametrize("metric", METRICS)


def normal(*shape, dtype=F64, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64).to(dtype)


def test_values_by_hand():
    x, y = (
        torch.tensor([[3.0, 4.0], [0.0, 0.0]]),
        torch.tensor([[0.0, 0.0], [6.0, 8.0], [-4.0, 3.0], [-3.0, -4.0]]),
    )
    root = 50.0**0.5
    assert fastreid_ops.pairwise_distance is pairwise_distance
    expected = {
        "euclidean": [[5, 5, root, 10], [0, 10, 5, 5]],
        "sqeuclidean": [[25, 25, 50, 100], [0, 100, 25, 25]],
        "cosine": [[1, 0, 1, 2], [1, 1, 1, 1]],
        "arccos": [[math.pi / 2, 0, math.pi / 2, math.pi], [math.pi / 2] * 4],
    }
    for metric, values in expected.items():
        torch.testing.assert_close(
            pairwise_distance(x, y, metric=metric), torch.tensor(values, dtype=torch.float32)
        )


@all_metrics
def test_equal_rows_are_at_distance_zero_and_order_does_not_matter(metric):
    for dtype in (torch.float32, F64, torch.bfloat16, torch.float16):
        x, y = normal(41, 259, dtype=dtype) + 50, normal(23, 259, dtype=dtype, seed=1) + 50
        itself = pairwise_distance(x, x, metric=metric)
        assert (itself.diagonal() == 0).all()
        assert torch.equal(itself, itself.T)
        assert torch.equal(pairwise_distance(x, y, metric=metric), pairwise_distance(y, x, metric=metric).T)


@all_metrics
def test_an_entry_depends_on_its_two_rows_alone(metric):
    x, y = normal(70, 77, dtype=torch.float32), normal(90, 77, dtype=torch.float32, seed=1)
    y[5:9] = x[20:24]
    whole = pairwise_distance(x, y, metric=metric)
    for rows, columns in (
        (slice(1, 2), slice(5, 6)),
        (slice(19, 33), slice(3, 40)),
        (slice(64, 70), slice(89, 90)),
    ):
        assert torch.equal(pairwise_distance(x[rows], y[columns], metric=metric), whole[rows, columns])


def test_angles_keep_their_digits_where_the_cosine_has_none():
    """Relative to |u - v| the error is a few roundings; 1 - cos and arccos(cos) in float32 would leave no
    digit at all."""
    eps = torch.finfo(torch.float32).eps
    x = normal(16, 512, dtype=torch.float32)
    for step in (1e-2, 1e-3, 1e-5):
        y = x + step * normal(16, 512, dtype=torch.float32, seed=1)
        angle = oracle(x, y, metric="arccos")["result"].diagonal()
        got = pairwise_distance(x, y, metric="arccos").double().diagonal()
        assert ((got - angle).abs() <= 4 * eps * (angle + 0.3)).all()
        cosine = pairwise_distance(x, y, metric="cosine").double().diagonal()
        assert (
            (cosine - oracle(x, y, metric="cosine")["result"].diagonal()).abs()
            <= 2 * eps * (angle + angle**2)
        ).all()
        clipped = torch.nn.functional.cosine_similarity(x, y).clamp(-1 + 1e-5, 1 - 1e-5).acos()
        assert step > 3e-3 or (clipped - angle).abs().max() > 3e-3  # what the clip loses


@all_metrics
@settings(max_examples=40, deadline=None)
@given(exponent=st.integers(-40, 37), offset=st.sampled_from([0.0, 1.0, 1e3]), seed=st.integers(0, 2**16))
def test_never_nan_nor_negative_over_the_range_of_float32(metric, exponent, offset, seed):
    scale = 10.0**exponent
    x, y = ((normal(9, 33, seed=seed + i) + offset) / (offset + 4) * scale for i in range(2))
    x, y = x.float(), y.float()
    y[4] = x[4]
    got = pairwise_distance(x, y, metric=metric)
    assert not got.isnan().any()
    assert (got >= 0).all()
    if metric != "sqeuclidean":  # its squares may leave the range
        want = oracle(x, y, metric=metric)["result"]
        torch.testing.assert_close(
            got.double(),
            want,
            rtol=2e-6,
            atol=2e-7 if metric in ("cosine", "arccos") else 2e-7 * scale + 1e-45,
        )


def test_float64_range():
    for scale in (1e-200, 1e-150, 1e150, 1e200):
        x, y = normal(5, 8) * scale, normal(6, 8, seed=1) * scale
        for metric in ("cosine", "arccos"):
            want = oracle(x / scale, y / scale, metric=metric)["result"]
            torch.testing.assert_close(pairwise_distance(x, y, metric=metric), want, rtol=1e-13, atol=1e-15)


def test_without_the_check_nan_stays_in_its_row():
    for dtype in (torch.float32, F64, torch.bfloat16, torch.float16):
        for metric in METRICS:
            x, y = normal(40, 20, dtype=dtype), normal(37, 20, dtype=dtype, seed=1)
            x[7, 3], y[30, 0] = float("nan"), float("nan")
            x[9] = 0
            got = pairwise_distance(x, y, metric=metric, check_finite=False).isnan()
            expected = torch.zeros_like(got)
            expected[7], expected[:, 30] = True, True
            assert torch.equal(got, expected)


def test_infinity_without_the_check():
    x, y = torch.tensor([[float("inf"), 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 0.0], [float("inf"), 1.0]])
    got = pairwise_distance(x, y, check_finite=False)
    assert got[0, 0] == got[1, 1] == float("inf")
    assert got[0, 1].isnan()
    assert got[1, 0] == 1


@all_metrics
def test_gradcheck(metric):
    def run(x, y):
        return pairwise_distance(x, y, metric=metric)

    cases = [
        (normal(4, 5), normal(3, 5, seed=1)),
        (normal(2, 3, 4), normal(3, 4, seed=1)),
        (normal(5, 3).T, normal(2, 5, seed=1)),
        (normal(1, 40), normal(2, 40, seed=1)),
    ]
    for x, y in cases:
        x, y = x.requires_grad_(), y.requires_grad_()
        assert torch.autograd.gradcheck(run, (x, y))
        assert torch.autograd.gradcheck(run, (x, y.detach()))
        assert torch.autograd.gradcheck(run, (x.detach(), y))


@all_metrics
def test_gradients_in_every_dtype_against_the_reference_in_float64(metric):
    for dtype, tolerance in (
        (torch.float32, 2e-6),
        (F64, 1e-13),
        (torch.bfloat16, 2e-2),
        (torch.float16, 4e-3),
    ):
        x, y = normal(70, 300, dtype=dtype), normal(35, 300, dtype=dtype, seed=1)
        grad = normal(70, 35, dtype=dtype, seed=2)
        wide = [t.double().requires_grad_() for t in (x, y)]
        want = torch.autograd.grad(reference(*wide, metric=metric), wide, grad.double())
        leaves = [t.requires_grad_() for t in (x, y)]
        got = torch.autograd.grad(pairwise_distance(*leaves, metric=metric), leaves, grad)
        for value, expected in zip(got, want, strict=True):
            assert value.dtype == dtype
            assert (value.double() - expected).abs().max() <= tolerance * expected.abs().max()


@all_metrics
def test_the_gradient_of_a_set_against_itself_takes_one_sweep(metric):
    """Both places of the row at once; a copy or a detached second argument is another tensor and stays one."""
    x = normal(2, 9, 7).requires_grad_()
    grad = normal(2, 9, 9, seed=1)
    (want,) = torch.autograd.grad(reference(x, x, metric=metric), x, grad)
    name = "fastreid::pairwise_distance_backward"
    for y, sweeps in ((x, 1), (x.clone(), 2)):
        with torch.profiler.profile() as profile:
            (got,) = torch.autograd.grad(pairwise_distance(x, y, metric=metric), x, grad)
        torch.testing.assert_close(got, want)
        assert sum(event.name == name for event in profile.events()) == sweeps
    (got,) = torch.autograd.grad(pairwise_distance(x, x.detach(), metric=metric), x, grad)
    (want,) = torch.autograd.grad(reference(x, x.detach(), metric=metric), x, grad)
    torch.testing.assert_close(got, want)
    assert torch.autograd.gradcheck(lambda t: pairwise_distance(t, t, metric=metric), (x,))
    between = 3 * x
    (got,) = torch.autograd.grad(pairwise_distance(between, between, metric=metric), x, grad)
    (want,) = torch.autograd.grad(reference(3 * x, 3 * x, metric=metric), x, grad)
    torch.testing.assert_close(got, want)


@all_metrics
def test_gradients_far_from_the_origin(metric):
    """The difference is taken before anything is added up, so an offset costs the gradient nothing."""
    x, y = (normal(6, 64, dtype=torch.float32, seed=i) + 1000 for i in range(2))
    wide = [t.double().requires_grad_() for t in (x, y)]
    leaves = [t.requires_grad_() for t in (x, y)]
    want = torch.autograd.grad(reference(*wide, metric=metric).sum(), wide)
    got = torch.autograd.grad(pairwise_distance(*leaves, metric=metric).sum(), leaves)
    # The angular metrics divide rows of length 8000 by it first; what is left of a difference has 4 digits.
    tolerance = 1e-6 if metric in ("euclidean", "sqeuclidean") else 2e-3
    for value, expected in zip(got, want, strict=True):
        assert (value.double() - expected).abs().max() <= tolerance * expected.abs().max()


@all_metrics
def test_gradient_is_finite_at_zero_distance_zero_rows_and_opposite_rows(metric):
    for dtype in (torch.float32, F64, torch.bfloat16, torch.float16):
        x = normal(6, 9, dtype=dtype)
        y = x.clone()
        x[2], y[3], y[4] = 0, 0, -x[4]
        x, y = x.requires_grad_(), y.requires_grad_()
        pairwise_distance(x, y, metric=metric).sum().backward()
        assert x.grad.isfinite().all()
        assert y.grad.isfinite().all()
        one = x.detach()[:1].requires_grad_()
        pairwise_distance(one, one.detach(), metric=metric).sum().backward()
        assert (one.grad == 0).all()
        if metric in ("cosine", "arccos"):
            assert (x.grad[2] == 0).all()
            assert (y.grad[3] == 0).all()


def test_gradient_bits_do_not_depend_on_threads_or_other_rows(restore_threads):
    x, y, grad = (
        normal(100, 130, dtype=torch.float32),
        normal(77, 130, dtype=torch.float32, seed=1),
        normal(100, 77, dtype=torch.float32),
    )
    for metric in range(4):
        distance = torch.ops.fastreid.pairwise_distance(x, y, metric)
        backward = torch.ops.fastreid.pairwise_distance_backward
        torch.set_num_threads(1)
        expected = backward(grad, distance, x, y, metric)
        for threads in (2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(backward(grad, distance, x, y, metric), expected)
        assert torch.equal(backward(grad[40:43], distance[40:43], x[40:43], y, metric), expected[40:43])


def test_a_second_derivative_is_refused_and_the_reference_has_one():
    x, y = normal(3, 4).requires_grad_(), normal(2, 4, seed=1).requires_grad_()
    (grad,) = torch.autograd.grad(pairwise_distance(x, y).sum(), x, create_graph=True)
    with pytest.raises(
        NotImplementedError, match=r"pairwise_distance: second derivative: got .*, expected first"
    ):
        grad.sum().backward()
    for metric in METRICS:
        assert torch.autograd.gradgradcheck(lambda a, b, m=metric: reference(a, b, metric=m), (x, y))


@all_metrics
def test_compile_without_breaks_for_any_size(metric):
    @torch.compile(fullgraph=True, dynamic=True, backend="aot_eager")
    def step(x, y):
        return pairwise_distance(x, y, metric=metric).square().sum()

    for rows in (4, 7, 12):
        x, y = normal(rows, 5).requires_grad_(), normal(3, 5, seed=1).requires_grad_()
        step(x, y).backward()
        compiled = x.grad.clone(), y.grad.clone()
        x.grad = y.grad = None
        pairwise_distance(x, y, metric=metric).square().sum().backward()
        torch.testing.assert_close(compiled, (x.grad, y.grad))


def test_inductor():
    x, y = normal(6, 8, dtype=torch.float32), normal(5, 8, dtype=torch.float32, seed=1)
    compiled = torch.compile(lambda a, b: pairwise_distance(a * 2, b, metric="cosine") + 1, fullgraph=True)
    torch.testing.assert_close(compiled(x, y), pairwise_distance(x * 2, y, metric="cosine") + 1)


def test_export_with_a_dynamic_number_of_rows():
    class Model(torch.nn.Module):
        def forward(self, x, y):
            return pairwise_distance(x, y, metric="arccos")

    rows = torch.export.Dim("rows")
    program = torch.export.export(
        Model(), (normal(4, 5), normal(3, 5)), dynamic_shapes={"x": {0: rows}, "y": None}
    )
    x, y = normal(9, 5, seed=3), normal(3, 5, seed=4)
    assert torch.equal(program.module()(x, y), pairwise_distance(x, y, metric="arccos"))


def test_meta_and_fake_tensors():
    from torch._subclasses import FakeTensorMode

    x, y = torch.empty(2, 1, 4, 5, device="meta"), torch.empty(3, 7, 5, device="meta", requires_grad=True)
    result = pairwise_distance(x, y)
    assert (result.shape, result.device.type) == ((2, 3, 4, 7), "meta")
    result.sum().backward()
    assert y.grad.shape == y.shape
    with FakeTensorMode():
        assert pairwise_distance(torch.empty(4, 5), torch.empty(6, 5)).shape == (4, 6)


@all_metrics
def test_vmap(metric):
    x, y = normal(3, 6, 4), normal(2, 4, seed=1)
    got = torch.vmap(lambda a, b: pairwise_distance(a, b, metric=metric), in_dims=(0, None))(x, y)
    assert torch.equal(got, pairwise_distance(x, y, metric=metric))
    got = torch.vmap(lambda a, b: pairwise_distance(a, b, metric=metric), in_dims=(None, 1))(y, x)
    assert torch.equal(got, torch.stack([pairwise_distance(y, x[:, i], metric=metric) for i in range(6)]))
    nested = torch.vmap(torch.vmap(lambda a, b: pairwise_distance(a[None], b[None], metric=metric)))(
        x[:2], x[1:]
    )
    assert nested.shape == (2, 6, 1, 1)


def test_autocast_computes_in_float32():
    x, y = normal(4, 5, dtype=torch.bfloat16).requires_grad_(), normal(3, 5, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = pairwise_distance(x, y)
    assert result.dtype == torch.float32
    assert torch.equal(result, pairwise_distance(x.float(), y.float()))
    result.sum().backward()
    assert x.grad.dtype == torch.bfloat16


def test_negative_and_conjugate_views():
    z = torch.randn(4, 5, dtype=torch.complex128)
    view = z.conj().imag
    assert view.is_neg()
    assert torch.equal(pairwise_distance(view, view + 1), pairwise_distance(view.resolve_neg(), view + 1))


def test_without_the_native_library_the_reference_runs(monkeypatch):
    monkeypatch.setattr(module, "_STATUS", module._STATUS._replace(native=False, cuda=False))
    monkeypatch.setattr(torch.ops.fastreid, "pairwise_distance", None)
    x, y = normal(5, 8, dtype=torch.float32), normal(6, 8, dtype=torch.float32, seed=1)
    for metric in METRICS:
        assert torch.equal(pairwise_distance(x, y, metric=metric), reference(x, y, metric=metric))


def test_the_reference_is_the_same_in_blocks():
    x, y = normal(50, 640), normal(900, 640, seed=1)
    whole = reference(x, y)
    assert y.numel() * 50 > 2**24  # more than one block
    torch.testing.assert_close(
        whole, torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist"), rtol=1e-12, atol=0
    )


def test_direct_calls_of_the_op_stay_inside_their_memory():
    op, backward = torch.ops.fastreid.pairwise_distance, torch.ops.fastreid.pairwise_distance_backward
    x, y = torch.randn(4, 3), torch.randn(5, 3)
    bad = [
        (x, torch.randn(5, 2), 0),
        (x, y.double(), 0),
        (x, y, 4),
        (x, y, -1),
        (x[0], y, 0),
        (x, y[None], 0),
        (x.long(), y.long(), 0),
        (x[:, :0], y[:, :0], 0),
    ]
    for args in bad:
        with pytest.raises((RuntimeError, ValueError), match="pairwise_distance: "):
            op(*args)
    with pytest.raises((RuntimeError, ValueError), match="pairwise_distance: grad"):
        backward(torch.randn(4, 4), torch.randn(4, 5), x, y, 0)


def test_more_rows_than_a_32_bit_square_has_entries():
    """46341 x 46341 is the first square matrix above 2^31 - 1 entries: 4.3 GB in half precision."""
    n = 46341
    x = torch.arange(n, dtype=torch.float32).remainder(64).half().unsqueeze(1)
    result = pairwise_distance(x, x, metric="sqeuclidean")
    for row in (0, 46340, 23170):
        assert torch.equal(result[row], (x[:, 0] - x[row, 0]).square())
