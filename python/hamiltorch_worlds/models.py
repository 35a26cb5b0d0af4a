"""The dynamics models behind one interface, and the one table of them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hamiltorch_ext import CanonicalTransform, HamiltonianMLP, SeparableHamiltonian, rollout

from .config import ModelName, TrainConfig
from .files import DamagedFile, read_json, read_tensors, write_json, write_tensors
from .ridge import STRENGTHS, Ridge

__all__ = [
    "MODELS",
    "DynamicsModel",
    "HamiltonianDynamics",
    "LinearDynamics",
    "MLPDynamics",
    "ModelSpec",
    "Persistence",
]


class DynamicsModel(nn.Module, ABC):
    """Predicts the latents that follow one latent.

    A subclass passes its constructor's arguments on to this one's, which keeps them for ``config.json``; they are JSON
    data and begin with ``dim``, the size D of a latent.
    """

    classes: ClassVar[dict[str, type[DynamicsModel]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.classes[cls.__name__] = cls

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.arguments = arguments

    @abstractmethod
    def rollout(self, z0: Tensor, steps: int) -> tuple[Tensor, Tensor | None]:
        """Predict ``steps`` latents from each z0.

        Args:
            z0: initial latents, (B, D).
            steps: how many to predict.

        Returns:
            The trajectory (B, steps + 1, D), which begins with z0, and the model's energy along it (B, steps + 1), or
            None for a model that has none.
        """

    def fit(self, windows: Tensor) -> None:
        """Learn from training windows (N, window, D), in order of video, without gradient descent."""

    @property
    def parameter_count(self) -> int:
        """Parameters of the network."""
        return sum(parameter.numel() for parameter in self.parameters())

    def save_pretrained(self, folder: Path | str, **details: Any) -> None:
        """Write ``model.safetensors``, then ``config.json``: where there is a ``config.json``, the model is complete.

        ``details`` is further JSON data to keep in ``config.json``.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(folder / "model.safetensors", self.state_dict(), {"format": "pt"})
        write_json(folder / "config.json", {"class": type(self).__name__, "arguments": self.arguments, **details})

    @staticmethod
    def from_pretrained(folder: Path | str) -> DynamicsModel:
        """Load what ``save_pretrained`` wrote.

        Raises:
            FileNotFoundError: a file is missing.
            DamagedFile: a file cannot be read, or the two do not fit each other; the message names it.
        """
        config_path, weights_path = Path(folder) / "config.json", Path(folder) / "model.safetensors"
        config = read_json(config_path)
        try:
            model = DynamicsModel.classes[config["class"]](**config["arguments"])
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedFile(config_path, f"it describes no dynamics model: {error!r}") from error
        try:
            # Assigning keeps the dtype that was saved.
            model.load_state_dict(read_tensors(weights_path), assign=True)
        except RuntimeError as error:
            raise DamagedFile(weights_path, f"it does not fit {config_path.name}: {error}") from error
        return model


