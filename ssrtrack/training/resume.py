"""The state of a training on disk, so that a killed one goes on as if nothing had happened.

One file, written beside and then renamed, holds it all: the tensors (weights, and the optimiser's moments) as
safetensors, and everything else as JSON in its header. A kill leaves either the old file or the new one.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ssrtrack.errors import CheckpointError

FORMAT = "ssrtrack-training-1"
_MODEL, _OPTIMIZER = "model.", "optimizer."


def write_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, facts: dict[str, Any]) -> None:
    """Replace the state file at `path` by the present state and `facts`, which JSON must be able to hold."""
    from safetensors.torch import save

    tensors = {_MODEL + name: value.detach() for name, value in model.state_dict().items()}
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"{_OPTIMIZER}{number}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    tensors = {name: value.contiguous().cpu() for name, value in tensors.items()}
    beside = path.with_name(path.name + ".part")
    with beside.open("wb") as file:
        file.write(save(tensors, {"format": FORMAT, "facts": json.dumps(facts)}))
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def read_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put the state at `path` into model and optimiser; returns the facts.

    Raises:
        CheckpointError: no such file, damaged, of another program or version, or of another model.
    """
    tensors, facts = _read(path)
    weights = {name.removeprefix(_MODEL): value for name, value in tensors.items() if name.startswith(_MODEL)}
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    if found != wanted:
        odd = sorted(set(wanted.items()) ^ set(found.items()))[0][0]
        raise CheckpointError(
            f"{path}: does not fit this model, first at {odd!r}: found {found.get(odd, 'nothing')}, expected "
            f"{wanted.get(odd, 'nothing')}; go on with the version and the options that began the run"
        )
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(_OPTIMIZER):
            number, _, key = name.removeprefix(_OPTIMIZER).partition(".")
            moments.setdefault(int(number), {})[key] = value
    model.load_state_dict(weights)
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return facts


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise CheckpointError(
                    f"{path}: found format {header.get('format')!r}, expected {FORMAT!r}; it was written by another "
                    "program or version, which has to go on with it"
                )
            facts = json.loads(header["facts"])
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118 - no mapping
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: there is no saved state to go on from; start the run anew") from error
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path}: damaged ({error}); the run cannot go on from it, start it anew in another folder"
        ) from error
