"""Tables of a benchmark run, from its JSON: plain for the terminal, Markdown for README and docs.

    python benchmarks/table.py benchmarks/results/NAME.json                       print Markdown
    python benchmarks/table.py benchmarks/results/NAME.json --update README.md    replace the table in a page
    python benchmarks/table.py benchmarks/results/NAME.json --check README.md     fail where the page is out of date

In a page the table stands between the lines ``<!-- benchmarks -->`` and ``<!-- /benchmarks -->``, that of a GPU between
``<!-- benchmarks cuda -->`` and ``<!-- /benchmarks cuda -->``, that of Euler-Lagrange cases alone between
``<!-- benchmarks del -->`` and ``<!-- /benchmarks del -->``, and that of methods with implicit stages, measured with
leapfrog's rollouts or alone, between ``<!-- benchmarks implicit -->`` and ``<!-- /benchmarks implicit -->``. Of a
second machine's table the marks say which: ``<!-- benchmarks implicit xeon -->`` with ``--machine xeon``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

OURS = "ours"
Report = dict[str, Any]


def device(report: Report) -> str:
    return str(report.get("device", "cpu"))  # the first reports did not say


def is_ours(name: str) -> bool:
    """Ours, or ours in another way or precision: "ours graph"."""
    return name.split()[0] == OURS


def is_solved(case: dict[str, Any]) -> bool:
    """Whether its steps are solved to a tolerance: its work is then a peer's choice."""
    return case["flop"] is None


def place(report: Report) -> str:
    """The word of the marks that the table stands between; a CPU's has none."""
    if all(case["model"] == "lagrangian" for case in report["cases"]):
        return "del"
    implicit = [case for case in report["cases"] if case["model"] == "hamiltonian" and is_solved(case)]
    if implicit and all(case in implicit or case["kind"] == "rollout" for case in report["cases"]):
        return "implicit"
    return device(report)


def step_microseconds(case: dict[str, Any], peer: dict[str, Any], key: str = "median_s") -> float:
    return float(1e6 * peer[key] / case["steps"])


def plain_table(report: Report) -> str:
    """One line per case and peer; the last column says how many times as long as ours a peer takes."""
    wide = max((len(name) for case in report["cases"] for name in case["peers"]), default=0)
    lines = [
        f"{'case':<22} {'peer':<{wide}} {'median ms':>10} {'quartiles ms':>20} {'us a step':>10} {'GFLOP/s':>8} "
        f"{'peak':>6} {'error':>8} {'/ ours':>7}"
    ]
    for case in report["cases"]:
        for name, peer in case["peers"].items():
            quartiles = f"{peer['q1_s'] * 1e3:.3f} - {peer['q3_s'] * 1e3:.3f}"
            ratio = f"{peer['ratio_to_ours']:.2f}" if "ratio_to_ours" in peer else "-"
            rate = f"{peer['gflops']:.1f}" if "gflops" in peer else "-"
            lines.append(
                f"{case['name']:<22} {name:<{wide}} {peer['median_s'] * 1e3:>10.3f} {quartiles:>20} "
                f"{step_microseconds(case, peer):>10.2f} {rate:>8} {_of_peak(peer, '.1%'):>6} "
                f"{peer['error']:>8.1e} {ratio:>7}"
            )
        best = best_peer(case)
        if best is not None and OURS in case["peers"]:
            ratio = case["peers"][best]["ratio_to_ours"]
            lines.append(f"{'':<22} best other: {best}, {ratio:.2f} times as long as ours")
    return "\n".join(lines)


def best_peer(case: dict[str, Any]) -> str | None:
    """The fastest other than ours."""
    others = {name: peer["median_s"] for name, peer in case["peers"].items() if not is_ours(name)}
    return min(others, key=others.__getitem__) if others else None


def markdown_table(report: Report) -> str:
    if device(report) == "cuda":
        return _gpu_table(report)
    return _implicit_table(report) if place(report) == "implicit" else _cpu_table(report)


