#!/usr/bin/env python3
"""Compress a model with calibration as a user would, several seeds; measure what it still knows.

    python bench/headline.py MODEL TEXTS RESULTS [--device cuda] [--bits 3.25]... [--seed 0]...
    python bench/headline.py --page RESULTS PAGE

MODEL is a folder of bench/fetch_smollm2.py OUT --rotate 1, TEXTS the folder of bench/fetch_text.py.
The command line of pvq-ref compresses with the first half of wiki.txt and evaluates on the second
half and on five tasks, beside the original. RESULTS, a folder, keeps what both commands print; what
is there isn't done again. --page makes a page of it. Needs the extra calibrate.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import report

MEASURED = Path(__file__).with_name("measured.py")
TASKS = ("piqa", "arc_easy", "winogrande", "hellaswag", "lambada")
VARIANTS: dict[str, list[str]] = {
    "feedback": [],
    "allocated": ["--allocate"],
    "tuned": ["--allocate", "--tune", "3"],
    "weighed": ["--allocate", "--tune", "3", "--weigh-tokens"],
}


def command_line(*arguments: object) -> Any:
    """Run pvq-ref and return the JSON object that it prints, with the memory that it took."""
    words = [sys.executable, str(MEASURED), *map(str, arguments), "--json"]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def kept(path: Path, *arguments: object) -> Any:
    """Return what a command printed, now or before."""
    if not path.exists():
        value = command_line(*arguments)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value), encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def run(given: argparse.Namespace, bits: float, variant: str, seed: int) -> None:
    """Compress and measure one variant, unless that has been done."""
    name = f"{bits:g}-n{given.group}-{variant}-{seed}"
    out = given.results / "models" / name
    text = given.texts / "wiki.txt"
    if not (given.results / f"{name}.evaluate.json").exists():
        kept(
            given.results / f"{name}.compress.json",
            "compress", given.model, out, "--bits", bits, "--group", given.group,
            "--calibrate", text, "--part", "0:0.5", "--tokens", given.tokens,
            "--text-seed", seed, "--device", given.device, "--force", *VARIANTS[variant],
        )  # fmt: skip
    kept(
        given.results / f"{name}.evaluate.json",
        "evaluate", out, "--against", given.model, "--text", text, "--part", "0.5:1",
        "--tasks", *[given.texts / f"{task}.jsonl" for task in TASKS], "--items", given.items,
        "--device", given.device,
    )  # fmt: skip


def row(name: str, seeds: Sequence[tuple[Any, Any]]) -> list[str]:
    """Return a row of the table, means over seeds."""
    measured = [evaluated["against"] for _, evaluated in seeds]
    ratios = [one["perplexity_ratio"] for one in measured]
    spread = f" ± {stdev(ratios):.4f}" if len(ratios) > 1 else ""
    accuracy = [one["mean_accuracy"] for one in measured]
    return [
        name,
        f"{mean(c['bits_per_weight'] for c, _ in seeds):.4f}",
        str(len(seeds)),
        f"{mean(e['perplexity'] for _, e in seeds):.3f}",
        f"{mean(ratios):.4f}{spread}",
        f"{mean(one['kl_divergence'] for one in measured):.4f}",
        f"{100 * mean(one['top_token_agreement'] for one in measured):.2f} %",
        f"{100 * mean(one['accuracy'] for one in accuracy):.2f} %",
        f"{100 * mean(one['ratio'] for one in accuracy):.2f} %",
        f"{100 * mean(one['difference_standard_error'] for one in accuracy):.2f}",
        f"{mean(c['seconds'] for c, _ in seeds):.0f}",
        *(
            f"{max(c['peak_memory'][where] for c, _ in seeds) / 1e9:.1f}"
            for where in ("resident", "device")
        ),
    ]


HEAD = (
    "bits, group, variant", "file rate", "seeds", "perplexity", "ratio to original", "divergence",
    "top token agrees", "mean accuracy", "of the original's", "paired s.e., points", "seconds",
    "GB", "GB of a GPU",
)  # fmt: skip


def page(results: Path, path: Path) -> None:
    """Write the page of what is in the folder of results."""
    found: dict[tuple[float, int, str], list[tuple[Any, Any]]] = {}
    for file in sorted(results.glob("*.evaluate.json")):
        bits, group, variant, _ = file.name.removesuffix(".evaluate.json").split("-")
        compress = json.loads((results / file.name.replace("evaluate", "compress")).read_text())
        key = float(bits), int(group[1:]), variant
        found.setdefault(key, []).append((compress, json.loads(file.read_text())))
    if not found:
        raise SystemExit(f"{results} must hold results of an earlier run")
    order = list(VARIANTS)
    named = {
        f"{bits:g}, n = {group}, {variant}": found[bits, group, variant]
        for bits, group, variant in sorted(found, key=lambda key: (*key[:2], order.index(key[2])))
    }
    rows = [row(name, seeds) for name, seeds in named.items()]
    first = next(iter(named.values()))
    of_tasks = [original_row(first), *[tasks_row(*one) for one in named.items()]]
    told = json.loads((results / "run.json").read_text())
    compressed, evaluated = first[0]
    seen, scored = compressed["report"]["calibration"]["tokens_seen"], evaluated["tokens"]
    of_original = evaluated["against"]["perplexity"]
    tasks = ", ".join(TASKS)
    text = f"""# What a calibrated model still knows

