"""Another peer's call, captured once as a CUDA graph and replayed: its kernels without what launching them costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from cases import Problem


def replayed(prepare: Callable[[Problem], Callable[[], dict[str, Any]]]) -> Callable[[Problem], Any]:
    """``prepare`` with its call replayed. The inputs stay in place; each replay overwrites the results of the last."""

    def prepared(problem: Problem) -> Callable[[], dict[str, Any]]:
        call = prepare(problem)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries allocate and choose kernels in the first calls, which no graph can
            for _ in range(2):
                call()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = call()

        def replay() -> dict[str, Any]:
            graph.replay()
            return results

        return replay

    return prepared
