"""The arguments of the command line."""

import argparse
import sys
from typing import Any, NoReturn

from pvq_ref import __version__

USAGE = 2  # exit code of wrong usage
DESIGNS = ("auto", "lloyd-max", "panter-dite", "panter-dite-centroids", "quantile", "fitted")


class _Parser(argparse.ArgumentParser):
    """A parser that refers to --help."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _add_common(command: argparse.ArgumentParser, *, works: bool = True) -> None:
    command.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    command.add_argument("--quiet", "-q", action="store_true", help="print errors only")
    if works:
        command.add_argument(
            "--threads", "-j", type=int, metavar="N", help="threads (default: all that may be used)"
        )


def _add_memory(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--max-memory", default="256M", metavar="SIZE",
        help="memory to use beyond the program's own, e.g. 256M or 1G (default 256M)",
    )  # fmt: skip


def _add_compress(commands: Any) -> None:
    c = commands.add_parser(
        "compress",
        help="compress a model, with or without calibration data",
        description="Compress every floating tensor of two or three dimensions, except embeddings, "
        "output heads, norms, routers and biases. MODEL is a .safetensors file or a folder of "
        "them; OUT is made in the same form.",
    )
    c.add_argument("model", metavar="MODEL")
    c.add_argument("out", metavar="OUT")
    c.add_argument(
        "--bits", "-b", type=float, default=3.25, metavar="R",
        help="bits per weight that no tensor exceeds in the file, everything counted; 1 to 8 "
        "(default 3.25)",
    )  # fmt: skip
    c.add_argument(
        "--embed-bits", type=float, metavar="R",
        help="compress embeddings and output heads too, at this rate (default: they stay as they "
        "are)",
    )  # fmt: skip
    c.add_argument(
        "--group", "-g", type=int, default=32, metavar="N", help="weights in a group (default 32)"
    )
    c.add_argument(
        "--gain-bits", type=int, metavar="N",
        help="bits of a group's gain, 0 to 8 (default: chosen for the least error)",
    )  # fmt: skip
    c.add_argument(
        "--order", choices=("fischer", "opus", "blocked"), default="blocked",
        help="order of the indices (default blocked)",
    )  # fmt: skip
    c.add_argument(
        "--levels", choices=DESIGNS, default="auto",
        help="design of the gain levels (default auto: lloyd-max, or fitted where that is better)",
    )  # fmt: skip
    c.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the rotation (default 0)"
    )
    c.add_argument("--no-rotate", action="store_true", help="don't rotate the weights")
    for name, what in (("include", "compress only"), ("exclude", "leave as they are")):
        c.add_argument(
            f"--{name}", action="append", default=[], metavar="PATTERN",
            help=f"{what} tensors of this name, glob, or regular expression after re: (repeatable)",
        )  # fmt: skip
    c.add_argument("--dry-run", "-n", action="store_true", help="print the plan and stop")
    c.add_argument("--force", "-f", action="store_true", help="replace an existing output")
    c.add_argument(
        "--resume", action="store_true",
        help="go on with what an interrupted run left in OUT.partial; settings and source must be "
        "the same (default: it is discarded)",
    )  # fmt: skip
    c.add_argument(
        "--shard", metavar="I/N",
        help="do share I of N, 1 to N, of the work, and leave it in OUT.partial for pvq-ref merge; "
        "what was finished of it before is kept",
    )  # fmt: skip
    c.add_argument(
        "--dask", metavar="ADDRESS",
        help="spread the work over the dask.distributed cluster of a scheduler, or over processes "
        "here (local); needs pip install 'pvq-ref[dask]'",
    )  # fmt: skip
    _add_feedback(c)
    _add_memory(c)
    _add_common(c)


def _add_feedback(c: argparse.ArgumentParser) -> None:
    g = c.add_argument_group(
        "calibration",
        "With what the layers see, errors are fed back and the model stays much better. "
        "--calibrate needs pip install 'pvq-ref[calibrate]'; --hessians needs nothing.",
    )
    source = g.add_mutually_exclusive_group()
    source.add_argument(
        "--calibrate", metavar="TEXT", help="compress block by block with the tokens of this text"
    )
    source.add_argument(
        "--hessians", metavar="FILE", help="use the second moments of inputs that a file holds"
    )
    _add_text(g)
    g.add_argument(
        "--share", type=float, default=0.7, metavar="S",
        help="how far weights move towards those that mend the errors of earlier layers, 0 to 1 "
        "(default 0.7)",
    )  # fmt: skip
    g.add_argument(
        "--weigh-tokens", action="store_true",
        help="let tokens of the text count by what errors cost the model there",
    )  # fmt: skip
    g.add_argument(
        "--tune", type=int, default=0, metavar="N",
        help="tune the norms of rows for the whole model, N times over the text (default 0)",
    )  # fmt: skip
    g.add_argument(
        "--allocate", action="store_true",
        help="share the rate out among layers by how sensitive the model is to each",
    )  # fmt: skip
    g.add_argument(
        "--plan", metavar="FILE",
        help="the rate of each tensor: read from FILE if it is there, else, with --allocate, "
        "written to it",
    )  # fmt: skip
    g.add_argument(
        "--search", choices=("weighted", "plain"), default="weighted",
        help="search of a group: in the metric of the loss, or Euclidean (default weighted)",
    )  # fmt: skip
    g.add_argument(
        "--sweeps", type=int, default=0, metavar="N",
        help="search all groups again up to N times (default 0)",
    )  # fmt: skip
    g.add_argument(
        "--paths", type=int, default=1, metavar="N",
        help="ways to code a row that are kept side by side: lower loss for N times the time "
        "(default 1)",
    )  # fmt: skip
    g.add_argument(
        "--damping", type=float, default=0.01, metavar="D",
        help="added to the diagonal of second moments, in units of its mean (default 0.01)",
    )  # fmt: skip
    _add_device(g)


def _add_text(g: Any) -> None:
    g.add_argument(
        "--tokens", type=int, default=32768, metavar="N",
        help="tokens of the text to use (default 32768)",
    )  # fmt: skip
    g.add_argument(
        "--window", type=int, default=512, metavar="N", help="tokens of a window (default 512)"
    )
    g.add_argument(
        "--part", type=_part, default=(0.0, 1.0), metavar="A:B",
        help="the part of the text between two fractions, e.g. 0:0.5 (default 0:1)",
    )  # fmt: skip
    g.add_argument(
        "--text-seed", type=int, default=0, metavar="N",
        help="seed that draws windows from the text (default 0)",
    )  # fmt: skip


def _add_device(g: Any) -> None:
    g.add_argument("--device", default="cpu", help="where torch computes: cpu (default), cuda, …")
    g.add_argument(
        "--batch", type=int, default=8, metavar="N", help="windows at a time (default 8)"
    )


def _add_calibrate(commands: Any) -> None:
    c = commands.add_parser(
        "calibrate",
        help="write the second moments of what a model's layers see, for compress --hessians",
        description="Send tokens of a text through the model in folder MODEL, and write the "
        "Hessian of every linear layer in its blocks to a file. compress --calibrate does better "
        "in one go, since it knows what earlier layers lost. Needs pip install "
        "'pvq-ref[calibrate]'.",
    )
    c.add_argument("model", metavar="MODEL")
    c.add_argument("--text", required=True, metavar="FILE", help="a UTF-8 text")
    c.add_argument("--out", "-o", required=True, metavar="HESSIANS", help="the file to write")
    _add_text(c)
    _add_device(c)
    c.add_argument("--force", "-f", action="store_true", help="replace an existing output")
    _add_common(c)


def _add_merge(commands: Any) -> None:
    c = commands.add_parser(
        "merge",
        help="put together what all shards of a compression have left",
        description="Put OUT together of OUT.partial, once all shards of compress are done. The "
        "bytes are those of a single run.",
    )
    c.add_argument("model", metavar="MODEL", help="the model that the shards had")
    c.add_argument("out", metavar="OUT")
    c.add_argument("--force", "-f", action="store_true", help="replace an existing output")
    _add_common(c, works=False)


def _add_decompress(commands: Any) -> None:
    c = commands.add_parser(
        "decompress",
        help="turn a compressed model back into plain safetensors",
        description="Decompress a file or folder that pvq-ref made. Each tensor gets the type of "
        "its source; hashes are checked on the way.",
    )
    c.add_argument("model", metavar="MODEL")
    c.add_argument("out", metavar="OUT")
    c.add_argument("--force", "-f", action="store_true", help="replace an existing output")
    _add_memory(c)
    _add_common(c)


def _add_inspect(commands: Any) -> None:
    c = commands.add_parser(
        "inspect",
        help="show what is in a compressed model",
        description="Show tensors, parameters and rates. Reads headers only, unless --entropy is "
        "given.",
    )
    c.add_argument("model", metavar="MODEL")
    c.add_argument(
        "--entropy", action="store_true",
        help="decode all indices, and show their entropy and that of the gains beside their widths",
    )  # fmt: skip
    _add_common(c)


def _add_verify(commands: Any) -> None:
    c = commands.add_parser(
        "verify",
        help="check a compressed model: hashes, ranges, and a full decode",
        description="Check every hash and range and decode everything. Exit code 3 if anything is "
        "wrong.",
    )
    c.add_argument("model", metavar="MODEL")
    c.add_argument(
        "--against", metavar="ORIGINAL", help="print the error of each tensor against the original"
    )
    _add_memory(c)
    _add_common(c)


def _add_vectors(commands: Any) -> None:
    c = commands.add_parser(
        "vectors",
        help="write the test vectors, for other implementations",
        description="Write the test vectors and their JSON schema into folder OUT.",
    )
    c.add_argument("out", metavar="OUT")
    c.add_argument("--force", "-f", action="store_true", help="write into a folder in use")
    _add_common(c, works=False)


def _add_conform(commands: Any) -> None:
    c = commands.add_parser(
        "conform",
        usage="%(prog)s [options] -- COMMAND…",
        help="check another implementation against the test vectors",
        description="Start COMMAND, ask it every question of the test vectors on its standard "
        "input, and report what it got right. Exit code 3 if anything is wrong. The protocol is "
        "in docs/conform.md.",
    )
    c.add_argument("port", nargs="+", metavar="COMMAND", help="program and arguments, after --")
    c.add_argument(
        "--timeout", type=float, default=10.0, metavar="S",
        help="seconds that an answer may take (default 10)",
    )  # fmt: skip
    c.add_argument(
        "--only", action="append", default=[], metavar="PATTERN",
        help="ask only what has this section, or an id that matches this glob (repeatable)",
    )  # fmt: skip
    _add_common(c, works=False)


def _add_evaluate(commands: Any) -> None:
    c = commands.add_parser(
        "evaluate",
        help="measure a language model: perplexity of a text, accuracy on tasks",
        description="Measure the model in folder MODEL, plain or compressed; with --against, its "
        "original on the same beside it. Needs pip install 'pvq-ref[calibrate]'. The forms of "
        "files and what is computed are in docs/evaluate.md.",
    )
    c.add_argument("model", metavar="MODEL")
    c.add_argument("--text", metavar="FILE", help="a text, for perplexity")
    c.add_argument(
        "--tasks", nargs="+", action="extend", default=[], metavar="FILE",
        help="tasks: JSON lines of multiple choice or cloze",
    )  # fmt: skip
    c.add_argument("--against", metavar="ORIGINAL", help="compare with this model, paired")
    c.add_argument(
        "--window", type=int, default=512, metavar="N", help="tokens of a window (default 512)"
    )
    c.add_argument("--tokens", type=int, metavar="N", help="tokens of the text (default: all)")
    c.add_argument(
        "--part", type=_part, default=(0.0, 1.0), metavar="A:B",
        help="the part of the text between two fractions, e.g. 0.5:1 (default 0:1)",
    )  # fmt: skip
    c.add_argument("--items", type=int, metavar="N", help="first items of each task (default: all)")
    c.add_argument("--device", default="cpu", help="where to compute: cpu (default), cuda, …")
    c.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32",
        help="type to compute in (default float32)",
    )  # fmt: skip
    c.add_argument(
        "--batch", type=int, metavar="N",
        help="windows at a time, and as many tokens of tasks (default 1 on a CPU, else 8)",
    )  # fmt: skip
    _add_common(c, works=False)


def _add_warmup(commands: Any) -> None:
    c = commands.add_parser(
        "warmup",
        help="compile all kernels now, not when they are first used",
        description="Compile every kernel into the cache, so that no later command has to. The "
        "cache is NUMBA_CACHE_DIR if that is set, else the package's own folder, else the user's.",
    )
    _add_common(c, works=False)


def _part(text: str) -> tuple[float, float]:
    start, colon, stop = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError(f"must be two numbers A:B, got {text!r}")
    try:
        return float(start), float(stop)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be two numbers A:B, got {text!r}") from None


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = _Parser(
        prog="pvq-ref",
        description="Compress language-model weights by pyramid vector quantization.",
        epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 verification or conformance failed, "
        "130 interrupted, 143 terminated.",
    )
    top.add_argument("--version", action="version", version=f"pvq-ref {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_compress(commands)
    _add_merge(commands)
    _add_decompress(commands)
    _add_inspect(commands)
    _add_verify(commands)
    _add_calibrate(commands)
    _add_evaluate(commands)
    _add_vectors(commands)
    _add_conform(commands)
    _add_warmup(commands)
    return top
