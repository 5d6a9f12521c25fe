"""A port that knows all answers by heart and breaks the protocol: `troubled.py WAY [ID]`."""

import itertools
import json
import os
import sys
import time

from pvq_ref import vectors


def put(value):
    print(value if isinstance(value, str) else json.dumps(value), flush=True)


def main(way, where=""):
    answers = {
        case["id"]: {key: case[key] for key in ("id", "result", "error") if key in case}
        for case in vectors.cases()
    }
    before = None
    for line in sys.stdin:
        answer = answers[json.loads(line)["id"]]
        here = where in ("", answer["id"])
        if way == "hang" and here:
            time.sleep(1000)
        if way == "crash" and here:
            sys.exit(7)
        if way == "close" and here:
            os.close(1)  # closing sys.stdout would leave it open
            time.sleep(1000)
        if way == "flood" and here:
            for number in itertools.count():
                put(before if where and before else f"line {number}")
        if way == "debug" and here:
            put("debug: on my way")
        if way == "swap":  # holds an answer back until it has the next one
            if before is not None:
                put(answer)
                put(before)
            before = None if before is not None else answer
            continue
        if way == "late" and before is not None:  # always gives the answer before
            put(before)
        elif way == "number" and here:
            put("1")
        elif way == "both" and here:
            put({"id": answer["id"], "result": 1, "error": "DomainError"})
        elif way == "maybe" and here:
            put({"id": answer["id"], "unsupported": "yes"})
        elif way == "none" and here:
            put({"id": answer["id"], "unsupported": True})
        elif way == "deep" and here:
            put("[" * 100000)
        elif way == "binary" and here:
            sys.stdout.buffer.write(b"\xff\xfe\n")
            sys.stdout.flush()
        else:
            put(answer)
            if way == "twice" and here:
                put(answer)
        before = answer
    if way == "epilogue":
        put("bye")
    if way == "stay":
        time.sleep(1000)
    return 5 if way == "code" else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
