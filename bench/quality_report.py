#!/usr/bin/env python3
"""Make a page and a picture of what quality.py measured.

    python bench/quality_report.py RESULTS... [--markdown docs/results/quality.md]

RESULTS are files of quality.py, of one model and one text. The picture lies beside the page.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import quality_results as results
import report
from beta_law_picture import save_svg
from quality_list import GROUPS, MAIN_RATES
from quality_picture import STYLES, Point, draw
from quality_results import Result

ABOVE = (0.23, 0.27)  # bits that a baseline takes more than the PVQ that it is compared with
SCALAR = [family for family in STYLES if family != "PVQ"]
WIDE = "w1024-"


def name(result: Result) -> str:
    return str(result["asked"]["name"])


def ratio(result: Result) -> float:
    return float(result["ratio"]["value"])


def perplexity(result: Result) -> str:
    value = result["perplexity"]["value"]
    return f"{value:.2f}" if value < 1000 else f"{value:.1e}"


def times(result: Result) -> str:
    """Return the ratio to the original's perplexity with its standard error."""
    value, error = ratio(result), result["ratio"]["standard_error"] or 0.0
    return f"{value:.4f} ± {error:.4f}" if value < 10 else f"{value:.1e}"


def one_source(found: Sequence[Result]) -> None:
    """Exit unless all results are of one model and one text, on the same tokens."""
    for what in ("model_sha256", "text_sha256"):
        if len({result["asked"][what] for result in found}) != 1:
            raise SystemExit(f"results must be of one {what.removesuffix('_sha256')}, got several")
    for wide in (False, True):
        asked = [r["asked"]["evaluation"] for r in found if name(r).startswith(WIDE) is wide]
        if any(one != asked[0] for one in asked):
            raise SystemExit("results must be measured on the same tokens, got others")


# ---------------------------------------------------------------- tables


def row(result: Result) -> list[str]:
    """Return the cells of one configuration."""
    rate = f"{result['file_rate']:.3f}" if "file_rate" in result else ""
    lost = f"{mean(result['losses'].values()):.5f}" if "losses" in result else ""
    return [
        name(result), rate, perplexity(result), times(result), f"{result['kl']['value']:.4f}",
        f"{100 * result['agreement']['value']:.1f} %", lost, f"{result['seconds']['coding']:.0f}",
    ]  # fmt: skip


def full_table(found: Sequence[Result]) -> str:
    """Return all results, as they stand in `found`."""
    head = [
        "", "bits", "perplexity", "times the original's", "KL", "same first token", "loss", "s",
    ]  # fmt: skip
    return report.table(head, [row(result) for result in found])


def comparison(found: Sequence[Result]) -> str:
    """Return PVQ with several groups, and the best of each family of scalar quantizers a quarter
    bit above it.
    """
    known = {name(result): result for result in found}
    rows = []
    for bits in MAIN_RATES:
        pvq = known.get(f"pvq-{bits:g}")
        if pvq is None:
            continue
        rows.append([f"**PVQ, {bits:g}**", f"{pvq['file_rate']:.3f}", times(pvq), ""])
        others = [known.get(f"pvq-{bits:g}-n{group}") for group in GROUPS]
        compared = [(f"PVQ: {name(one)}", one) for one in others if one]
        for family in SCALAR:
            low, high = (pvq["file_rate"] + more for more in ABOVE)
            own = [r for r in found if r["family"] == family and low <= r["file_rate"] <= high]
            if own:
                least = min(own, key=ratio)
                compared.append((f"{family}: {name(least)}", least))
        for label, one in compared:
            verdict = "worse" if ratio(one) > ratio(pvq) else "**better**"
            rows.append([label, f"{one['file_rate']:.3f}", times(one), verdict])
    return report.table(["", "bits", "times the original's", "than PVQ"], rows)


def over_seeds(found: Sequence[Result]) -> str:
    """Return means over seeds of the calibration."""
    groups: dict[str, list[Result]] = {}
    for result in found:
        groups.setdefault(re.sub(r"-seed\d+$", "", name(result)), []).append(result)
    rows = []
    for group, members in groups.items():
        ratios = [ratio(result) for result in members]
        if len(ratios) > 1:
            values = [result["perplexity"]["value"] for result in members]
            rows.append(
                [
                    group, str(len(ratios)), f"{mean(values):.3f}", f"{mean(ratios):.4f}",
                    f"{min(ratios):.4f}", f"{max(ratios):.4f}",
                ]
            )  # fmt: skip
    head = ["", "seeds", "mean perplexity", "mean, times the original's", "least", "most"]
    return report.table(head, rows) if rows else ""


PAIRS = (
    ("pvq-3.25-one-pass", "pvq-3.25-one-pass-plain", "weighted search"),
    ("pvq-3.25-one-pass-sweeps4", "pvq-3.25-one-pass", "four sweeps"),
)


