"""The device of a run: how it is chosen, and that everything that computes is there and stays there."""

from __future__ import annotations

import math
import re
import shutil
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hamiltorch_worlds import evaluation, experiment, training
from hamiltorch_worlds.device import describe_device, peak_memory, reset_peak_memory, resolve_device, synchronize
from hamiltorch_worlds.evaluation import evaluate, measure_cost
from hamiltorch_worlds.files import read_json, read_tensors, write_json
from hamiltorch_worlds.models import MODELS, MLPDynamics
from hamiltorch_worlds.training import objective, train
from hamiltorch_worlds.windows import Windows
from test_worlds_cli import TINY, assert_one_line_error, command
from test_worlds_training import CONFIG, orbits, rows, stop_after
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map


class Elsewhere(torch.Tensor):
    """A tensor of a make-believe second device: it computes on the CPU, in ``inner``, and says that it is on "meta"."""

    is_meta = False  # it has values, which load_state_dict would not believe

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device="meta"
        )

    def __init__(self, inner):
        self.inner = inner

    def tolist(self):
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, operator, types, args=(), kwargs=None):
        raise AssertionError(f"{operator} outside of SecondDevice")


class SecondDevice(TorchDispatchMode):
    """Makes "meta" a device that computes, and refuses, as a GPU does, operators whose tensors are on two devices."""

    MOVES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        with self:  # in inference mode operators come whole, in parts otherwise
            if (result := operator.decompose(*args, **kwargs)) is not NotImplemented:
                return result
        takes_cpu_indices = operator in (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default)
        operands = tree_leaves((args[:1] if takes_cpu_indices else args, kwargs))
        there = any(isinstance(operand, Elsewhere) for operand in operands)
        # A GPU, too, takes single numbers from the CPU.
        here = any(type(operand) is torch.Tensor and operand.ndim > 0 for operand in operands)
        assert operator in self.MOVES or not (here and there), f"{operator} has operands on two devices"
        if kwargs.get("device") is not None:
            there = torch.device(kwargs["device"]).type == "meta"
            kwargs["device"] = "cpu"
        result = operator(*tree_map(self._unwrap, args), **tree_map(self._unwrap, kwargs))
        if operator._schema.is_mutable:
            return args[0] if isinstance(args[0], torch.Tensor) else None
        return tree_map(self._wrap, result) if there else result

    @staticmethod
    def _wrap(leaf):
        return Elsewhere(leaf) if isinstance(leaf, torch.Tensor) else leaf

    @staticmethod
    def _unwrap(leaf):
        return leaf.inner if isinstance(leaf, Elsewhere) else leaf


GPU = pytest.param("cuda:0", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))
# The make-believe device has no kernels; nor has a GPU in a build without CUDA.
pytestmark = pytest.mark.filterwarnings("ignore:running on the torch reference path")


@pytest.fixture
def devices(request):
    """Makes "meta" compute where a test's device, or one of its devices, is that."""
    with SecondDevice() if "meta" in request.node.callspec.params.values() else nullcontext():
        yield


