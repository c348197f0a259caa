"""What only a GPU can show: graphs, streams, several devices, no waiting, and errors that leave it usable."""

from __future__ import annotations

import gc

import marks
import pytest
import torch
from cases import LAYERS
from torch.nn.utils.rnn import pack_padded_sequence
from walks import Problem, assert_results, op_outputs_and_gradients

import seqcuda
from seqcuda import testing

pytestmark = [marks.gpu, marks.needs_gpu]
KINDS = pytest.mark.parametrize("kind", LAYERS)
STACKS = pytest.mark.parametrize("kind", [*LAYERS, "stacked LSTM"])  # whose layers are walked at the same time
ENGINES = pytest.mark.parametrize("engine", ["auto", *seqcuda.engines("cuda")], indirect=True)
T, B, I, H = 40, 6, 24, 40


def layer_and_input(kind, device="cuda", dtype=torch.float32, **options):
    torch.manual_seed(0)
    stacked, kind = "stacked" in kind, kind.split()[-1]
    form = {"num_layers": 3 if stacked else 2, "bidirectional": not stacked}
    layer = getattr(seqcuda, kind)(I, H, **form, device=device, dtype=dtype, **options)
    return layer, torch.randn(T, B, I, device=device, dtype=dtype)


def results(layer, x, **given):
    """The output and the gradients of the weights."""
    y = layer(x, **given)[0]
    return [y.detach(), *torch.autograd.grad(y.float().square().sum(), list(layer.parameters()))]


def assert_same(ours, expected):
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


@pytest.fixture
def engine(request):
    """Selected while the test runs; where it cannot run the layers here, `seqcuda.explain` must say why."""
    name = request.param
    with seqcuda.backend(name):
        try:
            seqcuda.explain(*layer_and_input("LSTM"))
        except RuntimeError as error:
            assert f"engine {name} cannot run this layer: " in str(error)
            pytest.skip(str(error))
        yield name


@STACKS
@ENGINES
def test_a_captured_forward(kind, engine):
    layer, x = layer_and_input(kind)
    lengths = torch.tensor([T, 3, 0, 7, T, 1], device="cuda")
    with torch.inference_mode():
        layer(x, lengths=lengths)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = layer(x, lengths=lengths)[0]
        for seed in range(2):
            torch.manual_seed(seed)
            x.normal_()
            lengths.random_(0, T + 1)
            graph.replay()
            assert_same([y], [layer(x, lengths=lengths)[0]])


