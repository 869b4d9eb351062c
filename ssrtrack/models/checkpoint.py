"""A learned tracker on disk: a folder with model.json and the weights it names, model-DIGEST.safetensors.

model.json says all that is needed to build the tracker again (architecture, every number of its base filter) and what
a reader should know of it (training, what it was trained on, scores, software). It is written last and renamed into
place, and holds the SHA-256 of the weights: whenever the writing stops, the folder holds the old tracker or the new
one, never half of each. Neither file can run code when it is read.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as tensor_bytes
from torch.overrides import TorchFunctionMode

import ssrtrack
from ssrtrack.errors import CheckpointError, EstimatorError
from ssrtrack.filters.bank import Bank
from ssrtrack.io.whole import write_whole
from ssrtrack.models.checkpoint_base import bank_from_dict, bank_to_dict
from ssrtrack.models.learned import LearnedEstimator
from ssrtrack.models.residual import ResidualKoss
from ssrtrack.models.residual_config import ResidualConfig

FORMAT, VERSION = "ssrtrack-learned", 1
KIND, FIRST_KIND = "residual", "residual-koss"  # the latter when KOSS was the only block
NAME = "model.json"
MAX_JSON_OCTETS = 64_000_000
MAX_WEIGHT_OCTETS = 4_000_000_000
# What makes tensors of any size while a model is built, and how much more of them than weights there may be in all.
MAKERS = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn}
SLACK, LEAST_NUMBERS = 4, 1 << 22
KEYS = {"format", "version", "software", "architecture", "base", "weights", "training", "sources", "scores"}


def save_run(
    folder: str | Path,
    model: ResidualKoss,
    bank: Bank,
    *,
    training: Mapping[str, Any] | None = None,
    sources: Sequence[Mapping[str, Any]] = (),
    scores: Mapping[str, Any] | None = None,
    half: bool = False,
) -> Path:
    """Write a learned tracker, in place of one that is there; returns the path of its model.json.

    Args:
        folder: made if it is not there; other files in it are left alone.
        model, bank: the network and the base filter it corrects.
        training: how it was trained; sources: on what (`ssrtrack.models.provenance.Sources.to_list`); scores: how
            good it was at the end. All as JSON has it.
        half: keep the weights in float16, half the octets; a loaded tracker computes with them in float32 all the same.

    Raises:
        CheckpointError: a weight is not finite, something is no JSON, or the folder cannot be written.
    """
    where = Path(folder)
    kind = torch.float16 if half else torch.float32
    weights = {name: value.detach().cpu().to(kind).contiguous() for name, value in model.state_dict().items()}
    if bad := [name for name, value in weights.items() if not bool(torch.isfinite(value).all())]:
        raise CheckpointError(f"weights {bad} are not finite; the training went wrong, keep an earlier model")
    data = tensor_bytes(weights, {"format": FORMAT})
    digest = hashlib.sha256(data).hexdigest()
    file = f"model-{digest[:16]}.safetensors"
    table = {
        "format": FORMAT,
        "version": VERSION,
        "software": ssrtrack.__version__,
        "architecture": {"kind": KIND, **model.config.to_dict()},
        "base": bank_to_dict(bank),
        "weights": {"file": file, "sha256": digest},
        "training": dict(training or {}),
        "sources": [dict(source) for source in sources],
        "scores": dict(scores or {}),
    }
    try:
        text = json.dumps(table, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{where}: training, sources or scores are no JSON: {error}") from error
    try:
        where.mkdir(parents=True, exist_ok=True)
        old = {f.name for f in where.glob("model-*.safetensors")} - {file}
        write_whole(where / file, data)
        write_whole(where / NAME, text.encode())
        for name in old:
            (where / name).unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointError(f"{where}: cannot be written ({error.strerror or error})") from error
    return where / NAME


def load_run(folder: str | Path, device: torch.device | str = "cpu") -> LearnedEstimator:
    """The learned tracker in a folder (or the folder's model.json), ready to track on a device.

    Raises:
        CheckpointError: nothing there, a file that is damaged, cut short, foreign or of a newer version, weights that
            do not fit the architecture, are not finite or belong to another model.json.
    """
    where = Path(folder)
    where = where / NAME if where.is_dir() else where
    table = read_description(where)
    try:
        architecture = dict(table["architecture"])
        if (kind := architecture.pop("kind", None)) not in (KIND, FIRST_KIND):
            raise CheckpointError(f"architecture {kind!r}, this software knows {KIND} and {FIRST_KIND}")
        config, bank = ResidualConfig.from_dict(architecture), bank_from_dict(table["base"])
        model = _model(config, _weights(where.parent, table["weights"]))
        return LearnedEstimator(bank, model.to(device), tuple(table["sources"]))
    except (CheckpointError, EstimatorError) as error:
        raise CheckpointError(f"{where}: {error}; copy the run again, or train it again") from error
    except (RuntimeError, AssertionError) as error:  # the latter from a torch built without CUDA
        raise CheckpointError(f"{where}: device {device} cannot be used ({error}); try cpu") from error


def read_description(path: str | Path) -> dict[str, Any]:
    """model.json, checked for kind, version and keys; needs no weights. `path` is the file or its folder.

    Raises:
        CheckpointError: as `load_run`.
    """
    where = Path(path)
    where = where / NAME if where.is_dir() else where
    try:
        if where.stat().st_size > MAX_JSON_OCTETS:
            raise CheckpointError(f"{where}: {where.stat().st_size} octets; the description of a model is far smaller")
        table = json.loads(where.read_text("utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"{where}: cannot be read ({error.strerror or error}); give a folder that `ssrtrack train koss` wrote"
        ) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: not valid JSON ({error}); the file is damaged: copy the run again") from error
    if not isinstance(table, dict) or table.get("format") != FORMAT:
        came = table.get("format") if isinstance(table, dict) else type(table).__name__
        raise CheckpointError(f"{where}: format is {came!r}, expected {FORMAT!r}; give a run of `ssrtrack train koss`")
    if table.get("version") != VERSION:
        raise CheckpointError(
            f"{where}: version is {table.get('version')!r}, this software reads {VERSION}; install a newer ssrtrack"
        )
    if set(table) != KEYS:
        raise CheckpointError(f"{where}: has keys {sorted(table)}, expected {sorted(KEYS)}; copy the run again")
    for name, kind in (("architecture", dict), ("weights", dict), ("sources", list)):
        if not isinstance(table[name], kind):
            raise CheckpointError(f"{where}: {name} is no {kind.__name__}; the file is damaged: copy the run again")
    return table


def _weights(folder: Path, table: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    name, expected = table.get("file"), table.get("sha256")
    if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
        raise CheckpointError(f"the weights are in {name!r}, expected the name of a .safetensors file beside it")
    try:
        if (folder / name).stat().st_size > MAX_WEIGHT_OCTETS:
            raise CheckpointError(f"{name} has {(folder / name).stat().st_size} octets, more than any model of ours")
        data = (folder / name).read_bytes()
    except OSError as error:
        raise CheckpointError(f"weights {name} cannot be read ({error.strerror or error})") from error
    if hashlib.sha256(data).hexdigest() != expected:
        raise CheckpointError(f"weights {name} are not those that were saved (SHA-256 differs, {len(data)} octets)")
    try:
        return read_tensors(data)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"weights {name} are no safetensors ({error})") from error


class _Bounded(TorchFunctionMode):
    """Numbers are made only up to a few times those that the weights have, before memory is asked for.

    A damaged description may name any sizes. The device `meta` would tell them too, but takes a second to be imported.
    """

    def __init__(self, held: int) -> None:
        super().__init__()
        self.held, self.left = held, SLACK * held + LEAST_NUMBERS

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in MAKERS:
            size = args[0] if args else kwargs["size"]
            self.left -= prod(size if isinstance(size, Sequence) else (v for v in args if isinstance(v, int)))
            if self.left < 0:
                raise CheckpointError(f"{self.held} weights are too few for a model of this architecture")
        return func(*args, **kwargs)


def _model(config: ResidualConfig, weights: Mapping[str, torch.Tensor]) -> ResidualKoss:
    held = sum(value.numel() for value in weights.values())
    if held < config.blocks * config.width:  # before time is taken
        raise CheckpointError(f"{held} weights are too few for {config.blocks} blocks of width {config.width}")
    with torch.random.fork_rng(devices=[]), _Bounded(held):
        model = ResidualKoss(config)
    expected = model.state_dict()
    if missing := sorted(set(expected) ^ set(weights)):
        raise CheckpointError(f"weights {missing[:4]} are missing or unknown ({len(missing)} in all)")
    for name, wanted in expected.items():
        value = weights[name]
        if value.shape != wanted.shape or value.dtype not in (wanted.dtype, torch.float16):
            raise CheckpointError(
                f"weight {name} is {value.dtype} {tuple(value.shape)}, expected {wanted.dtype} {tuple(wanted.shape)}"
            )
        if not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"weight {name} is not finite")
    model.load_state_dict({name: value.to(expected[name].dtype) for name, value in weights.items()}, assign=True)
    return model