@pytest.fixture
def gpus(monkeypatch):
    """Sets how many GPUs torch seems to find."""

    def set_count(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return set_count


def windows_on(device):
    # In float64: results of two devices then differ by rounding that no step of training makes much of.
    windows = Windows.from_latents(orbits(), CONFIG)
    return replace(windows, data=windows.data.double()).to(device)


@pytest.mark.parametrize(
    ("name", "count", "device"),
    [
        ("auto", 0, "cpu"),
        ("auto", 1, "cuda:0"),
        ("cpu", 0, "cpu"),
        ("cpu", 2, "cpu"),
        ("cuda", 2, "cuda:0"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_device_by_name(gpus, name, count, device):
    gpus(count)
    assert resolve_device(name) == torch.device(device)


@pytest.mark.parametrize("name", ["", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:0,1", "cuda:all", "mps", "meta"])
def test_names_that_are_none(gpus, name):
    gpus(2)
    with pytest.raises(ValueError, match=f"--device must be auto, cpu, cuda or cuda:N .*, got {name!r}"):
        resolve_device(name)


@pytest.mark.parametrize(("count", "found"), [(1, "one GPU, cuda:0"), (2, "2 GPUs, cuda:0 to cuda:1")])
def test_a_gpu_that_is_not_there(gpus, count, found):
    gpus(count)
    with pytest.raises(ValueError, match=rf"--device must be a GPU that torch finds here \({found}\), got 'cuda:7'"):
        resolve_device("cuda:7")


@pytest.mark.parametrize(
    ("built_for", "reason"), [(None, "built without CUDA"), ("12.8", "no GPU with a working driver")]
)
def test_no_gpu_at_all_is_one_line_and_writes_nothing(gpus, monkeypatch, tmp_path, built_for, reason):
    gpus(0)
    monkeypatch.setattr(torch.version, "cuda", built_for)
    result = command("demo", "--run", tmp_path / "run", "--device", "cuda:1")
    assert_one_line_error(result, "--device cuda:1 needs a GPU", reason, "use --device cpu")
    assert not (tmp_path / "run").exists()


def test_every_command_that_runs_a_network_takes_a_device(tmp_path):
    for name in ("encode", "train", "evaluate", "report", "demo"):
        assert "auto|cpu|cuda|cuda:N" in command(name, "--help").stdout
        if name != "demo":
            shutil.rmtree(tmp_path / "run", ignore_errors=True)
            write_json(tmp_path / "run" / "config.json", {})
        assert_one_line_error(command(name, "--run", tmp_path / "run", "--device", "gpu"), "--device must be", "'gpu'")


def test_a_gpu_is_named_waited_for_and_its_memory_watched(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Some GPU {device.index}")
    monkeypatch.setattr(torch.cuda, "synchronize", calls.append)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", calls.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**20 * device.index)
    cpu, gpu = torch.device("cpu"), torch.device("cuda:1")
    assert (describe_device(cpu), peak_memory(cpu)) == ("cpu", None)
    assert (describe_device(gpu), peak_memory(gpu)) == ("cuda:1 (Some GPU 1)", 3.0)
    for device in (cpu, gpu):
        synchronize(device)
        reset_peak_memory(device)
    assert calls == [gpu, gpu]


def test_costs_are_those_of_finished_rollouts(monkeypatch):
    events = []
    monkeypatch.setattr(evaluation, "synchronize", lambda device: events.append(str(device)))
    monkeypatch.setattr(evaluation, "time", SimpleNamespace(perf_counter=lambda: events.append("clock") or len(events)))
    rollout = MLPDynamics.rollout
    monkeypatch.setattr(MLPDynamics, "rollout", lambda *arguments: events.append("mlp") or rollout(*arguments))
    measure_cost(CONFIG, 4, "cpu", warm_up=1, runs=2)
    # Three methods and the MLP, whose rollout is seen, in turns: wait, clock, rollout, wait, clock. One warm-up round,
    # whose ends are of no interest, and two that count.
    others, mlp = ["cpu", "clock", "cpu"], ["cpu", "clock", "mlp", "cpu"]
    end = ["clock"]
    assert events == others * 3 + mlp + ((others + end) * 3 + mlp + end) * 2


@pytest.mark.usefixtures("devices")
@pytest.mark.parametrize("device", ["meta", GPU])
@pytest.mark.parametrize("name", MODELS)
def test_training_and_evaluation_are_on_the_device_and_agree_with_the_cpu(name, device, tmp_path, monkeypatch):
    seen = set()

    def watch(model, window, weight):
        seen.update({window.device, *(parameter.device for parameter in model.parameters())})
        return objective(model, window, weight)

    monkeypatch.setattr(training, "objective", watch)
    results = {}
    for place in ("cpu", device):
        seen.clear()
        model = train(name, windows_on(place), CONFIG, 0, tmp_path / place, progress=False)
        assert seen == ({torch.device(place)} if MODELS[name].descent else set())
        assert {parameter.device for parameter in model.parameters()} <= {torch.device(place)}
        results[place] = evaluate({name: {0: model}}, windows_on(place), extended_steps=8)

    found, wanted = results[device], results["cpu"]
    assert (found.pop("device"), wanted.pop("device")) == (describe_device(torch.device(device)), "cpu")
    assert_close(found, wanted)
    weights = {place: read_tensors(tmp_path / place / "model.safetensors") for place in results}
    torch.testing.assert_close(weights[device], weights["cpu"], rtol=0, atol=1e-9)
    # What is fitted in closed form is so on the CPU: the same bits.
    if not MODELS[name].descent:
        assert (tmp_path / device / "model.safetensors").read_bytes() == (
            tmp_path / "cpu" / "model.safetensors"
        ).read_bytes()
    made_on = describe_device(torch.device(device if MODELS[name].descent else "cpu"))
    assert read_json(tmp_path / device / "config.json")["device"] == made_on


@pytest.mark.usefixtures("devices")
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("cpu", "meta"),
        ("meta", "cpu"),
        ("meta", "meta"),
        pytest.param("cpu", *GPU.values, marks=GPU.marks),
        pytest.param(*GPU.values, "cpu", marks=GPU.marks),
        pytest.param(*GPU.values, *GPU.values, marks=GPU.marks),
    ],
)
def test_a_training_is_resumed_on_another_device(first, second, tmp_path, monkeypatch):
    straight = train("hnn", windows_on("cpu"), CONFIG, 0, tmp_path / "straight", progress=False)
    on_first, on_second = windows_on(first), windows_on(second)
    with monkeypatch.context() as patch:
        stop_after(patch, 2 * (len(on_first.train) // 8 + math.ceil(len(on_first.test) / 8)) + 1)
        with pytest.raises(KeyboardInterrupt):
            train("hnn", on_first, CONFIG, 0, tmp_path / "resumed", progress=False)
    resumed = train("hnn", on_second, CONFIG, 0, tmp_path / "resumed", progress=False)
    assert {parameter.device for parameter in resumed.parameters()} == {torch.device(second)}
    torch.testing.assert_close(
        read_tensors(tmp_path / "resumed" / "model.safetensors"), dict(straight.state_dict()), rtol=0, atol=1e-9
    )
    places = [describe_device(torch.device(place)) for place in (first, first, second, second)]
    assert [row["device"] for row in rows(tmp_path / "resumed")] == places
    # A finished training is loaded onto the device that is asked for.
    loaded = train("hnn", on_first, CONFIG, 0, tmp_path / "resumed", progress=False)
    assert {parameter.device for parameter in loaded.parameters()} == {torch.device(first)}


@pytest.mark.usefixtures("devices")
@pytest.mark.parametrize("device", ["meta", GPU])
def test_a_whole_run_says_where_it_ran(device, tmp_path, monkeypatch):
    if device == "meta":
        monkeypatch.setattr(experiment, "resolve_device", torch.device)
    run = tmp_path / "run"
    result = command("demo", "--preset", "quick", "--run", run, "--device", device, *TINY, "models=hnn,mlp,linear")
    assert result.exit_code == 0, result.output
    assert f"train: hnn, seed 0, on {device}" in result.stdout

    name = describe_device(torch.device(device))
    for file in ("environment.json", "encoder/config.json", "models/mlp-seed0/config.json", "evaluation.json"):
        assert read_json(run / file)["device"] == name
    assert {video["device"] for video in read_json(run / "latents" / "manifest.json")["videos"]} == {name}
    html = (run / "report" / "report.html").read_text()
    assert f"Cost of a 5-step rollout, batch 1, on {name}." in html
    assert re.search(rf"1 epochs in \d+ s on {re.escape(name)}(, with at most \d+ MiB of GPU memory)?\. ", html)
    times = read_json(run / "evaluation.json")["cost"]["milliseconds_per_step"]
    assert ("HNN leapfrog, fused" in html) == ("fused_leapfrog" in times) == ("no fused rollouts" not in html)


def assert_close(found, wanted):
    """JSON data of two devices, equal but for the rounding of float64 and what a training makes of it."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key in wanted:
            assert_close(found[key], wanted[key])
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_close(one, other)
    else:
        number = isinstance(wanted, (int, float))
        assert found == (pytest.approx(wanted, rel=1e-6, abs=1e-9) if number else wanted)