def _cpu_table(report: Report) -> str:
    """A row per case: ours in each precision with its part of the machine's peak, and each peer's time over ours."""
    compared, variants, others = _columns(report)
    rows = [
        ["case", "ours, ms (quartiles)", "of peak", *(f"{name}, ms (/ ours, of peak)" for name in variants), *others],
        ["---", *("---:" for _ in range(len(variants) + len(others) + 2))],
    ]
    for case in compared:
        peers = case["peers"]
        middle, low, high = (f"{peers[OURS][key] * 1e3:.3g}" for key in ("median_s", "q1_s", "q3_s"))
        row = [case["name"], f"{middle} ({low}-{high})", _of_peak(peers[OURS])]
        for name in variants:
            cell = "{:.3g} ({ratio_to_ours:.2f}x, {fraction_of_peak:.0%})"
            row.append(cell.format(peers[name]["median_s"] * 1e3, **peers[name]) if name in peers else "-")
        rows.append(row + _ratios(case, others))
    return f"{_joined(rows)}\n\n{_caption(report)}"


def _implicit_table(report: Report) -> str:
    """A row per case: ours, the same over our explicit leapfrog's of that network and batch, each peer's over ours."""
    leapfrog = {
        (tuple(case["widths"]), case["batch"]): case["peers"][OURS]["median_s"] / case["steps"]
        for case in report["cases"]
        if case["kind"] == "rollout" and OURS in case["peers"]
    }
    alone = {**report, "cases": [case for case in report["cases"] if is_solved(case)]}
    compared, _, others = _columns(alone)
    rows = [
        ["case", "ours, ms (quartiles)", "/ our leapfrog", *others],
        ["---", *("---:" for _ in range(len(others) + 2))],
    ]
    for case in compared:
        ours = case["peers"][OURS]
        middle, low, high = (f"{ours[key] * 1e3:.3g}" for key in ("median_s", "q1_s", "q3_s"))
        explicit = leapfrog.get((tuple(case["widths"]), case["batch"]))
        beside = f"{ours['median_s'] / case['steps'] / explicit:.2f}x" if explicit else "-"
        rows.append([case["name"], f"{middle} ({low}-{high})", beside, *_ratios(case, others)])
    return f"{_joined(rows)}\n\n{_caption(report)}"


def _gpu_table(report: Report) -> str:
    """A row per case, in time per step: ours in each precision, each peer over ours, the plain MLP's step beside."""
    compared, variants, others = _columns(report)
    plain = {case["name"]: case for case in report["cases"] if case["model"] == "baseline"}
    rows = [
        ["case", "ours, µs a step (quartiles)", "of peak", *(f"{name}, µs (of peak)" for name in variants), *others,
         "plain MLP, µs (graph)"],
        ["---", *("---:" for _ in range(len(variants) + len(others) + 3))],
    ]  # fmt: skip
    for case in compared:
        peers = case["peers"]
        middle, low, high = (_short(step_microseconds(case, peers[OURS], key)) for key in ("median_s", "q1_s", "q3_s"))
        row = [case["name"], f"{middle} ({low}-{high})", f"{peers[OURS]['fraction_of_peak']:.0%}"]
        for name in variants:
            one = peers.get(name)
            row.append(f"{_short(step_microseconds(case, one))} ({one['fraction_of_peak']:.0%})" if one else "-")
        row += _ratios(case, others)
        beside = plain.get(case["baseline"])
        steps = [_short(step_microseconds(beside, peer)) for peer in beside["peers"].values()] if beside else []
        row.append("{} ({})".format(*steps) if len(steps) == 2 else "".join(steps) or "-")
        rows.append(row)
    return f"{_joined(rows)}\n\n{_gpu_caption(report)}"


def _of_peak(peer: dict[str, Any], form: str = ".0%") -> str:
    """A case whose work is a peer's choice has no part of the peak."""
    return format(peer["fraction_of_peak"], form) if "fraction_of_peak" in peer else "-"


def _columns(report: Report) -> tuple[list[dict[str, Any]], list[str], list[str]]:
    """The cases that hold our time, the names of ours in other ways and precisions, and those of the others."""
    compared = [case for case in report["cases"] if OURS in case["peers"]]
    found = list(dict.fromkeys(name for case in compared for name in case["peers"]))
    variants = [name for name in found if is_ours(name) and name != OURS]
    return compared, variants, [name for name in found if not is_ours(name)]


