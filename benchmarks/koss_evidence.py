"""The paper's two extra experiments, and what low precision and long sequences do to KOSS, as tables.

    python benchmarks/koss_evidence.py [gain_convergence sdu_response koss_precision]

Convergence of the gain (arXiv 2512.16723's figure, and a layer that has to find known Kalman gains), frequency response
and errors of the derivative units, error of bfloat16 over time and norm of the gradient. Two to three minutes on one
core; with a CUDA device, the kernels' own error is in koss_precision's table too. Writes one CSV file for each into
results/, and with --figures the pictures into a folder.
"""

import argparse
import sys
from pathlib import Path

import torch
from setting import RESULTS, cuda_device, device, setting, write_csv

from ssrtrack.experiments import gain_convergence, koss_precision, sdu_response
from ssrtrack.report.figures_koss import save

EXPERIMENTS = {
    "gain_convergence": (gain_convergence.gain_convergence, gain_convergence.table, gain_convergence.draw),
    "sdu_response": (sdu_response.sdu_response, sdu_response.table, sdu_response.draw),
    "koss_precision": (koss_precision.koss_precision, koss_precision.table, koss_precision.draw),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", default=list(EXPERIMENTS), choices=[*EXPERIMENTS, []])
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the tables")
    parser.add_argument("--figures", type=Path, help="folder for the pictures; without it none are drawn")
    options = parser.parse_args()
    where = f"{device()}; kernels on {cuda_device()}" if torch.cuda.is_available() else device()
    for name in options.experiments:
        compute, table, draw = EXPERIMENTS[name]
        result = compute()
        on = where if name == "koss_precision" else device()
        told = setting("torch", "numpy", "scipy", on=on)
        write_csv(options.output / f"{name}.csv", [dict(row) | told for row in table(result)])
        if options.figures:
            save(draw(result), options.figures, name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