class HamiltonianDynamics(DynamicsModel):
    """Hamilton's equations of a learned energy H, integrated with a learned time step (H-JEPA sections 3.2, 3.3).

    ``integrator`` is a method of ``hamiltorch_ext.rollout``: "leapfrog" (Algorithm 1), "euler" (the ablation of section
    5.5), or one that keeps structure for this H(q, p). With ``separable`` the energy is T(p) + V(q), two networks,
    on which leapfrog keeps it too. ``phase_space``, a kind of ``CanonicalTransform``, makes (q, p) a learned function
    of the latent, which is else split in half (section 6, future work). H begins with Xavier-normal weights of gain 0.5
    and zero biases, as the authors' public code has it. The time step is not clamped.
    """

    def __init__(
        self,
        dim: int,
        hidden: Sequence[int] = (512, 512, 256),
        activation: str = "softplus",
        dt: float = 1.0,
        integrator: str = "leapfrog",
        separable: bool = False,
        phase_space: str | None = None,
    ) -> None:
        super().__init__(
            dim=dim, hidden=list(hidden), activation=activation, dt=dt, integrator=integrator, separable=separable,
            phase_space=phase_space,
        )  # fmt: skip
        self.H = (
            SeparableHamiltonian(dim, hidden, activation, kinetic="mlp")
            if separable
            else HamiltonianMLP(dim, hidden, activation)
        )
        for layer in self.H.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight, gain=0.5)
                nn.init.zeros_(layer.bias)
        self.dt = nn.Parameter(torch.tensor(float(dt)))
        self.integrator = integrator
        self.phase_space = None if phase_space is None else CanonicalTransform(dim, phase_space)

    def rollout(self, z0: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """See the base class; one fused call runs every step, and gives H at every state."""
        path, energies = rollout(
            self.H, self.to_phase_space(z0), self.dt, steps, method=self.integrator, return_energy=True
        )
        if self.phase_space is not None:
            path = torch.cat((z0[:, None], self.phase_space.inverse(path[:, 1:])), dim=1)
        return path, energies

    def to_phase_space(self, z: Tensor) -> Tensor:
        """(q, p) of latents z, both (..., D)."""
        if self.phase_space is None:
            return z
        point: Tensor = self.phase_space(z)
        return point

    def energy(self, z: Tensor) -> Tensor:
        """H of latents z (..., D), shape (...)."""
        value: Tensor = self.H(self.to_phase_space(z))
        return value

    @property
    def parameter_count(self) -> int:
        """All but the time step, one number more, which is left out as in the paper."""
        return super().parameter_count - 1


class MLPDynamics(DynamicsModel):
    """An unconstrained next-step network: z' = f(z) (H-JEPA section 4.3, eq. 8) or, ``residual``, z' = z + f(z).

    ReLU. The residual form is the fair baseline that the paper lacks: its last layer begins at zero, so it starts from
    persistence, where the plain form's first rollouts explode.
    """

    def __init__(self, dim: int, hidden: Sequence[int] = (512, 512), residual: bool = False) -> None:
        super().__init__(dim=dim, hidden=list(hidden), residual=residual)
        widths = (dim, *hidden, dim)
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(widths):
            layers += [nn.Linear(n_in, n_out), nn.ReLU()]
        self.f = nn.Sequential(*layers[:-1])
        self.residual = residual
        if residual:
            for parameter in self.f[-1].parameters():
                nn.init.zeros_(parameter)

    def rollout(self, z0: Tensor, steps: int) -> tuple[Tensor, None]:
        """See the base class."""
        states = [z0]
        for _ in range(steps):
            z = states[-1]
            states.append(z + self.f(z) if self.residual else self.f(z))
        return torch.stack(states, dim=1), None


class Persistence(DynamicsModel):
    """Predicts that nothing changes: the error that any model must beat."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim=dim)

    def rollout(self, z0: Tensor, steps: int) -> tuple[Tensor, None]:
        """See the base class."""
        return z0[:, None].repeat(1, steps + 1, 1), None


class LinearDynamics(DynamicsModel):
    """z' = z + z A + b, by ridge regression of the change on the state; a strong ridge leaves persistence and drift."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim=dim)
        self.A = nn.Parameter(torch.zeros(dim, dim), requires_grad=False)
        self.b = nn.Parameter(torch.zeros(dim), requires_grad=False)

    def rollout(self, z0: Tensor, steps: int) -> tuple[Tensor, None]:
        """See the base class."""
        states = [z0]
        for _ in range(steps):
            states.append(states[-1] + states[-1] @ self.A + self.b)
        return torch.stack(states, dim=1), None

    def fit(self, windows: Tensor) -> None:
        """Fit on all pairs of neighbours; the strength is the one with the least rollout error on held-out windows.

        The last fifth is held out for the choice; in order of video, that is other videos but for one at the cut.
        """
        if len(windows) < 2:
            raise ValueError(f"windows must be two or more for the linear model, got {len(windows)}")
        kept, held_out = windows.tensor_split([-max(len(windows) // 5, 1)])
        candidates = self._ridge(kept)

        def rollout_error(strength: float) -> float:
            self._set(candidates, strength)
            predicted, _ = self.rollout(held_out[:, 0], windows.shape[1] - 1)
            error = (predicted - held_out).square().mean().item()
            return error if math.isfinite(error) else math.inf

        strength = min(reversed(STRENGTHS), key=rollout_error)
        self._set(self._ridge(windows), strength)

    @staticmethod
    def _ridge(windows: Tensor) -> Ridge:
        before, after = windows[:, :-1].flatten(0, 1), windows[:, 1:].flatten(0, 1)
        return Ridge(before, after - before)

    def _set(self, ridge: Ridge, strength: float) -> None:
        weight, bias = ridge.solve(strength)
        self.A.copy_(weight)
        self.b.copy_(bias)


@dataclass(frozen=True)
class ModelSpec:
    """How a model is made and trained.

    ``build(dim, config)`` makes it; ``descent`` says that it is trained by gradient descent on the paper's objective
    (otherwise by its ``fit``), ``energy_loss`` that the objective holds the energy term.
    """

    build: Callable[[int, TrainConfig], DynamicsModel]
    descent: bool = True
    energy_loss: bool = False


def _hnn(**options: Any) -> Callable[[int, TrainConfig], DynamicsModel]:
    return lambda dim, config: HamiltonianDynamics(dim, config.hidden, config.activation, config.dt, **options)


MODELS: dict[ModelName, ModelSpec] = {
    "hnn": ModelSpec(_hnn(), energy_loss=True),
    "hnn_no_energy": ModelSpec(_hnn()),
    "hnn_euler": ModelSpec(_hnn(integrator="euler"), energy_loss=True),
    "hnn_stormer_verlet": ModelSpec(_hnn(integrator="stormer_verlet"), energy_loss=True),
    "hnn_midpoint": ModelSpec(_hnn(integrator="implicit_midpoint"), energy_loss=True),
    "hnn_separable": ModelSpec(_hnn(separable=True), energy_loss=True),
    "hnn_phase_space": ModelSpec(_hnn(phase_space="orthogonal"), energy_loss=True),
    "mlp": ModelSpec(lambda dim, config: MLPDynamics(dim, config.baseline_hidden)),
    "residual_mlp": ModelSpec(lambda dim, config: MLPDynamics(dim, config.baseline_hidden, residual=True)),
    "persistence": ModelSpec(lambda dim, config: Persistence(dim), descent=False),
    "linear": ModelSpec(lambda dim, config: LinearDynamics(dim), descent=False),
}
