"""The import table of the architecture, read from the code: an arrow that runs up fails."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "ssrtrack"

# From the top: a row may import the rows below it, never its own or those above.
ROWS = (
    ("cli",),
    ("experiments",),
    ("batch", "report"),
    ("training", "scoring"),
    ("tracking", "models"),
    ("simulators", "filters", "io"),
    ("data",),
    ("geodesy", "units", "errors", "kernels"),
)
LEVEL = {name: level for level, row in enumerate(ROWS) for name in row}

# Who alone may import a third-party package.
OWNERS = {
    "filterpy": ("filters/classical",),
    "h5py": ("io/hdf5",),
    "typer": ("cli/",),
    "matplotlib": ("report/figures",),
    "triton": ("kernels/",),
    "torch": ("kernels/", "models/", "training/", "experiments/"),
    "numba": ("kernels/", "io/asterix_walk"),
    "safetensors": ("models/checkpoint", "training/resume"),
    "pandas": ("data", "io/trajectories"),
    "pyarrow": ("io/trajectories",),
    "dask": ("batch",),
    "distributed": ("batch",),
    "fsspec": ("io/storage",),
}
# kernels stand at the bottom: beside these and the standard library they know nothing.
KERNEL_PACKAGES = {"torch", "triton", "numba", "llvmlite", "numpy", *sys.stdlib_module_names}


def modules() -> list[Path]:
    return sorted(p for folder in [ROOT, *(p for p in ROOT.iterdir() if p.is_dir())] for p in folder.glob("*.py"))


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{a.name}" for a in node.names if node.module == "ssrtrack")}
    return names


def arrow_faults(part: str, imports: set[str]) -> list[str]:
    """The imports of a module in `part` that the table forbids."""
    faults = []
    for name in sorted(imports):
        pieces = name.split(".")
        if pieces[0] != "ssrtrack" or len(pieces) < 2 or pieces[1] == part or pieces[1] not in LEVEL:
            continue
        both_at_bottom = LEVEL[part] == LEVEL[pieces[1]] == len(ROWS) - 1
        if LEVEL[pieces[1]] <= LEVEL[part] and not (both_at_bottom and part != "kernels"):
            faults.append(name)
    return faults


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_down(path: Path) -> None:
    relative = path.relative_to(ROOT)
    part = relative.parts[0].removesuffix(".py")
    names = imported(path)
    if part != "__init__":
        assert part in LEVEL, f"{relative} is not in the table of rows; add it or move it"
        assert arrow_faults(part, names) == []
    for package, owners in OWNERS.items():
        if any(name.split(".")[0] == package for name in names):
            assert str(relative).startswith(owners), f"{relative} imports {package}, which belongs to {owners}"
    if part == "kernels":
        foreign = {n.split(".")[0] for n in names} - KERNEL_PACKAGES - {"ssrtrack"}
        assert not foreign, f"kernels import {foreign}"


def test_the_table_catches_an_arrow_that_runs_up() -> None:
    assert arrow_faults("data", {"ssrtrack.io.hdf5", "ssrtrack.errors"}) == ["ssrtrack.io.hdf5"]
    assert arrow_faults("filters", {"ssrtrack.io.hdf5", "ssrtrack.data"}) == ["ssrtrack.io.hdf5"]


@pytest.mark.parametrize("name", ["kernels", "simulators", "cli"])
def test_links_resolve(name: str) -> None:
    link = ROOT / name
    if link.is_symlink():
        assert link.resolve() == (ROOT.parent / name).resolve()
    assert (link / "__init__.py").is_file()


def test_import_loads_neither_torch_nor_triton() -> None:
    heavy = ["torch", "triton", "numba", "scipy", "numpy"]
    code = f"import ssrtrack, ssrtrack.cli.main, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_filters_and_the_choice_of_trackers_load_no_compiler_before_they_run() -> None:
    heavy = ["torch", "triton", "numba", "llvmlite", "filterpy"]
    code = (
        "import sys, ssrtrack.filters.run, ssrtrack.filters.smoother, ssrtrack.models.load; "
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_files_stay_short() -> None:
    long = {str(p.relative_to(ROOT)): n for p in modules() if (n := len(p.read_text().splitlines())) > 400}
    assert not long, f"over 400 lines: {long}"