@STACKS
@ENGINES
def test_a_captured_forward_and_backward(kind, engine):
    layer, x = layer_and_input(kind)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        results(layer, x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = results(layer, x)
    for seed in range(2):
        torch.manual_seed(seed)
        x.normal_()
        graph.replay()
        assert_same(captured, results(layer, x))


@KINDS
def test_make_graphed_callables(kind):
    layer, x = layer_and_input(kind)
    expected = results(layer, x)
    graphed = torch.cuda.make_graphed_callables(layer, (x,))
    assert_same(results(graphed, x), expected)


@STACKS
@ENGINES
def test_two_streams_at_once(kind, engine):
    pairs = [layer_and_input(kind) for _ in range(2)]
    pairs[1][1].neg_()
    expected = [results(*pair) for pair in pairs]
    streams = [torch.cuda.Stream() for _ in pairs]
    torch.cuda.synchronize()
    for _ in range(3):
        found = []
        for stream, pair in zip(streams, pairs, strict=True):
            with torch.cuda.stream(stream):
                found.append(results(*pair))
        torch.cuda.synchronize()
        for ours, theirs in zip(found, expected, strict=True):
            assert_same(ours, theirs)


@STACKS
@ENGINES
def test_work_is_in_the_order_of_the_current_stream(kind, engine):
    """x is written late, by the same stream: whoever computes on another one would read it early."""
    layer, x = layer_and_input(kind)
    expected, late = results(layer, x), torch.zeros_like(x)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        late.copy_(x)
        found = results(layer, late)
    stream.synchronize()
    assert_same(found, expected)


@STACKS
@ENGINES
@pytest.mark.parametrize("form", ["padded", "packed", "lengths, resets"])
def test_the_host_never_waits(kind, engine, form):
    layer, x = layer_and_input(kind)
    given = {}
    if form == "packed":
        x = pack_padded_sequence(x, torch.tensor([T, T, 7, 5, 2, 1]))
    elif form == "lengths, resets":
        given = {"lengths": torch.tensor([T, 3, 0, 7, T, 1], device="cuda")}
        given["resets"] = torch.rand(T, B, device="cuda") < 0.2

    def run():
        y = layer(x, **given)[0]
        y = y.data if form == "packed" else y
        torch.autograd.grad(y.sum(), list(layer.parameters()))

    run()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
@KINDS
def test_two_devices(kind):
    pairs = [layer_and_input(kind, f"cuda:{i}") for i in range(2)]
    pairs[1][0].load_state_dict(pairs[0][0].state_dict())
    pairs[1][1].copy_(pairs[0][1])
    first, second = (results(*pair) for pair in pairs)
    assert torch.cuda.current_device() == 0
    assert {t.device.index for t in second} == {1}
    assert_same([t.cpu() for t in first], [t.cpu() for t in second])


@KINDS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(kind, dtype):
    layer, x = layer_and_input(kind)
    with torch.autocast("cuda", dtype):
        y = layer(x)[0]
    rounded = layer_and_input(kind, dtype=dtype)[0]
    rounded.load_state_dict(layer.state_dict())
    assert y.dtype == dtype
    assert_same([y], [rounded(x.to(dtype))[0]])


@KINDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_against_cudnn(kind, dtype):
    """The rule with its own rival."""
    layer, x = layer_and_input(kind, dtype=dtype)
    theirs = getattr(torch.nn, kind)(I, H, num_layers=2, bidirectional=True, device="cuda", dtype=dtype)
    theirs.load_state_dict(layer.state_dict())
    exact = layer_and_input(kind, dtype=torch.float64)[0]
    exact.load_state_dict(layer.state_dict())
    rival = results(theirs, x)
    with seqcuda.backend("reference"):
        wanted = results(exact, x.double())
    for ours, of_cudnn, right in zip(results(layer, x), rival, wanted, strict=True):
        testing.assert_within_rule(ours, of_cudnn, right)


SAMPLE = ({"cell": "gru", "reverse": (False, True), "ragged": "lengths", "resets": True, "save": "states"},
          {"cell": "lstm", "T": 3, "B": 9, "H": 70, "ragged": "packed"})  # fmt: skip


@pytest.mark.parametrize("options", SAMPLE, ids=lambda options: options["cell"])
@ENGINES
def test_sanitizer_sample(engine, options):
    """What scripts/gpu_check.sh runs under compute-sanitizer."""
    problem = Problem(**options)
    for dtype in (torch.float32, torch.bfloat16):
        results = op_outputs_and_gradients(problem, dtype, torch.ops.seqcuda, "cuda", engine)
        assert_results(problem, dtype, results)


@pytest.mark.parametrize("which", ["weights", "x", "state"])
def test_tensors_of_another_device_are_named(which):
    layer, x = layer_and_input("GRU")
    h = torch.zeros(4, B, H, device="cuda")
    if which == "weights":
        layer.cpu()
    x, h = (t.cpu() if name == which else t for name, t in (("x", x), ("state", h)))
    with pytest.raises(RuntimeError, match="cpu.*cuda|cuda.*cpu"):
        layer(x, h)
    torch.cuda.synchronize()


def test_after_running_out_of_memory_the_next_call_works():
    layer, x = layer_and_input("LSTM")
    expected = results(layer, x)
    long = x[:1].expand(2**17, B, I)
    torch.cuda.synchronize()
    before, total = torch.cuda.memory_allocated(), torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**27) / total)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            layer(long)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    gc.collect()  # what the exception's frames held
    assert torch.cuda.memory_allocated() == before
    assert_same(results(layer, x), expected)
