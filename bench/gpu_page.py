"""The page of bench/gpu.py, from what a run wrote as JSON."""

from typing import Any

import report

HALF = ("half, W x", "half, x Wᵀ")
MACHINE = ("device", "driver", "torch", "numba", "numba-cuda", "numpy", "Python", "processor")


def half(row: dict[str, Any]) -> float | None:
    """Return the microseconds of the faster product in half precision."""
    found = [row["us"][name] for name in HALF if name in row["us"]]
    return min(found) if found else None


def floor(row: dict[str, Any]) -> float | None:
    """Return the microseconds in which a copy moves as many bytes as the tensor has."""
    from gpu_device import COPIED

    copied = row["us"].get("copy")
    return None if copied is None else row["nbytes"] * copied / (2 * COPIED)


def _number(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _per(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one / other


def _form(row: dict[str, Any]) -> str:
    """Return what is said of the form in which groups were uploaded."""
    return "" if row["form"] == "tree" else f", {row['form']}"


def _line(row: dict[str, Any]) -> list[str]:
    name = f"{row['rate']} n = {row['n']}" + _form(row)
    if "failure" in row:
        return [name, str(row["batch"]), row["failure"], *[""] * 7]
    us = row["us"]
    own = us["pvq"]
    mark = "*" if row["methods"]["pvq"] == "queue" else ""
    return [
        name, str(row["batch"]), f"{_number(own)}{mark}", _number(us.get("pvq, no rotation")),
        f"{row['rows'] * row['cols'] / own / 1e6:.2f}", _number(half(row)),
        _number(_per(half(row), own), 2), _number(us.get("four bits")),
        _number(_per(us.get("four bits"), own), 2), _number(_per(floor(row), own), 2),
    ]  # fmt: skip


def _shapes(rows: list[dict[str, Any]]) -> str:
    head = [
        "bits, group", "batch", "µs", "no rotation", "10¹² weights/s", "half, µs", "half / ours",
        "4 bits, µs", "4 bits / ours", "of memory limit",
    ]  # fmt: skip
    parts = []
    for shape in dict.fromkeys((row["rows"], row["cols"]) for row in rows):
        lines = [_line(row) for row in rows if (row["rows"], row["cols"]) == shape]
        parts.append(f"### {shape[0]} × {shape[1]}\n\n{report.table(head, lines)}\n")
    return "\n".join(parts)


def _rates(rows: list[dict[str, Any]]) -> str:
    lines = {}
    for row in rows:
        if "failure" not in row:
            lines[row["rows"], row["cols"], row["rate"], row["n"], row["form"]] = [
                f"{row['rows']} × {row['cols']}", f"{row['n']}", f"{row['k']}",
                f"{row['gain_bits']}",
                f"{row['coded']:.3f}", f"{row['file']:.3f}", f"{row['device']:.3f}", row["path"],
                f"{row['nbytes'] / 1e6:.1f}", f"{row['copies']}",
            ]  # fmt: skip
    head = [
        "shape", "n", "k", "gain bits", "coded", "in a file", "on the device", "path", "MB",
        "copies",
    ]  # fmt: skip
    return report.table(head, list(lines.values()))


def _calls(calls: list[dict[str, Any]]) -> str:
    lines = [
        [
            f"{c['side']} × {c['side']}, {c['call']}",
            f"{c['returned_us']:.1f}",
            f"{c['done_us']:.1f}",
        ]
        for c in calls
    ]
    return report.table(["", "returns after, µs", "done, µs a call"], lines)


def _methods(rows: list[dict[str, Any]]) -> str:
    used = {method for row in rows for method in row.get("methods", {}).values()}
    said = {
        "graph": "calls are captured as a CUDA graph, which is replayed: launching takes no time",
        "events": "where a graph can't be captured, events stand around the calls, and putting "
        "them into the queue took less time than running them",
        "queue": "* marks times of which putting calls into the queue is a part",
        "clock": "a simulator ran each call once: these times mean nothing",
    }
    return "; ".join(text for name, text in said.items() if name in used)


def _list(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def page(found: dict[str, Any], picture: str | None) -> str:
    """Return the page; picture is the name of a file beside it."""
    rows = found["rows"]
    copied = [floor(row) for row in rows if "failure" not in row]
    speed = [row["nbytes"] / us / 1e3 for row, us in zip(
        [row for row in rows if "failure" not in row], copied, strict=True) if us]  # fmt: skip
    bandwidth = f"{min(speed):,.0f} to {max(speed):,.0f} GB/s" if speed else "not measured"
    machine = ", ".join(
        f"{name} {found['machine'][name]}" if name not in ("device", "processor")
        else found["machine"][name] for name in MACHINE if name in found["machine"]
    )  # fmt: skip
    checks = _list([f"{check['name']}: {check['result']}" for check in found["checks"]])
    drawn = f"![Time against batch]({picture})\n\n" if picture else ""
    ends = ""
    for title, lines in (
        ("Notes", found["notes"]), ("Left out, the budget was spent", found["left_out"]),
        ("Failures", found["failures"]),
    ):  # fmt: skip
        ends += f"\n## {title}\n\n{_list(lines)}\n" if lines else ""
    return f"""# Products on a GPU

Made by `{found["command"]}`, in {found["seconds"]:.0f} s. {machine}.
[gpu.md](../gpu.md) says how the kernels work.

{drawn}Times are microseconds of one product W x, all of it: the rotation of x, the product, scales.
Medians of at least five, contenders in turn; {_methods(rows)}.
Copies of W of more than 150 MB together take turns, so that none is found in the cache.

- *bits* is the coded rate, indices and gains; the table of rates has the others. *fixed* is the
  form of that name in `pvq_ref.cuda.upload`, integers of fixed width, and what has no such name
  the tree code, or the general path where that can't hold the groups.
- *half* is PyTorch's product in half precision, the faster of W x with x (cols, batch) and x Wᵀ
  with x (batch, cols). *half / ours* above 1 means that the compressed product is faster.
- *4 bits* is PyTorch's product of bfloat16 with four-bit integers in groups of 128 (tinygemm,
  `_weight_int4pack_mm`), 4.25 bits per weight.
- *no rotation* multiplies by W' (spec section 6), the same groups without the rotation of x. It
  takes longer than the whole where x is only packed by the kernel for any rotation, which is
  slower than the others.
- *of memory limit*: the time in which a copy within the device's memory moves as many bytes as the
  tensor has there, over ours. A copy reads and writes: {bandwidth}.

The weights are normal numbers of 2048 rows, quantized exactly as any weights, which larger tensors
repeat. So all bytes are read and all groups decoded, but only these rows differ.

{_shapes(rows)}
## Rates

Bits per weight. *On the device* counts what a product reads, tables aside.

{_rates(rows)}

## Whole calls in Python

By the clock on the wall, many calls in a row, n = 16 at 3.25 bits, one column; *returns* is when
Python goes on, *done* when the device has finished, both divided by the calls.

{_calls(found["calls"])}

## Checks

Before anything was timed: integers equal the CPU's; all rows of every product are within the
bound in the docstring of `pvq_ref.cuda.matmul`, compared with binary64 products of what the CPU
decodes, and a second run gave the same bits.

{checks}
{ends}"""
