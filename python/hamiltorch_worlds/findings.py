"""The findings that the report opens with, worded from the numbers: what helps, what does not."""

from __future__ import annotations

from typing import Any

from .figures import style

__all__ = ["findings", "number", "percent"]


def number(value: float | None, digits: int = 3) -> str:
    """Return a number for a table; None, which stands for one that is not finite, reads "overflow"."""
    if value is None:
        return "overflow"
    return f"{value:.{digits}g}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.{digits - 1}e}"


def percent(value: float, reference: float) -> str:
    """Return how ``value`` compares with ``reference``: "12 % below", "3.4 times", "within 2 % of"."""
    ratio = value / reference
    if abs(ratio - 1) < 0.02:
        return "within 2 % of"
    if ratio > 2:
        return f"{ratio:.2g} times"
    return f"{abs(1 - ratio) * 100:.0f} % {'above' if ratio > 1 else 'below'}"


def findings(evaluation: dict[str, Any]) -> list[str]:
    """Return the findings of an evaluation, one sentence or two each."""
    models = evaluation["models"]
    mse = {name: entry["over_seeds"]["mse"]["mean"] for name, entry in models.items()}
    mse = {name: value for name, value in mse.items() if value is not None}
    drift = {
        name: models[name]["over_seeds"]["relative_drift"]["mean"]
        for name in ("hnn", "hnn_no_energy", "hnn_euler")
        if name in models
    }
    found = []
    if mse:
        best = min(mse, key=lambda name: mse[name])
        skill = models[best]["over_seeds"]["skill"]["mean"]
        found.append(
            f"Least prediction error: {style(best).label}, {number(mse[best])} "
            f"({evaluation['test']['horizon']} steps, test windows), skill {number(skill, 2)} against persistence."
        )
    if {"hnn", "mlp"} <= mse.keys():
        found.append(
            f"The paper's comparison: the HNN's error is {percent(mse['hnn'], mse['mlp'])} the baseline MLP's (paper: "
            "48 % below). That baseline makes the next latent from nothing; the residual one, which predicts the "
            "change, is the fairer test."
        )
    if "hnn" in mse:
        found += [_against_plain(mse, name) for name in ("residual_mlp", "linear") if name in mse]
    lost = [style(name).label for name, value in mse.items() if "persistence" in mse and value > mse["persistence"]]
    if lost:
        found.append(f"Worse than predicting that nothing changes: {', '.join(lost)}.")
    if drift.get("hnn") and drift.get("hnn_no_energy") and {"hnn", "hnn_no_energy"} <= mse.keys():
        found.append(
            f"The energy loss: with it the drift, in units of the spread of H, is {number(drift['hnn'])} instead of "
            f"{number(drift['hnn_no_energy'])}, and the prediction error is "
            f"{percent(mse['hnn'], mse['hnn_no_energy'])} that without."
        )
    if drift.get("hnn") and drift.get("hnn_euler") and {"hnn", "hnn_euler"} <= mse.keys():
        by_loss = drift["hnn_euler"] < 2 * drift["hnn"] < drift.get("hnn_no_energy", 0)
        found.append(
            f"Leapfrog against Euler: error {number(mse['hnn'])} and {number(mse['hnn_euler'])}, scale-free drift "
            f"{number(drift['hnn'])} and {number(drift['hnn_euler'])}."
            + (" So it is the energy loss, not the integrator, that conserves the energy." if by_loss else "")
        )
    keeping = [name for name in ("hnn_stormer_verlet", "hnn_midpoint", "hnn_separable") if name in mse]
    if "hnn" in mse and keeping:
        ratios = ", ".join(f"{style(name).label} {percent(mse[name], mse['hnn'])}" for name in keeping)
        best = min(mse[name] for name in keeping)
        verdict = "it pays" if best < 0.98 * mse["hnn"] else "no prediction is better for it"
        found.append(f"Steps symplectic for their H, error against explicit leapfrog's: {ratios}; {verdict}.")
    if {"hnn", "hnn_phase_space"} <= mse.keys():
        found.append(
            "A learned orthogonal phase space in place of the latent's two halves: error "
            f"{percent(mse['hnn_phase_space'], mse['hnn'])} the fixed split's."
        )
    if "hnn" in evaluation["structure"]:
        defect = evaluation["structure"]["hnn"]["symplectic_defect"]
        found.append(
            "Leapfrog is not symplectic for this H(q, p): one learned step misses the symplectic form by "
            f"{number(defect, 2)} of its norm, where a symplectic step would show rounding (1e-15)."
        )
    return found


def _against_plain(mse: dict[str, float], name: str) -> str:
    """Whether the structure helps against a model without it."""
    comparison = f"{style(name).label}, no mechanics: the HNN's error is {percent(mse['hnn'], mse[name])} its error"
    if mse["hnn"] > 1.02 * mse[name]:
        return f"{comparison}. The Hamiltonian structure does not help prediction here."
    return f"{comparison}."
