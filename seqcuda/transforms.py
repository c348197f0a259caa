"""Autograd Functions under torch.func, by a shorter way than their own `apply`.

That asks pytree for the tensors among its arguments, inspect for their names, and makes a class for every call: it
takes longer than the walk of a small layer. Here a Function is told everything by one argument, beside it are tensors
alone, and its class for one level of torch.func is made once. What is done at a level is the same.

Nothing of this is public in torch: where its names are others, `apply` is the Function's own.
"""

from __future__ import annotations

import functools

import torch

try:
    from torch._C._functorch import (
        CGradInterpreterPtr,
        CVmapInterpreterPtr,
        TransformType,
        _add_batch_dim,
        _unwrap_batched,
        _unwrap_for_grad,
        _wrap_for_grad,
        get_interpreter_stack,
        get_single_level_autograd_function_allowed,
        get_unwrapped,
        is_batchedtensor,
        peek_interpreter_stack,
        pop_dynamic_layer_stack,
        push_dynamic_layer_stack,
        set_single_level_autograd_function_allowed,
        unwrap_if_dead,
    )
    from torch._functorch.autograd_function import VmapInfo
    from torch.autograd.forward_ad import _set_fwd_grad_enabled
    from torch.autograd.function import _SingleLevelFunction

    known = True
except ImportError:
    known = False


def apply(function, call, *tensors):
    """``function.apply(call, *tensors)``, where the results are a tuple of new tensors, or None."""
    if not known:
        return function.apply(call, *tensors)
    if not torch._C._are_functorch_transforms_active():
        if torch.autograd.forward_ad._current_level >= 0 or any(t.requires_grad for t in tensors):
            return function.apply(call, *tensors)
        return function.forward(call, *map(unwrap_if_dead, tensors))
    innermost, tensors = peek_interpreter_stack(), tuple(map(unwrap_if_dead, tensors))
    kind = innermost.key()
    if kind == TransformType.Vmap:
        return _mapped(innermost, function, call, tensors)
    if kind == TransformType.Grad:
        lifted = map(CGradInterpreterPtr(innermost).lift, tensors)
        before = get_single_level_autograd_function_allowed()
        set_single_level_autograd_function_allowed(True)
        try:
            return _at_one_level(function).apply(call, *lifted)
        finally:
            set_single_level_autograd_function_allowed(before)
    return function.apply(call, *tensors)


def want_gradients(tensors) -> bool:
    """Whether someone may ask for gradients of these tensors: that they require them does not show in a transform."""
    if not torch._C._are_functorch_transforms_active():
        return any(t is not None and t.requires_grad for t in tensors)
    if not known or torch.compiler.is_compiling():
        return True
    if any(level.key() != TransformType.Vmap for level in get_interpreter_stack()):
        return True
    return any(t is not None and _without_vmap(t).requires_grad for t in tensors)


def _without_vmap(t):
    while is_batchedtensor(t):
        t = get_unwrapped(t)
    return t


def _mapped(innermost, function, call, tensors):
    vmap = CVmapInterpreterPtr(innermost)
    level = vmap.level()
    inner, dims = zip(*(_unwrap_batched(t, level) for t in tensors), strict=True)
    popped = pop_dynamic_layer_stack()
    try:
        if all(dim is None for dim in dims):
            return apply(function, call, *tensors)
        outputs, out_dims = function.vmap(VmapInfo(vmap.batchSize(), ""), (None, *dims), call, *inner)
    finally:
        push_dynamic_layer_stack(popped)
    return tuple(t if dim is None else _add_batch_dim(t, dim, level) for t, dim in zip(outputs, out_dims, strict=True))


@functools.cache
def _at_one_level(function):
    def forward(call, *tensors):
        innermost = peek_interpreter_stack()  # to be kept as long as what points to it
        grad = CGradInterpreterPtr(innermost)
        level = grad.level()
        inner = [_unwrap_for_grad(t, level) for t in tensors]
        # A Function turns gradients off, which outer levels may want.
        with torch.set_grad_enabled(grad.prevGradMode()), _set_fwd_grad_enabled(True):
            popped = pop_dynamic_layer_stack()
            try:
                outputs = apply(function, call, *inner)
            finally:
                push_dynamic_layer_stack(popped)
        return tuple(None if t is None else _wrap_for_grad(t, level) for t in outputs)

    body = {"forward": forward, "setup_context": function.setup_context, "backward": function.backward}
    return type(
        f"{function.__name__}AtOneLevel",
        (_SingleLevelFunction,),
        {name: staticmethod(method) for name, method in body.items()},
    )