def _ratios(case: dict[str, Any], names: list[str]) -> list[str]:
    """Each peer's time over ours, the best in bold."""
    best = best_peer(case)
    ratios = [f"{case['peers'][name]['ratio_to_ours']:.2f}x" if name in case["peers"] else "-" for name in names]
    return [f"**{ratio}**" if name == best else ratio for name, ratio in zip(names, ratios, strict=True)]


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _joined(rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _gpu_caption(report: Report) -> str:
    limits, versions = report["limits"], report["versions"]
    libraries = ", ".join(f"{name} {versions[name]}" for name in ("torch", "jax", "cuda") if name in versions)
    rates = ", ".join(f"{rate / 1e3:.0f} TFLOP/s {name}" for name, rate in limits["gflops_by_precision"].items())
    return (
        f"{report['machine']['device']}; {libraries}; commit {report['commit'][:10]}. Peers, all float32 without TF32, "
        f"in multiples of our float32 time, best in bold. {_errors(report)} Limits "
        f"measured in the same run: {rates}, {limits['bandwidth_gbs']:.0f} GB/s. `{report['command']}`."
        f"{_missing(report)}"
    )


def _errors(report: Report) -> str:
    """Those of steps that are solved to a tolerance stand apart: they say more of the tolerance than of rounding."""
    largest: dict[bool, dict[str, float]] = {False: {}, True: {}}
    for case in report["cases"]:
        found = largest[is_solved(case)]
        for name, peer in case["peers"].items():
            if is_ours(name):
                found[name] = max(peer["error"], found.get(name, 0.0))
    rounded, solved = (", ".join(f"{name} {error:.0e}" for name, error in found.items()) for found in largest.values())
    parts = [rounded, solved and f"where steps are solved to a tolerance {solved}"]
    return f"Largest relative error against float64: {'; '.join(filter(None, parts))}."


def _missing(report: Report) -> str:
    skipped = "".join(f" Not measured: {name} ({reason})." for name, reason in report["skipped"].items())
    failed = "".join(f" Failed: {where} ({message})." for where, message in report.get("failed", {}).items())
    not_begun = report.get("not_begun")
    return skipped + failed + (f" Out of time before: {', '.join(not_begun)}." if not_begun else "")


def _caption(report: Report) -> str:
    limits, versions = report["limits"], report["versions"]
    threads = report["machine"]["threads"]["torch"]
    libraries = ", ".join(f"{name} {versions[name]}" for name in ("torch", "jax") if name in versions)
    context = "".join(
        f" For context, {name} (another computation) takes {peer['median_s'] * 1e3:.3g} ms for {case['name']}."
        for case in report["cases"]
        if case["model"] == "baseline"
        for name, peer in case["peers"].items()
    )
    rates = limits.get("gflops_by_precision", {"float32": limits["gflops"]})  # the first reports had float32 alone
    coarser = "".join(f", {rate:.0f} GFLOP/s {name}" for name, rate in rates.items() if name != "float32")
    errors = f" {_errors(report)}" if coarser else ""
    return (
        f"float32{' unless named' if coarser else ''}, {threads} threads of {report['machine']['device']}; "
        f"{libraries}; commit {report['commit'][:10]}. Peers in multiples of our median, best in bold.{errors} Limits "
        f"measured in the same run: {limits['gflops']:.0f} GFLOP/s ({limits['gflops_source']}){coarser}, "
        f"{limits['bandwidth_gbs']:.0f} GB/s. `{report['command']}`."
        f"{context}{_missing(report)}"
    )


def updated(page: str, report: Report, machine: str = "") -> str:
    """The page with the table between its marks replaced."""
    words = " ".join(word for word in (place(report).removeprefix("cpu"), machine) if word)
    begin, end = (f"<!-- {' '.join(filter(None, (mark, words)))} -->" for mark in ("benchmarks", "/benchmarks"))
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if len(pattern.findall(page)) != 1:
        raise SystemExit(f"the page must hold one place for the table, between {begin} and {end}")
    return pattern.sub(lambda _: f"{begin}\n{markdown_table(report)}\n{end}", page)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="JSON that run.py wrote")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--update", type=Path, metavar="PAGE", help="replace the table in this Markdown page")
    where.add_argument("--check", type=Path, metavar="PAGE", help="exit 1 unless the page holds this table")
    parser.add_argument("--machine", default="", help="of the marks, where a page has the tables of several machines")
    options = parser.parse_args(arguments)

    report = json.loads(options.results.read_text())
    if options.update:
        options.update.write_text(updated(options.update.read_text(), report, options.machine))
    elif options.check:
        page = options.check.read_text()
        if updated(page, report, options.machine) != page:
            print(f"{options.check} is out of date: python benchmarks/table.py {options.results} --update it")
            return 1
    else:
        print(markdown_table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
