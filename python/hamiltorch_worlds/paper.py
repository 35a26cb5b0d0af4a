"""What the H-JEPA paper reports, to stand beside our numbers: another encoder (V-JEPA 2), another split (windows)."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["PAPER", "PAPER_COST", "Published"]


class Published(NamedTuple):
    """One row of the paper's Tables 2 and 3: mean and standard deviation over 190 test windows."""

    mse: tuple[float, float]
    drift: tuple[float, float]
    integrator: str
    energy_weight: str


PAPER = {
    "hnn": Published((0.102, 0.045), (0.010, 0.007), "leapfrog", "0.1 → 1.0"),
    "hnn_no_energy": Published((0.087, 0.041), (0.146, 0.115), "leapfrog", "0"),
    "hnn_euler": Published((0.114, 0.050), (0.012, 0.008), "Euler", "0.1 → 1.0"),
    "mlp": Published((0.196, 0.058), (0.327, 0.244), "none", "none"),
}

PAPER_COST = {"fused_leapfrog": 2.73, "autograd_leapfrog": 2.73, "fused_euler": 0.95, "mlp": 0.15}
"""Milliseconds per step of the paper's own code, by autograd on an A100, for what our methods compute (section 5.6)."""
