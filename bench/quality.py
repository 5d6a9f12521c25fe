#!/usr/bin/env python3
"""Code a language model in many ways, block by block, and measure what becomes of it.

    python bench/quality.py MODEL TEXT RESULTS [--only GLOB]... [--device cuda] [--jobs N]

MODEL is a folder of bench/fetch_smollm2.py OUT --rotate 1, TEXT wiki.txt of bench/fetch_text.py.
Every configuration of quality_list.py (see --list) is calibrated on the first half of the text and
measured on the second. Each becomes one line of RESULTS at once, and what is there already isn't
done again, so that a run can stop anywhere, go on later, and share its file with others.
quality_report.py makes a page of it. Needs the extras calibrate and bench.
"""

import argparse
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import quality_results as results
from pvq_ref.errors import PVQError
from pvq_ref.parallel import thread_count
from quality_list import Calibration, Configuration, Evaluation, configurations, selected
from quality_results import Result

FAILED = "failed"
_bench = None  # of this process


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Code a language model in many ways; measure.")
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="folder of the model")
    add("text", type=Path, metavar="TEXT", help="text: first half to calibrate, second to measure")
    add("results", type=Path, metavar="RESULTS", help="file of JSON lines, made or extended")
    add("--only", action="append", metavar="GLOB", help="configurations by name; repeat for more")
    add("--list", action="store_true", help="print names and whether they are done, and stop")
    add("--again", action="store_true", help="also what is there already")
    add("--device", default="cpu", help="where the model runs (default: %(default)s)")
    add("--jobs", type=int, default=1, metavar="N", help="processes that share the processor")
    add("--minutes", type=float, metavar="M", help="begin nothing later than this")
    add("--tokens", type=int, metavar="N", help="that are measured at most (default: all)")
    numbers = {
        "--calibration-tokens": Calibration().tokens,
        "--calibration-window": Calibration().window,
        "--window": Evaluation().window,
    }
    for option, number in numbers.items():
        add(option, type=int, default=number, metavar="N", help="(default: %(default)s)")
    given = parser.parse_args()
    for option in ("--jobs", "--tokens", *numbers):
        value = getattr(given, option[2:].replace("-", "_"))
        if value is not None and value < 1:
            parser.error(f"{option} must be at least 1")
    return given


def start(model: Path, text: Path, device: str, threads: int) -> None:
    """Load the model into this process."""
    global _bench
    from quality_run import Bench  # torch, which a process that only starts others needn't load

    _bench = Bench(model, text, device, threads)


def run(path: Path, again: bool, until: float, task: tuple[Configuration, Result]) -> str:
    """Do one configuration, unless it is done or time is up, and return what is to be said."""
    one, asked = task
    if not again and asked in [result["asked"] for result in results.read(path)]:
        return f"{one.name}: done meanwhile"
    if time.time() > until:
        return f"{one.name}: no time left"
    try:
        result = _bench.run(one, asked)
        results.append(path, result)
    except (PVQError, ValueError) as error:
        return f"{one.name}: {FAILED}: {error}"
    rate = f"{result['file_rate']:.3f} bits, " if "file_rate" in result else ""
    took = sum(result["seconds"].values())
    return f"{one.name}: {rate}perplexity {result['perplexity']['value']:.3f}, {took:.0f} s"


def say(lines: Iterable[str]) -> int:
    """Print lines as they come, and return how many tell of a failure."""
    failed = 0
    for line in lines:
        print(line, flush=True)
        failed += f": {FAILED}: " in line
    return failed


def main() -> None:
    """Find what is to be done, and do it."""
    given = arguments()
    until = time.time() + 60 * given.minutes if given.minutes is not None else float("inf")
    every = configurations(
        Calibration(given.calibration_tokens, given.calibration_window),
        Evaluation(given.tokens, given.window),
    )
    chosen = selected(every, given.only or ["*"])
    for path in (given.model, given.text):
        if not path.exists():
            raise SystemExit(f"{path} must be there")
    sources = {
        "model_sha256": results.sha256(sorted(given.model.glob("*.safetensors"))),
        "text_sha256": results.sha256([given.text]),
    }
    done = [result["asked"] for result in results.read(given.results)]
    tasks = [(one, results.asked(one, sources)) for one in chosen]
    if given.list:
        for one, asked in tasks:
            print("done" if asked in done else "    ", one.name)
        return
    tasks = [task for task in tasks if given.again or task[1] not in done]
    print(f"{len(chosen) - len(tasks)} done already, {len(tasks)} to do", flush=True)
    if not tasks:
        return
    jobs = min(given.jobs, len(tasks))
    setup = (given.model, given.text, given.device, max(1, thread_count(None) // jobs))
    work = partial(run, given.results, given.again, until)
    if jobs == 1:
        start(*setup)
        failed = say(map(work, tasks))
    else:
        with ProcessPoolExecutor(jobs, get_context("spawn"), start, setup) as pool:
            under_way = [pool.submit(work, task) for task in tasks]
            failed = say(future.result() for future in as_completed(under_way))
    if failed:
        raise SystemExit(f"{failed} failed")


if __name__ == "__main__":
    main()