Made by `{told["command"]}` on {told["machine"]}; the page by `bench/headline.py --page`.
Model: {told["model"]}. Calibration: {seen:,} tokens of the first half of wiki.txt, drawn by the
seed; evaluation: the second half ({scored:,} scored tokens, windows of 512) and at most
{told["items"]} items each of {tasks}.
The original's perplexity is {of_original:.3f}. Only layers within blocks are compressed, embeddings
stay as they are; the rate is that of all that the file stores for those layers. *GB* is the most
that compression had in memory, over seeds (with a GPU, CUDA's libraries are part of it), and *GB of
a GPU* the most that tensors took there.
Figures are means over seeds, ± the standard deviation over seeds. The accuracy is the mean over the
five tasks; the standard error of its difference from the original's is paired, of one seed.

{report.table(HEAD, rows)}

## Task by task

Accuracy in percent, a mean over seeds; in brackets the difference from the original's with its
paired standard error of one seed.

{report.table(("", *TASKS), of_tasks)}

## Variants

`feedback` is `pvq-ref compress --calibrate`; `allocated` adds `--allocate`, and `tuned` adds
`--tune 3` to that; `weighed` also has `--weigh-tokens`.
"""
    report.write_page(path, text)


def tasks_row(name: str, seeds: Sequence[tuple[Any, Any]]) -> list[str]:
    """Return the accuracy of each task, a mean over seeds, and the distance from the original."""
    cells = [name]
    for number, task in enumerate(TASKS):
        ours = [evaluated["tasks"][number] for _, evaluated in seeds]
        beside = [evaluated["against"]["tasks"][number] for _, evaluated in seeds]
        assert {one["name"] for one in ours + beside} == {task}
        difference = mean(one["accuracy_difference"] for one in beside)
        error = mean(one["accuracy_difference_standard_error"] for one in beside)
        cells.append(
            f"{100 * mean(one['accuracy'] for one in ours):.2f} "
            f"({100 * difference:+.2f} ± {100 * error:.2f})"
        )
    return cells


def original_row(seeds: Sequence[tuple[Any, Any]]) -> list[str]:
    """Return the accuracies of the original."""
    tasks = seeds[0][1]["against"]["tasks"]
    return ["original", *[f"{100 * one['accuracy']:.2f}" for one in tasks]]


def machine(device: str) -> str:
    """Return the name of what computed."""
    if device == "cpu":
        return report.made_with("torch", "transformers", "numba")
    import torch

    return f"{torch.cuda.get_device_name()}, {report.made_with('torch', 'transformers', 'numba')}"


def main() -> None:
    """Measure, or make the page."""
    if sys.argv[1:2] == ["--page"]:
        page(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description="Compress with calibration, and measure.")
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL")
    add("texts", type=Path, metavar="TEXTS")
    add("results", type=Path, metavar="RESULTS")
    add("--device", default="cpu")
    add("--bits", type=float, action="append", help="file rates (default 3.25)")
    add("--variant", action="append", choices=VARIANTS, help="what to run (default: all)")
    add("--seed", type=int, action="append", help="seeds of the text (default 0, 1, 2)")
    add("--group", type=int, default=32)
    add("--tokens", type=int, default=131072, help="calibration tokens (default %(default)s)")
    add("--items", type=int, default=1000, help="of each task (default %(default)s)")
    given = parser.parse_args()
    (given.results / "models").mkdir(parents=True, exist_ok=True)
    told = {
        "command": f"python bench/headline.py MODEL TEXTS RESULTS --device {given.device}",
        "machine": machine(given.device), "model": report.noted(given.model), "items": given.items,
    }  # fmt: skip
    (given.results / "run.json").write_text(json.dumps(told), encoding="utf-8")
    for bits in given.bits or (3.25,):
        for variant in given.variant or VARIANTS:
            for seed in given.seed or (0, 1, 2):
                run(given, bits, variant, seed)


if __name__ == "__main__":
    main()
