"""What a Gated KalmaNet layer may be called with."""

import torch

from ssrtrack.errors import EstimatorError

Tensor = torch.Tensor


def check_call(
    x: Tensor, width: int, gap: Tensor | None = None, valid: Tensor | None = None, lengths: Tensor | None = None,
    offsets: Tensor | None = None,
) -> int:  # fmt: skip
    """How many sequences a call has.

    Raises:
        EstimatorError: what of the arguments (as `GatedKalmaNet.forward` has them) does not fit, and what would.
    """
    if x.ndim != 3 or x.shape[2] != width or not x.is_floating_point():
        raise EstimatorError(
            f"x is {tuple(x.shape)} {x.dtype}, expected floating (T, B, {width}): time, sequences, channels"
        )
    for name, v in (("gap", gap), ("valid", valid)):
        if v is not None and v.shape != x.shape[:2]:
            raise EstimatorError(f"{name} is {tuple(v.shape)}, expected {tuple(x.shape[:2])}, as x's first two")
    if valid is not None and valid.dtype != torch.bool:
        raise EstimatorError(f"valid is {valid.dtype}, expected torch.bool: True where the row is there")
    if offsets is not None and (lengths is not None or x.shape[1] != 1 or offsets.ndim != 1 or len(offsets) < 2):
        raise EstimatorError("packed sequences are x (ΣT, 1, D) with offsets (B + 1,) and without lengths")
    batch = x.shape[1] if offsets is None else offsets.shape[0] - 1
    if lengths is not None and lengths.shape != (batch,):
        raise EstimatorError(f"lengths is {tuple(lengths.shape)}, expected ({batch},), one for each sequence")
    for name, v in (("lengths", lengths), ("offsets", offsets)):
        if v is not None:
            _check_values(name, v, x.shape[0])
    return batch


def inside_of(x: Tensor, lengths: Tensor | None) -> Tensor | None:
    """Which rows (T, B) are no padding; None where none is."""
    return None if lengths is None else torch.arange(x.shape[0], device=x.device)[:, None] < lengths


def _check_values(name: str, v: Tensor, rows: int) -> None:
    """On a CPU alone: a GPU would have to be waited for."""
    if v.dtype not in (torch.int32, torch.int64):
        raise EstimatorError(f"{name} is {v.dtype}, expected torch.int32 or torch.int64")
    if v.device.type != "cpu" or torch.compiler.is_compiling():
        return
    at = v.tolist()
    if name == "lengths" and any(not 0 <= length <= rows for length in at):
        raise EstimatorError(f"lengths are {min(at)} to {max(at)}, expected 0 to {rows}, the rows of x")
    if name == "offsets" and (at[0] != 0 or at[-1] != rows or at != sorted(at)):
        raise EstimatorError(f"offsets {at[:4]} … {at[-1]} must rise from 0 to {rows}, the rows of x")
