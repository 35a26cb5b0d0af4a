"""Tables of a benchmark run, from its JSON: plain for the terminal, Markdown for README and docs.

    python benchmarks/table.py benchmarks/results/NAME.json                       print Markdown
    python benchmarks/table.py benchmarks/results/NAME.json --update README.md    replace the table in a page
    python benchmarks/table.py benchmarks/results/NAME.json --check README.md     fail where the page is out of date

In a page the table stands between the lines ``<!-- benchmarks -->`` and ``<!-- /benchmarks -->``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

OURS = "ours"
BEGIN, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"

Report = dict[str, Any]


def plain_table(report: Report) -> str:
    """One line per case and peer; the last column says how many times as long as ours a peer takes."""
    lines = [
        f"{'case':<22} {'peer':<15} {'median ms':>10} {'quartiles ms':>20} {'GFLOP/s':>8} {'peak':>6} {'error':>8} "
        f"{'/ ours':>7}"
    ]
    for case in report["cases"]:
        for name, peer in case["peers"].items():
            quartiles = f"{peer['q1_s'] * 1e3:.3f} - {peer['q3_s'] * 1e3:.3f}"
            ratio = f"{peer['ratio_to_ours']:.2f}" if "ratio_to_ours" in peer else "-"
            lines.append(
                f"{case['name']:<22} {name:<15} {peer['median_s'] * 1e3:>10.3f} {quartiles:>20} "
                f"{peer['gflops']:>8.1f} {peer['fraction_of_peak']:>6.1%} {peer['error']:>8.1e} {ratio:>7}"
            )
        best = best_peer(case)
        if best is not None and OURS in case["peers"]:
            ratio = case["peers"][best]["ratio_to_ours"]
            lines.append(f"{'':<22} best other: {best}, {ratio:.2f} times as long as ours")
    return "\n".join(lines)


def best_peer(case: dict[str, Any]) -> str | None:
    """The fastest other than ours."""
    others = {name: peer["median_s"] for name, peer in case["peers"].items() if name != OURS}
    return min(others, key=others.__getitem__) if others else None


def markdown_table(report: Report) -> str:
    """A row per case: our median, our part of the machine's peak, and each peer's time over ours."""
    compared = [case for case in report["cases"] if OURS in case["peers"]]
    names = list(dict.fromkeys(name for case in compared for name in case["peers"] if name != OURS))
    rows = [
        ["case", "ours, ms (quartiles)", "of peak", *names],
        ["---", "---:", "---:", *("---:" for _ in names)],
    ]
    for case in compared:
        ours = case["peers"][OURS]
        milliseconds = [f"{ours[key] * 1e3:.3g}" for key in ("median_s", "q1_s", "q3_s")]
        row = [case["name"], "{} ({}-{})".format(*milliseconds), f"{ours['fraction_of_peak']:.0%}"]
        best = best_peer(case)
        for name in names:
            ratio = f"{case['peers'][name]['ratio_to_ours']:.2f}x" if name in case["peers"] else "-"
            row.append(f"**{ratio}**" if name == best else ratio)
        rows.append(row)
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return f"{table}\n\n{_caption(report)}"


def _caption(report: Report) -> str:
    limits, versions = report["limits"], report["versions"]
    threads = report["machine"]["threads"]["torch"]
    libraries = ", ".join(f"{name} {versions[name]}" for name in ("torch", "jax") if name in versions)
    skipped = "".join(f" Not measured: {name} ({reason})." for name, reason in report["skipped"].items())
    context = "".join(
        f" For context, {name} (another computation) takes {peer['median_s'] * 1e3:.3g} ms for {case['name']}."
        for case in report["cases"]
        if case["model"] == "baseline"
        for name, peer in case["peers"].items()
    )
    return (
        f"float32, {threads} threads of {report['machine']['device']}; {libraries}; commit {report['commit'][:10]}. "
        f"Peers in multiples of our median, best in bold. Limits measured in the same run: {limits['gflops']:.0f} "
        f"GFLOP/s ({limits['gflops_source']}), {limits['bandwidth_gbs']:.0f} GB/s. `{report['command']}`."
        f"{context}{skipped}"
    )


def updated(page: str, table: str) -> str:
    """The page with the table between its marks replaced."""
    pattern = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    if len(pattern.findall(page)) != 1:
        raise SystemExit(f"the page must hold one place for the table, between {BEGIN} and {END}")
    return pattern.sub(lambda _: f"{BEGIN}\n{table}\n{END}", page)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="JSON that run.py wrote")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--update", type=Path, metavar="PAGE", help="replace the table in this Markdown page")
    where.add_argument("--check", type=Path, metavar="PAGE", help="exit 1 unless the page holds this table")
    options = parser.parse_args(arguments)

    table = markdown_table(json.loads(options.results.read_text()))
    if options.update:
        options.update.write_text(updated(options.update.read_text(), table))
    elif options.check:
        page = options.check.read_text()
        if updated(page, table) != page:
            print(f"{options.check} is out of date: python benchmarks/table.py {options.results} --update it")
            return 1
    else:
        print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
