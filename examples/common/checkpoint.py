"""Checkpoints: one file with the settings, the numbers and the place in the training."""

from __future__ import annotations

from pathlib import Path

import torch

from .cli import fail
from .files import replacing

VERSION = 1


def save(path: Path, settings: dict, content: dict) -> None:
    """Write `content` (tensors, numbers, strings, dicts, lists, tuples); `settings` is compared by `load`."""
    with replacing(path) as temporary:
        torch.save({"version": VERSION, "settings": settings, "content": content}, temporary)


def load(path: Path, settings: dict, device: torch.device) -> dict:
    """The content, if the file was written with the same settings; otherwise one sentence that names the first
    setting that differs, and exit status 2."""
    if not path.exists():
        fail(f"there is no checkpoint {path} to resume from")
    try:
        saved = torch.load(path, map_location=device, weights_only=True)
        version, had, content = saved["version"], saved["settings"], saved["content"]
    except Exception as error:  # torch.load raises half a dozen unrelated types for a damaged file
        fail(f"{path} is not a checkpoint of this program, or it is damaged ({type(error).__name__})")
    if version != VERSION:
        fail(f"the checkpoint {path} has format version {version}, this program reads {VERSION}")
    for name, value in settings.items():
        if name not in had or had[name] != value:
            fail(f"the checkpoint {path} was written with {name} {had.get(name)}, this run has {name} {value}")
    return content


def load_state(module: torch.nn.Module, state: dict, path: Path) -> None:
    """`module.load_state_dict`, where a parameter of another name or shape is one sentence and exit status 2."""
    expected = {name: tuple(t.shape) for name, t in module.state_dict().items()}
    given = {name: tuple(t.shape) for name, t in state.items()}
    for name in sorted(expected.keys() | given.keys()):
        if expected.get(name) != given.get(name):
            fail(f"the checkpoint {path} has {name} of shape {given.get(name)}, the model {expected.get(name)}")
    module.load_state_dict(state)
