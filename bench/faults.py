#!/usr/bin/env python3
"""Kill compressions, fill their disks, resume them, and compare the bytes.

    python bench/faults.py PAGE [--kills 200] [--full 50] [--workers 20] [--minutes M]

A synthetic model is compressed once for reference. Then, again and again: a run is killed (SIGKILL)
at a random moment of its life, or its disk is full at a random point; what is there is looked at;
`--resume` goes on, and the output must have the bytes of the reference. Disks are small tmpfs where
this process may mount them, else files may not grow beyond a random size (RLIMIT_FSIZE). Runs are
warm: kernels were compiled before. And one worker of a local dask cluster (extra `dask`) is killed
at a random moment of a run that is spread over it. --minutes ends the campaigns early.
"""

import argparse
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from statistics import mean
from typing import Any

import report
import synthetic
from pvq_ref.errors import ModelError
from pvq_ref.model import open_model

PROGRAM = [sys.executable, "-m", "pvq_ref", "compress"]


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files of a folder."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Return what would change if a folder were written to."""
    return {p.name: (p.stat().st_mtime_ns, p.stat().st_size) for p in [folder, *folder.iterdir()]}


def wait_for(path: Path, child: "subprocess.Popen[Any]") -> None:
    """Wait until a file is there, or a process has ended."""
    while child.poll() is None and not path.exists():
        time.sleep(0.001)


