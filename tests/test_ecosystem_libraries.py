"""Libraries that take any torch.nn.Module: Lightning, safetensors, torchinfo."""

from __future__ import annotations

import pytest
import torch
from cases import CELLS, LAYERS, flat

import seqcuda

ALL = pytest.mark.parametrize("kind", LAYERS + CELLS)


def module_of(kind, namespace=seqcuda):
    torch.manual_seed(0)
    options = {"num_layers": 2, "bidirectional": True} if kind in LAYERS else {}
    return getattr(namespace, kind)(3, 4, **options), torch.randn(5, 2, 3) if kind in LAYERS else torch.randn(2, 3)


def test_lightning(tmp_path):
    """Trained, clipped, saved and loaded by the Trainer; a ragged batch goes through the data loader."""
    lightning = pytest.importorskip("lightning")

    class Model(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.gru, self.head = seqcuda.GRU(3, 8, batch_first=True), torch.nn.Linear(8, 1)

        def training_step(self, batch, index):
            x, lengths, target = batch
            _, h_n = self.gru(x, lengths=lengths)
            loss = torch.nn.functional.mse_loss(self.head(h_n[0]), target)
            self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 0.02)

    generator = torch.Generator().manual_seed(0)
    x, lengths = torch.randn(32, 6, 3, generator=generator), torch.randint(1, 7, (32,), generator=generator)
    target = torch.stack([row[:length].sum() for row, length in zip(x, lengths, strict=True)])[:, None]
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, lengths, target), 16)

    torch.manual_seed(0)
    model, losses = Model(), []
    model.on_train_epoch_end = lambda: losses.append(model.trainer.callback_metrics["loss"].item())
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=20, gradient_clip_val=1.0, accumulate_grad_batches=2, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(model, data)
    assert losses[-1] < losses[0] / 2
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = Model.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=False)
    assert torch.equal(loaded.gru(x, lengths=lengths)[1], model.gru(x, lengths=lengths)[1])


@ALL
def test_safetensors(kind, tmp_path):
    """The weights of a torch.nn module, saved, are read by ours; the file is the same."""
    safetensors = pytest.importorskip("safetensors.torch")
    (ours, x), (theirs, _) = module_of(kind), module_of(kind, torch.nn)
    safetensors.save_model(theirs, tmp_path / "theirs.safetensors")
    with torch.no_grad():
        for p in ours.parameters():
            p.zero_()
    assert safetensors.load_model(ours, tmp_path / "theirs.safetensors") == (set(), [])
    safetensors.save_model(ours, tmp_path / "ours.safetensors")
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()
    again, _ = module_of(kind)
    again.load_state_dict(theirs.state_dict())
    assert all(map(torch.equal, flat(ours(x)).values(), flat(again(x)).values()))


@ALL
def test_torchinfo(kind):
    """The same rows, shapes, parameters and multiply-adds as for torch.nn."""
    torchinfo = pytest.importorskip("torchinfo")
    (ours, x), (theirs, _) = module_of(kind), module_of(kind, torch.nn)
    ours, theirs = (torchinfo.summary(m, input_data=x, verbose=0) for m in (ours, theirs))
    assert str(ours) == str(theirs)
    assert ours.total_params == sum(p.numel() for p in module_of(kind)[0].parameters()) and ours.total_mult_adds > 0
