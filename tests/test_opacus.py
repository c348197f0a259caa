"""Per-sample gradients with the real Opacus."""

from __future__ import annotations

import pytest
import torch
from cases import LAYERS

import seqcuda
from seqcuda.testing import assert_close_to_exact

opacus = pytest.importorskip("opacus")
pytestmark = pytest.mark.filterwarnings("ignore")  # of Opacus: its generator, its hooks


class Model(torch.nn.Module):
    def __init__(self, kind: str, **options):
        super().__init__()
        hidden = 6 if "proj_size" in options else 4
        self.layer = getattr(seqcuda, kind)(3, hidden, batch_first=True, dtype=torch.float64, **options)
        self.head = torch.nn.Linear(4 * (2 if self.layer.bidirectional else 1), 2, dtype=torch.float64)

    def forward(self, x, **kwargs):
        return self.head(self.layer(x, **kwargs)[0]).mean(1)


OPTIONS = {
    "stack": {"num_layers": 2, "bidirectional": True},
    "heads": {"heads": 2},
    "norms and heads": {"layer_norm": True, "heads": 2},
    "projection": {"proj_size": 4, "num_layers": 2},
    "no bias": {"bias": False},
}
CASES = [(kind, "stack") for kind in LAYERS] + [("LSTM", name) for name in OPTIONS if name != "stack"]


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(("kind", "options"), CASES)
def test_gradients_of_samples(kind, options, backend):
    from opacus.grad_sample import GradSampleModule

    import seqcuda.opacus

    torch.manual_seed(0)
    model, x = Model(kind, **OPTIONS[options]), torch.randn(5, 6, 3, dtype=torch.float64)
    lengths, resets = torch.tensor([6, 1, 0, 4, 2]), torch.rand(5, 6) < 0.3
    h = torch.randn(model.layer.num_layers * (2 if model.layer.bidirectional else 1), 5, 4, dtype=torch.float64)
    hx = (h, h.new_ones(*h.shape[:2], model.layer.hidden_size)) if kind == "LSTM" else h
    frozen = model.layer.weight_ih_l0.requires_grad_(False)

    def one(i: int) -> list[torch.Tensor]:
        rows = slice(i, i + 1)
        own = tuple(s[:, rows] for s in hx) if kind == "LSTM" else h[:, rows]
        y = model(x[rows], hx=own, lengths=lengths[rows], resets=resets[rows])
        return torch.autograd.grad(y.square().sum(), wanted)

    wanted = [p for p in model.parameters() if p is not frozen]
    expected = [one(i) for i in range(5)]
    wrapped = GradSampleModule(seqcuda.opacus.prepare(model), loss_reduction="sum")
    with seqcuda.backend(backend):
        wrapped(x, hx=hx, lengths=lengths, resets=resets).square().sum().backward()
    assert getattr(frozen, "grad_sample", None) is None
    for p, *rows in zip(wanted, *expected, strict=True):
        for ours, exact in zip(p.grad_sample, rows, strict=True):
            assert_close_to_exact(ours, exact)


@pytest.mark.parametrize("kind", ["RNNCell", "GRUCell"])
def test_cells_need_no_preparation(kind):
    from opacus.grad_sample import GradSampleModule

    cell, x = getattr(seqcuda, kind)(3, 4, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    expected = [torch.autograd.grad(cell(row).square().sum(), cell.weight_ih)[0] for row in x]
    GradSampleModule(cell, loss_reduction="sum")(x).square().sum().backward()
    for ours, exact in zip(cell.weight_ih.grad_sample, expected, strict=True):
        assert_close_to_exact(ours, exact)


def test_a_batch_without_samples():
    """Which Poisson sampling draws at times."""
    from opacus.grad_sample import GradSampleModule

    import seqcuda.opacus

    model = GradSampleModule(seqcuda.opacus.prepare(Model("GRU")))
    model(torch.randn(0, 6, 3, dtype=torch.float64)).sum().backward()
    for p in model.parameters():
        assert p.grad_sample.shape == (0, *p.shape)


def test_a_private_run():
    """It learns, and spends privacy."""
    import seqcuda.opacus

    torch.manual_seed(0)
    x = torch.randn(64, 6, 3, dtype=torch.float64)
    labels = (x[:, 0, 0] > 0).long()
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, labels), batch_size=16)
    model = seqcuda.opacus.prepare(Model("GRU"))
    optimizer = torch.optim.SGD(model.parameters(), 2.0)
    engine = opacus.PrivacyEngine()
    private, optimizer, data = engine.make_private(
        module=model, optimizer=optimizer, data_loader=data, noise_multiplier=0.5, max_grad_norm=1.0
    )
    losses = []
    for _ in range(15):
        for batch, target in data:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(private(batch), target)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])
    assert 0 < engine.get_epsilon(delta=1e-3) < 100


def test_what_a_sampler_cannot_see_is_an_error():
    from opacus.grad_sample import GradSampleModule

    import seqcuda.opacus

    x = torch.randn(5, 6, 3, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="prepare"):
        GradSampleModule(Model("GRU"))(x).sum().backward()
    with pytest.raises(ValueError, match="layer must have dropout=0, got 0.5"):
        seqcuda.opacus.prepare(Model("GRU", num_layers=2, dropout=0.5))
    with pytest.raises(ValueError, match="layer must have zoneout=0, got 0.1"):
        seqcuda.opacus.prepare(Model("GRU", zoneout=0.1))
    model = GradSampleModule(seqcuda.opacus.prepare(Model("LSTM")))
    resets = torch.zeros(5, 6, dtype=torch.bool)
    state = torch.zeros(1, 5, 4, dtype=torch.float64)
    with pytest.raises(TypeError, match="reset_state"):
        model(x, resets=resets, reset_state=(state, state)).sum().backward()
    y, (_, c) = model.layer(x)
    with pytest.raises(RuntimeError, match="gradient of a state"):
        (y.sum() + c.sum()).backward()
