"""Learned trackers on disk: what is read is what was written, and nothing else is taken for one."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ssrtrack.errors import CheckpointError
from ssrtrack.filters.estimators import make_estimator
from ssrtrack.filters.run import run
from ssrtrack.models import checkpoint
from ssrtrack.models.checkpoint import load_run, read_description, save_run
from ssrtrack.models.checkpoint_base import bank_from_dict, bank_to_dict
from tests.models_fixture import BASES, base, network, plots


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    bank = base("imm")
    save_run(folder, network(bank), bank, training={"steps": 3}, sources=[{"kind": "x"}], scores={"ratio": 0.9})
    return folder


def copied(written: Path, to: Path) -> Path:
    return Path(shutil.copytree(written, to / "copy"))


def weights_of(folder: Path) -> Path:
    (path,) = folder.glob("*.safetensors")
    return path


@pytest.mark.parametrize("name", [*sorted(BASES), "singer", "kf-ca"])
def test_a_tracker_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    bank: Any = base(name) if name in BASES else make_estimator(name)
    model = network(bank)
    save_run(tmp_path / "run", model, bank)
    back = load_run(tmp_path / "run")
    assert bank_to_dict(back.bank) == bank_to_dict(bank)
    z, _ = plots(base("kf"), flights=3, length=12, missed=0.1)
    mine, its = run(back, z), run(checkpoint.LearnedEstimator(bank, model), z)
    np.testing.assert_array_equal(mine.mean, its.mean)
    np.testing.assert_array_equal(mine.covariance, its.covariance)


def test_half_the_octets_track_nearly_as_well(tmp_path: Path) -> None:
    bank, z = base("imm"), plots(base("kf"), flights=3, length=12, missed=0.1)[0]
    model = network(bank)
    for name, half in (("whole", False), ("half", True)):
        save_run(tmp_path / name, model, bank, half=half)
    sizes = [weights_of(tmp_path / name).stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.65 * sizes[0]
    whole, half_ = (run(load_run(tmp_path / name), z) for name in ("whole", "half"))
    assert {p.dtype for p in load_run(tmp_path / "half").model.parameters()} == {torch.float32}
    sigma = np.sqrt(np.diagonal(whole.covariance, axis1=-2, axis2=-1))
    assert 0.0 < np.nanmax(abs(half_.mean - whole.mean) / sigma) < 0.02
    with torch.no_grad():
        next(model.parameters()).fill_(1e5)
    with pytest.raises(CheckpointError, match="are not finite"):
        save_run(tmp_path / "large", model, bank, half=True)


def test_the_description_says_what_was_given(written: Path) -> None:
    table = read_description(written)
    assert (table["training"], table["sources"], table["scores"]) == ({"steps": 3}, [{"kind": "x"}], {"ratio": 0.9})
    assert load_run(written / "model.json").sources == ({"kind": "x"},)
    assert sorted(f.suffix for f in written.iterdir()) == [".json", ".safetensors"]


def test_loading_leaves_the_random_numbers_alone(written: Path) -> None:
    torch.manual_seed(1)
    want = torch.rand(1)
    torch.manual_seed(1)
    load_run(written)
    assert torch.equal(torch.rand(1), want)


def test_loading_does_not_import_torchs_compiler(written: Path) -> None:
    """It takes longer than all else, and whoever runs one command waits for it."""
    script = f"import sys\nfrom ssrtrack.models.checkpoint import load_run\nload_run({str(written)!r})\n"
    script += "sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=120).returncode == 0


def test_a_newer_model_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    bank = base("kf")
    (tmp_path / "notes.txt").write_text("mine")
    for seed in (1, 2):
        save_run(tmp_path, network(bank, seed=seed), bank)
    assert sorted(f.suffix for f in tmp_path.iterdir()) == [".json", ".safetensors", ".txt"]
    want = network(bank, seed=2).state_dict()
    assert all(torch.equal(v, want[k]) for k, v in load_run(tmp_path).model.state_dict().items())


@pytest.mark.parametrize("files", [0, 1])
def test_a_write_that_stops_half_way_leaves_the_older_model(
    files: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank, done = base("kf"), []
    save_run(tmp_path, network(bank, seed=1), bank)
    whole = checkpoint.write_whole

    def stopping(path: Path, data: bytes) -> None:
        if len(done) == files:
            raise OSError(28, "No space left on device")
        done.append(path)
        whole(path, data)

    monkeypatch.setattr(checkpoint, "write_whole", stopping)
    with pytest.raises(CheckpointError, match="No space left"):
        save_run(tmp_path, network(bank, seed=2), bank)
    want = network(bank, seed=1).state_dict()
    assert all(torch.equal(v, want[k]) for k, v in load_run(tmp_path).model.state_dict().items())


def changed(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda table: table.update(values)


def inner(key: str, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda table: table[key].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(format="other"), "format is 'other', expected 'ssrtrack-learned'"),
        (changed(version=2), "version is 2, this software reads 1; install a newer"),
        (changed(extra=1), "has keys"),
        (lambda t: t.pop("base"), "has keys"),
        (changed(architecture=[]), "architecture is no dict"),
        (changed(sources={}), "sources is no list"),
        (inner("architecture", kind="gru"), "architecture 'gru', this software knows residual and residual-koss"),
        (inner("architecture", width=-1), "width is -1"),
        (inner("architecture", nominal_gap_s=10**400), "nominal_gap_s is 1000"),
        (inner("architecture", nominal_gap_s=True), "nominal_gap_s is True"),
        (inner("architecture", width=32), "are too few|weight .* is"),
        (inner("architecture", blocks=3), "are too few|are missing or unknown"),
        (inner("architecture", history=3), r"weight inward.weight is torch.float32 \(16, 42\), expected"),
        (inner("architecture", modes=2), r"weight inward.weight is torch.float32 \(16, 42\), expected"),
        (inner("architecture", width=4096, head=4096), "are too few for 2 blocks of width 4096"),
        (inner("architecture", block="gka", options={"head": 4096, "heads": 4096}), "are too few for a model of this"),
        (inner("architecture", block="gru", options={"inner": 4096}), "are too few for a model of this architecture"),
        (inner("base", motions=[]), "the base filter"),
        (inner("base", jump=[[0.0]]), "the base filter cannot be built"),
        (inner("base", engine="warp"), "has engine 'warp'"),
        (inner("base", observation="polar"), "observation 'polar'"),
        (inner("base", sojourn_s=[10**400] * 4), "the base filter cannot be built"),
        (lambda t: t["base"]["motions"][2]["parameters"].__setitem__(1, 1e308), "the base filter cannot be built"),
        (inner("base", options={}), "the base filter cannot be built: options"),
        (inner("base", sojourn_s=["a"] * 4), "the base filter cannot be built"),
        (lambda t: t["base"]["motions"][0].update(kind="warp"), "no motion model 'warp'"),
        (lambda t: t["base"]["motions"][0].update(parameters=[-1.0]), "must be a positive number"),
        (lambda t: t["base"]["motions"][0].update(parameters=["x"]), "no finite number"),
        (inner("weights", file="../other.safetensors"), "expected the name of a .safetensors file"),
        (inner("weights", file="gone.safetensors"), "cannot be read"),
        (inner("weights", sha256="0"), "are not those that were saved"),
    ],
)
def test_a_description_that_is_not_ours_is_refused(
    change: Callable[[dict[str, Any]], None], message: str, written: Path, tmp_path: Path
) -> None:
    folder = copied(written, tmp_path)
    table = json.loads((folder / "model.json").read_text())
    change(table)
    (folder / "model.json").write_text(json.dumps(table))
    with pytest.raises(CheckpointError, match=message) as caught:
        load_run(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"format": NaN}', "\x00\xff"])
def test_a_description_that_is_no_json_table_is_refused(text: str, written: Path, tmp_path: Path) -> None:
    folder = copied(written, tmp_path)
    (folder / "model.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"model\.json"):
        load_run(folder)


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "gone"):
        with pytest.raises(CheckpointError, match="cannot be read"):
            load_run(path)


def test_damaged_weights_are_refused(written: Path, tmp_path: Path) -> None:
    folder = copied(written, tmp_path)
    path = weights_of(folder)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(20):
        at = int(rng.integers(len(whole)))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(CheckpointError, match="are not those that were saved"):
            load_run(folder)
    for end in (0, 8, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(CheckpointError, match="are not those that were saved"):
            load_run(folder)


def resigned(folder: Path, change: Callable[[dict[str, torch.Tensor]], None] | bytes) -> None:
    """Put other weights in, with the digest that fits them."""
    import hashlib

    path, table = weights_of(folder), json.loads((folder / "model.json").read_text())
    if isinstance(change, bytes):
        path.write_bytes(change)
    else:
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)
    table["weights"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "model.json").write_text(json.dumps(table))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["inward.bias"].fill_(float("nan")), "weight inward.bias is not finite"),
        (lambda t: t.update({"inward.bias": torch.zeros(3)}), "weight inward.bias is torch.float32"),
        (lambda t: t.update({"inward.bias": t["inward.bias"].double()}), "weight inward.bias is torch.float64"),
        (lambda t: t.pop("inward.bias"), "are missing or unknown"),
        (lambda t: t.update({"other": torch.zeros(1)}), "are missing or unknown"),
        (b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ", "are too few"),
        (b"not safetensors at all", "are no safetensors"),
        (b"\xff" * 64, "are no safetensors"),
    ],
)
def test_weights_of_another_model_are_refused(change: Any, message: str, written: Path, tmp_path: Path) -> None:
    folder = copied(written, tmp_path)
    resigned(folder, change)
    with pytest.raises(CheckpointError, match=message):
        load_run(folder)


def test_what_cannot_be_saved_is_refused_and_nothing_is_lost(written: Path, tmp_path: Path) -> None:
    folder, bank = copied(written, tmp_path), base("imm")
    before = {f.name: f.read_bytes() for f in folder.iterdir()}
    bad = network(bank)
    with torch.no_grad():
        bad.norm.weight[0] = float("inf")
    with pytest.raises(CheckpointError, match=r"weights \['norm.weight'\] are not finite"):
        save_run(folder, bad, bank)
    with pytest.raises(CheckpointError, match="are no JSON"):
        save_run(folder, network(bank, seed=3), bank, training={"loss": float("nan")})
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_run(tmp_path / "file" / "run", network(bank), bank)
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == before


def test_a_device_that_is_not_there_is_refused(written: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(CheckpointError, match="device cuda cannot be used"):
        load_run(written, device="cuda")


def test_a_base_table_of_wrong_kind_is_refused() -> None:
    for table in (None, [], {}, {"motions": 1}):
        with pytest.raises(CheckpointError, match="the base filter names"):
            bank_from_dict(table)
