"""The cases of torch.testing._internal.common_modules for the six classes, run with seqcuda's."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from cases import CELLS, LAYERS, flat
from torch.autograd import gradcheck, gradgradcheck
from torch.testing._internal.common_modules import ModuleErrorEnum, module_db

import seqcuda
from seqcuda.testing import assert_close_to_exact, assert_within_rule

INFOS = {info.module_cls.__name__: info for info in module_db if info.module_cls.__name__ in LAYERS + CELLS}
KINDS = sorted(INFOS)
TRAINING = pytest.mark.parametrize("training", [False, True])
KIND = pytest.mark.parametrize("kind", KINDS)


def test_all_six_classes_are_there():
    assert set(INFOS) == set(LAYERS + CELLS)


def samples(kind: str, dtype: torch.dtype, training: bool, requires_grad: bool = False):
    info = INFOS[kind]
    packed = {} if kind in CELLS or kind == "LSTM" else {"with_packed_sequence": True}
    torch.manual_seed(0)
    return info.module_inputs_func(info, "cpu", dtype, requires_grad, training, **packed)


def construct(namespace, kind: str, sample, dtype: torch.dtype, training: bool) -> torch.nn.Module:
    torch.manual_seed(1)
    arguments = sample.constructor_input
    return getattr(namespace, kind)(*arguments.args, **{"dtype": dtype} | arguments.kwargs).train(training)


def doubled(value):
    if isinstance(value, (tuple, list)) and not hasattr(value, "batch_sizes"):
        return tuple(doubled(v) for v in value)
    return value.to(torch.float64)


@KIND
@TRAINING
def test_forward(backend_name, kind, training):
    """The output is torch.nn's, and that of the case's reference function."""
    for sample in samples(kind, torch.float32, training):
        module = construct(seqcuda, kind, sample, torch.float32, training)
        rival = construct(torch.nn, kind, sample, torch.float32, training)
        args, kwargs = sample.forward_input.args, sample.forward_input.kwargs
        ours, theirs = flat(module(*args, **kwargs)), flat(rival(*args, **kwargs))
        exact = flat(copy.deepcopy(rival).double()(*map(doubled, args), **kwargs))
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert_within_rule(ours[name], theirs[name], exact[name], name=f"{name} of {module}")
        if sample.reference_fn is not None and not hasattr(args[0], "batch_sizes"):
            again = flat(sample.reference_fn(module, *args, **kwargs))
            for name in ours:
                assert_close_to_exact(ours[name], again[name].double(), name=f"{name} of {module} by its reference")


@KIND
def test_gradients(backend_name, kind):
    for i, sample in enumerate(samples(kind, torch.float64, True, requires_grad=True)[::2]):
        check_gradients(gradcheck, kind, sample, training=i % 2 == 0)


@KIND
def test_second_gradients(backend_name, kind):
    for sample in samples(kind, torch.float64, True, requires_grad=True)[::8]:
        check_gradients(gradgradcheck, kind, sample, training=True)


def check_gradients(check, kind, sample, training):
    """The inputs and parameters of a module, checked against finite differences."""
    module = construct(seqcuda, kind, sample, torch.float64, training)
    parameters = dict(module.named_parameters())
    input, *rest = sample.forward_input.args
    leaves, is_packed = flat(rest), hasattr(input, "batch_sizes")

    def function(x, *tensors):
        states = tuple(tensors[: len(leaves)])
        hx = None if not states else states if kind.startswith("LSTM") else states[0]
        weights = dict(zip(parameters, tensors[len(leaves) :], strict=True))
        x = input._replace(data=x) if is_packed else x
        return tuple(flat(torch.func.functional_call(module, weights, (x, hx))).values())

    first = input.data if is_packed else input
    assert check(function, (first, *leaves.values(), *parameters.values()), fast_mode=True, check_undefined_grad=False)


@KIND
@TRAINING
def test_strides_of_the_input_do_not_matter(backend_name, kind, training):
    def strided(t):
        if isinstance(t, (tuple, list)) and not hasattr(t, "batch_sizes"):
            return tuple(strided(part) for part in t)
        if hasattr(t, "batch_sizes"):
            return t._replace(data=strided(t.data))
        return torch.stack([t, t], -1)[..., 0]

    for sample in samples(kind, torch.float64, training):
        module = construct(seqcuda, kind, sample, torch.float64, training)
        args = sample.forward_input.args
        expected, actual = flat(module(*args)), flat(module(*strided(args)))
        for name in expected:
            assert_close_to_exact(actual[name], expected[name], name=f"{name} of {module}")


@KIND
@TRAINING
def test_errors(kind, training):
    info = INFOS[kind]
    for dtype in (torch.float32, torch.float64):
        for wrong in info.module_error_inputs_func(info, "cpu", dtype, False, training):
            sample, cls = wrong.module_error_input, getattr(seqcuda, kind)
            arguments, call = sample.constructor_input, sample.forward_input
            if wrong.error_on == ModuleErrorEnum.CONSTRUCTION_ERROR:
                with pytest.raises(wrong.error_type, match=wrong.error_regex):
                    cls(*arguments.args, **arguments.kwargs)
            else:
                defaults = {"device": "cpu", "dtype": dtype}
                # the cases of the cells leave the dtype to the default, their inputs have the tested one
                module = cls(*arguments.args, **defaults | arguments.kwargs).train(training)
                with pytest.raises(wrong.error_type, match=wrong.error_regex):
                    module(*call.args, **call.kwargs)


@KIND
@TRAINING
def test_factory_arguments(kind, training):
    for sample in samples(kind, torch.float32, training):
        arguments = sample.constructor_input
        for dtype in (torch.float64, torch.bfloat16):
            keywords = {"device": "meta", "dtype": dtype} | arguments.kwargs
            module = getattr(seqcuda, kind)(*arguments.args, **keywords)
            assert {(p.device.type, p.dtype) for p in module.parameters()} == {("meta", dtype)}
            module = module.to_empty(device="cpu")
            assert {p.device.type for p in module.parameters()} == {"cpu"}


@KIND
@TRAINING
def test_repr_pickle_deepcopy(kind, training):
    for sample in samples(kind, torch.float32, training):
        module = construct(seqcuda, kind, sample, torch.float32, training)
        rival = construct(torch.nn, kind, sample, torch.float32, training)
        assert repr(module) == repr(rival)
        args = sample.forward_input.args
        expected = flat(module(*args))
        for copied in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
            assert copied.training == training
            actual = flat(copied(*args))
            assert all(torch.equal(actual[name], expected[name]) for name in expected)