def by_layer(found: Sequence[Result]) -> str:
    """Return what two choices bring in each layer, on the same Hessians."""
    known = {name(result): result["losses"] for result in found if "losses" in result}
    rows = []
    for ours, others, what in PAIRS:
        if ours in known and others in known:
            before, after = known[others], known[ours]
            ratios = sorted(after[layer] / before[layer] for layer in before)
            rows.append(
                [
                    what, str(len(ratios)), f"{mean(ratios):.4f}", f"{ratios[0]:.4f}",
                    f"{ratios[-1]:.4f}", str(sum(one < 1 for one in ratios)),
                ]
            )  # fmt: skip
    head = ["", "layers", "mean ratio of losses", "least", "most", "layers that gain"]
    return report.table(head, rows) if rows else ""


# ---------------------------------------------------------------- the page


def sections(found: Sequence[Result]) -> str:
    """Return the tables with their headings, leaving out what has no rows."""
    main = [result for result in found if not name(result).startswith(WIDE)]
    wide = [result for result in found if name(result).startswith(WIDE)]
    parts = []
    if any(name(result) == f"pvq-{bits:g}" for result in main for bits in MAIN_RATES):
        parts.append(
            f"""## PVQ against scalar quantizers of a quarter bit more

The best of each family with {ABOVE[0]} to {ABOVE[1]} bits more than PVQ in groups of 32, whatever
its scales; PVQ in other groups beside it.

{comparison(main)}"""
        )
    seeds = over_seeds(main)
    if seeds:
        parts.append(
            f"## Over seeds\n\nWhat windows calibration sees, and nothing else.\n\n{seeds}"
        )
    layers = by_layer(main)
    if layers:
        parts.append(
            f"""## Layer by layer

The loss of a layer with a choice, over that without it, on the same Hessians (one pass): weighted
search over plain, and sweeps over none.

{layers}"""
        )
    if main:
        parts.append(
            f"""## All configurations

Names are those of bench/quality_list.py.

{full_table(main)}"""
        )
    if wide:
        parts.append(
            f"""## Windows of 1024

Hessians of one pass over the original model, windows of 1024 in calibration and evaluation.

{full_table(wide)}"""
        )
    return "\n\n".join(parts)


def page(found: Sequence[Result], picture: str | None) -> str:
    """Return the result page."""
    shown = f"""![Perplexity above the original's, against bits per weight]({picture})

Points are configurations, lines pass through the best ones of a family; the scale is logarithmic.

"""
    first = found[0]
    asked = first["asked"]
    calibrated = sorted({r["asked"]["calibration"]["tokens"] for r in found if "losses" in r})
    seen = " or ".join(f"{count:,}" for count in calibrated) or "no"
    measured = f"{first['tokens']:,} tokens of the second half"
    window = asked["evaluation"]["window"]
    made = sorted({f"{r['device']}, {r['threads']} threads" for r in found})
    versions = sorted({", ".join(f"{k} {v}" for k, v in r["versions"].items()) for r in found})
    codes = len({r["code_sha256"] for r in found})
    note = "" if codes == 1 else f"\n- The code changed between them: there are {codes} versions."
    return f"""# Perplexity of a language model at 2 to 5 bits per weight

Every linear layer inside the blocks is coded, block by block, with PVQ and with scalar quantizers,
on the same layers and the same Hessians (`bench/quality.py`). Calibration sees {seen} tokens of the
first half of a text, and perplexity is that of {measured}, in windows of {window}.

{shown if picture else ""}{sections(found)}

## How it was measured

*bits* are bits per weight of all that a file stores of the coded layers. *±* is the standard error
over windows, paired with the original's. *KL* is the mean divergence of the next token's
distribution from the original's, in nats. *loss* is the mean over layers of
tr(E H Eᵀ) / tr(W H Wᵀ); W and H depend on what the layers before have become, so that it compares
configurations of one pass only. *s* are the seconds that calibration and coding took, of a process
that may have shared its machine.

    python bench/quality.py MODEL TEXT RESULTS
    {report.command(__file__)}

- Model: {first["model"]}, SHA-256 of its weight files {asked["model_sha256"]}.
- Text: SHA-256 {asked["text_sha256"]}.
- On {"; ".join(made)}.
- With {"; ".join(versions)}.{note}
"""


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Make a page of what quality.py measured.")
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULTS")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write page and picture")
    return parser.parse_args()


def main() -> None:
    """Read the results, print the tables, and write what is asked for."""
    given = arguments()
    known: dict[str, Result] = {}
    for path in given.results:
        if not path.is_file():
            raise SystemExit(f"{path} must be there")
        known |= {name(result): result for result in results.read(path)}
    if not known:
        raise SystemExit("results must not be empty")
    found = sorted(known.values(), key=lambda r: (order(r), r.get("file_rate", 0.0), name(r)))
    one_source(found)
    print(sections(found))
    if given.markdown is not None:
        picture = given.markdown.with_suffix(".svg")
        points = [Point(r["family"], r["file_rate"], ratio(r)) for r in found if r["family"]]
        report.write_page(given.markdown, page(found, picture.name if points else None))
        if points:
            save_svg(draw(points), picture)


def order(result: Result) -> tuple[int, str]:
    """Return where a result stands: the original, PVQ, then the others by their names."""
    stem = re.split(r"-\d", name(result).removeprefix(WIDE))[0]
    return (["original", "pvq"].index(stem) if stem in ("original", "pvq") else 2, stem)


if __name__ == "__main__":
    main()
