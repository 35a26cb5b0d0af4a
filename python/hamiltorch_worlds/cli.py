"""The command line ``hamiltorch-worlds``: one command per stage, and ``demo``, which runs them all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from .experiment import Experiment

__all__ = ["app"]


class _Commands(TyperGroup):
    """Commands whose expected failures are one line on stderr and exit code 1, not a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, OSError, ImportError, FloatingPointError) as error:
            hint = " (pip install 'hamiltorch_ext[worlds]')" if isinstance(error, ImportError) else ""
            message = " ".join(str(error).split()) or type(error).__name__
            typer.secho(f"error: {message}{hint}", fg=typer.colors.RED, err=True)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            typer.secho("\ninterrupted; the same command carries on from here", fg=typer.colors.YELLOW, err=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help=(
        "Hamiltonian world models on latent video embeddings (H-JEPA), from videos to a report.\n\n"
        "Every command works on one run folder, first makes what it needs there, and skips what is done: "
        "an interrupted command carries on when it is given again. `data` and `demo` begin a run."
    ),
    epilog=(
        "Examples:\n\n"
        "`hamiltorch-worlds demo --preset quick --run runs/quick`  (all stages, about a minute)\n\n"
        "`hamiltorch-worlds demo --run runs/paper --seeds 0,1,2`  (the paper's size, mean ± sd over seeds)\n\n"
        "`hamiltorch-worlds demo --run runs/mine data.folder=my_videos train.epochs=20`  (your own videos)\n\n"
        "`hamiltorch-worlds demo --run runs/window train.split=window`  (the paper's split)\n\n"
        "`hamiltorch-worlds evaluate --run runs/paper --device cuda:1`  (on the second GPU)\n\n"
        "`hamiltorch-worlds report --run runs/paper`  (draw a finished run's report again)"
    ),
)

Run = Annotated[Path, typer.Option("--run", metavar="FOLDER", help="The run folder.")]
Preset = Annotated[
    str | None,
    typer.Option(
        metavar="paper|quick",
        help="Sizes to start a new run from; an existing run keeps its own.",
        show_default="paper",
    ),
]
Seeds = Annotated[str | None, typer.Option(metavar="0,1,...", help="Seeds to train each model with.")]
Device = Annotated[
    str,
    typer.Option(
        metavar="auto|cpu|cuda|cuda:N",
        help=(
            "Where networks run, one device per command: `auto` takes a GPU where torch can use one, `cuda:1` the "
            "second. A run may go on with another device."
        ),
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print no progress, only the result.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings, such as `train.epochs=3` or `models=hnn,mlp`."),
]
Added = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="`models=` and `seeds=`; other settings are the run's own."),
]
DEFAULT_RUN = Path("runs/demo")


def _start(
    run: Path, preset: str | None, seeds: str | None, device: str, quiet: bool, overrides: list[str] | None
) -> Experiment:
    # Here and not above: torch takes seconds to load, and --help should not.
    from .experiment import Experiment

    return Experiment.start(run, preset, _settings(seeds, overrides), device=device, quiet=quiet)


def _open(run: Path, seeds: str | None, device: str, quiet: bool, overrides: list[str] | None) -> Experiment:
    from .experiment import Experiment

    return Experiment.open(run, _settings(seeds, overrides), device=device, quiet=quiet)


def _settings(seeds: str | None, overrides: list[str] | None) -> list[str]:
    return [*(overrides or []), *([] if seeds is None else [f"seeds={seeds}"])]


@app.command()
def data(run: Run = DEFAULT_RUN, preset: Preset = None, quiet: Quiet = False, overrides: Overrides = None) -> None:
    """Begin a run: make the videos of two-ball collisions with their labels, or open a folder of your own."""
    dataset = _start(run, preset, None, "auto", quiet, overrides).dataset
    typer.echo(f"{len(dataset.videos)} videos: {dataset.videos[0].parent}")


@app.command()
def encode(run: Run = DEFAULT_RUN, device: Device = "auto", quiet: Quiet = False) -> None:
    """Turn every video into a sequence of latents."""
    latents = _open(run, None, device, quiet, None).latents
    typer.echo(f"latents of {len(latents.videos)} videos: {latents.folder}")


@app.command()
def train(
    run: Run = DEFAULT_RUN,
    seeds: Seeds = None,
    device: Device = "auto",
    quiet: Quiet = False,
    overrides: Added = None,
) -> None:
    """Train every model with every seed."""
    models = _open(run, seeds, device, quiet, overrides).models
    typer.echo(f"{sum(map(len, models.values()))} models: {run / 'models'}")


@app.command()
def evaluate(
    run: Run = DEFAULT_RUN,
    seeds: Seeds = None,
    device: Device = "auto",
    quiet: Quiet = False,
    overrides: Added = None,
) -> None:
    """Measure errors, energies and costs on the test windows."""
    _ = _open(run, seeds, device, quiet, overrides).evaluation
    typer.echo(f"evaluation: {run / 'evaluation.json'}")


@app.command()
def report(
    run: Run = DEFAULT_RUN,
    seeds: Seeds = None,
    device: Device = "auto",
    quiet: Quiet = False,
    overrides: Added = None,
) -> None:
    """Write the report: one HTML file, its figures, its film, its numbers."""
    typer.echo(f"report: {_open(run, seeds, device, quiet, overrides).report()}")


@app.command()
def demo(
    run: Run = DEFAULT_RUN,
    preset: Preset = None,
    seeds: Seeds = None,
    device: Device = "auto",
    quiet: Quiet = False,
    overrides: Overrides = None,
) -> None:
    """Run the whole experiment, from data to report."""
    typer.echo(f"report: {_start(run, preset, seeds, device, quiet, overrides).report()}")