class Campaign:
    """One source, its reference, and what happened to runs."""

    def __init__(self, folder: Path, blocks: int) -> None:
        self.source = folder / "model"
        halves = [
            synthetic.layers(blocks // 2, 256, 768, 128),
            synthetic.layers(blocks - blocks // 2, 256, 768, 128, blocks // 2)
            | {"model.embed_tokens.weight": (4096, 256)},
        ]
        synthetic.write_model(self.source, halves)
        self.untouched = stamps(self.source)
        self.weights = sum(t.stop - t.start for _, t in open_model(self.source).entries()) // 2
        subprocess.run([*PROGRAM, self.source, folder / "warm", "-q"], check=True)
        began = time.monotonic()
        with subprocess.Popen([*PROGRAM, self.source, folder / "reference", "-q"]) as child:
            wait_for(folder / "reference.partial", child)
            self.until_begun = time.monotonic() - began
        self.seconds = time.monotonic() - began
        self.reference = contents(folder / "reference")
        self.pieces = len(list(self.files())) or 1
        self.seen: Counter[str] = Counter()
        self.kept: list[float] = []

    def wait_at_random(self, child: "subprocess.Popen[Any]", out: Path, rng: random.Random) -> bool:
        """Let a run go on for a random time; return whether it still goes on.

        Most of the life of a small run is start-up, so only one in five ends at any moment of it,
        the others after OUT.partial has appeared.
        """
        seconds = rng.uniform(0.0, self.seconds)
        if rng.random() < 0.8:
            wait_for(out.with_name(out.name + ".partial"), child)
            seconds = rng.uniform(0.0, self.seconds - self.until_begun)
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def files(self) -> Iterator[str]:
        """Yield the names of the tensors that are compressed."""
        for _, entry in open_model(self.source).entries():
            if "embed" not in entry.name:
                yield entry.name

    def check_interrupted(self, out: Path) -> bool:
        """Look at what a fault left; return whether the output is complete."""
        if stamps(self.source) != self.untouched:
            raise SystemExit("a fault changed the source")
        partial = out.with_name(out.name + ".partial")
        for path in (partial, partial / "out"):
            try:
                open_model(path)
            except ModelError:
                continue
            raise SystemExit(f"{path} was taken for a model")
        if out.exists() and contents(out) != self.reference:
            raise SystemExit(f"{out} is there, but isn't complete")
        return out.exists()

    def resume(self, out: Path, what: str) -> None:
        """Go on with what a fault left, and compare."""
        done = subprocess.run(
            [*PROGRAM, self.source, out, "--resume"], stderr=subprocess.PIPE, text=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        if done.returncode or contents(out) != self.reference:
            raise SystemExit(f"after {what}: exit code {done.returncode}, {done.stderr}")
        found = re.search(r"going on: (\d+) of (\d+) pieces", done.stderr)
        self.kept.append(int(found[1]) / int(found[2]) if found else 0.0)
        left = sorted(path.name for path in out.parent.iterdir())
        if left != [out.name]:
            raise SystemExit(f"after {what}: left behind {left}")


def kill_once(campaign: Campaign, folder: Path, rng: random.Random) -> None:
    """Kill a run at a random moment, and resume it."""
    out = folder / "out"
    with subprocess.Popen(
        [*PROGRAM, campaign.source, out, "-q"], stderr=subprocess.DEVNULL
    ) as child:
        began = time.monotonic()
        if campaign.wait_at_random(child, out, rng):
            child.send_signal(signal.SIGKILL)
        moment = time.monotonic() - began
    if campaign.check_interrupted(out):
        campaign.seen["complete before it was killed"] += 1
    else:
        partial = out.with_name("out.partial")
        finished = len(list(partial.glob("0*-????????????")))
        where = "after the last piece" if finished >= campaign.pieces else "while coding"
        campaign.seen[where if partial.exists() else "before coding"] += 1
        campaign.resume(out, f"kill -9 after {moment:.3f} s")
    shutil.rmtree(folder)


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[bool]:
    """Mount a tmpfs of so many bytes, where that may be done."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)
        shutil.rmtree(folder)


def fill_once(campaign: Campaign, folder: Path, rng: random.Random) -> None:
    """Let a disk be full at a random point, make room, and resume."""
    total = sum(map(len, campaign.reference.values()))
    largest = max(map(len, campaign.reference.values()))
    with small_disk(folder, rng.randrange(4096, 2 * total)) as mounted:
        limit = resource.RLIM_INFINITY if mounted else rng.randrange(100, largest)
        done = subprocess.run(
            [*PROGRAM, campaign.source, folder / "out", "-q"], stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        )  # fmt: skip
        if done.returncode == 0:
            campaign.seen["disk large enough"] += 1
            return
        kind = "full tmpfs" if mounted else "limit of file size"
        campaign.seen[kind] += 1
        if done.returncode != 1 or "can't be written" not in done.stderr:
            raise SystemExit(f"{kind}: exit code {done.returncode}, {done.stderr}")
        if campaign.check_interrupted(folder / "out"):
            raise SystemExit(f"{kind}: a failed run left an output")
        if mounted:
            command = ["mount", "-o", f"remount,size={16 * total}", str(folder)]
            subprocess.run(command, check=True)
        campaign.resume(folder / "out", kind)


def lose_worker_once(campaign: Campaign, folder: Path, rng: random.Random) -> None:
    """Kill a worker at a random moment of a run on a cluster of its own, and compare."""
    from distributed import Client, LocalCluster

    folder.mkdir()
    out = folder / "out"
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        workers = sorted(client.run(os.getpid).values())
        command = [*PROGRAM, campaign.source, out, "-q", "--dask", client.scheduler.address]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
            if campaign.wait_at_random(child, out, rng):
                os.kill(rng.choice(workers), signal.SIGKILL)
                begun = out.with_name("out.partial").exists()
                campaign.seen["while coding" if begun else "before coding"] += 1
            else:
                campaign.seen["complete before a worker was killed"] += 1
            _, err = child.communicate()
    if child.returncode or contents(out) != campaign.reference:
        raise SystemExit(f"after the loss of a worker: exit code {child.returncode}, {err}")
    if sorted(path.name for path in folder.iterdir()) != [out.name]:
        raise SystemExit("after the loss of a worker: something was left behind")
    shutil.rmtree(folder)


def main() -> None:
    """Run the campaigns and write the page."""
    parser = argparse.ArgumentParser(description="Kill compressions, fill disks, and resume.")
    parser.add_argument("page", type=Path, metavar="PAGE")
    parser.add_argument("--kills", type=int, default=200, help="(default %(default)s)")
    parser.add_argument("--full", type=int, default=50, help="full disks (default %(default)s)")
    parser.add_argument("--workers", type=int, default=20, help="lost (default %(default)s)")
    parser.add_argument("--layers", type=int, default=10, help="of the model (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60.0, help="at most (default %(default)s)")
    given = parser.parse_args()
    rng, deadline = random.Random(given.seed), time.monotonic() + 60 * given.minutes
    rows = []
    with tempfile.TemporaryDirectory(prefix="pvq-faults-") as name:
        folder = Path(name)
        campaign = Campaign(folder, given.layers)
        campaigns: list[tuple[str, Callable[[Campaign, Path, random.Random], None], int]] = [
            ("kill -9", kill_once, given.kills),
            ("full disk", fill_once, given.full),
        ]
        if find_spec("distributed"):
            campaigns.append(("worker killed", lose_worker_once, given.workers))
        for title, once, count in campaigns:
            campaign.seen, campaign.kept = Counter(), []
            for number in range(count):
                if time.monotonic() > deadline:
                    break
                work = folder / f"{title}-{number}"
                if once is kill_once:
                    work.mkdir()
                once(campaign, work, rng)
                print(f"{title} {number + 1}/{count}: {dict(campaign.seen)}", flush=True)
            kept = f"{100 * mean(campaign.kept):.0f} %" if campaign.kept else "–"
            where = ", ".join(f"{n} {what}" for what, n in sorted(campaign.seen.items()))
            resumed = str(len(campaign.kept)) if campaign.kept else "–"
            rows.append([title, str(sum(campaign.seen.values())), where, resumed, kept])
    text = f"""# Faults

Made by `{report.command("faults.py")}` on {report.made_with("numpy", "numba")}.
Model: random weights, {campaign.weights:,} of them in {campaign.pieces} matrices and an
embedding; an undisturbed warm run takes {campaign.seconds:.1f} s, of which
{campaign.until_begun:.1f} s pass before it begins to work. After each fault the source was
untouched, no partial output was taken for a model, and an output was there only where it was
complete. Every resumed run ended in the bytes of the undisturbed one, all files of the folder, and
nothing else was left behind; the script stops at the first that doesn't.

{report.table(["fault", "runs", "where it struck", "resumed", "pieces kept, mean"], rows)}

One kill in five comes at any moment of a run's life, the others after it has begun to work. Disks
are tmpfs of random sizes up to twice the output where they can be mounted; a limit of file size
strikes at the same calls. A killed worker is one of two of a local dask cluster; there is nothing
to resume then, the run goes on.
"""
    report.write_page(given.page, text)


if __name__ == "__main__":
    main()
