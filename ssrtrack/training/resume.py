"""The state of a training on disk, so that a killed one goes on as if nothing had happened.

One file, written beside and then renamed, holds it all: the tensors (weights, and the optimiser's moments) as
safetensors, and everything else as JSON in its header, with a SHA-256 of both: a bit that has flipped on the disk would
else go on as a number. A kill leaves either the old file or the new one.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ssrtrack.errors import CheckpointError
from ssrtrack.io.whole import write_whole

FORMAT = "ssrtrack-training-2"
_MODEL, _OPTIMIZER = "model.", "optimizer."


def write_state(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, facts: dict[str, Any], run: str = ""
) -> None:
    """Replace the state file at `path` by the present state and `facts`, which JSON must be able to hold.

    run: a digest of what the run is, by which a state of another run is recognised.
    """
    from safetensors.torch import save

    tensors = {_MODEL + name: value.detach() for name, value in model.state_dict().items()}
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"{_OPTIMIZER}{number}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    tensors = {name: value.contiguous().cpu() for name, value in tensors.items()}
    header = {"format": FORMAT, "run": run, "facts": json.dumps(facts)}
    write_whole(path, save(tensors, header | {"sha256": _digest(header, tensors)}))


def read_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, run: str = "") -> dict[str, Any]:
    """Put the state at `path` into model and optimiser; returns the facts. An empty `run` is that of any state.

    Raises:
        CheckpointError: no such file, damaged, of another program or version, of another model or another run.
    """
    tensors, facts, its_run = _read(path)
    if run and its_run != run:
        raise CheckpointError(
            f"{path}: is the state of another run than config.json beside it; put back the file that belongs here, or "
            "begin anew in another folder"
        )
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
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for place, values in moments.items():
        shape = parameters[place].shape if place < len(parameters) else None
        if wrong := [key for key, value in values.items() if value.ndim and value.shape != shape]:
            raise CheckpointError(
                f"{path}: {wrong[0]} of weight {place} does not fit this optimiser; go on with the version that began "
                "the run"
            )
    model.load_state_dict(weights)
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return facts


def _digest(header: Mapping[str, str], tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of facts and tensors (on the CPU, contiguous), by name."""
    found = hashlib.sha256(f"{header['run']}\n{header['facts']}\n".encode())
    for name in sorted(tensors):
        found.update(f"{name} {tuple(tensors[name].shape)}\n".encode())
        found.update(tensors[name].flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any], str]:
    """Tensors, facts and the run's digest."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise CheckpointError(
                    f"{path}: found format {header.get('format')!r}, expected {FORMAT!r}; it was written by another "
                    "program or version, which has to go on with it"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            if _digest(header, tensors) != header["sha256"]:
                raise ValueError("SHA-256 differs")
            return tensors, json.loads(header["facts"]), header["run"]
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: there is no saved state to go on from; start the run anew") from error
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path}: damaged ({error}); the run cannot go on from it, start it anew in another folder"
        ) from error
