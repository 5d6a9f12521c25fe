"""The conformance checker: asks a port every question of the vectors (docs/conform.md).

Requests go one at a time, each when the answer before it has come or is overdue. A port that hangs
or ends is started again for the next section, a few times. Nothing that a port prints, or doesn't,
stops the checker.
"""

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from itertools import groupby
from typing import Any

from pvq_ref import vectors
from pvq_ref.asking import NoAnswerError, Port
from pvq_ref.comparing import difference, shortened
from pvq_ref.errors import DomainError

Case = dict[str, Any]
PASSED, FAILED, UNSUPPORTED = "passed", "failed", "unsupported"
OUTCOMES = (PASSED, FAILED, UNSUPPORTED)
STARTS = 4  # how often a port is started at most


# The report


@dataclass
class Verdict:
    """What became of one case."""

    id: str
    section: str
    flags: list[str]
    outcome: str
    difference: str = ""
    expected: str = ""
    got: str = ""


@dataclass
class Report:
    """What became of all cases; problems are breaches of the protocol itself."""

    verdicts: list[Verdict] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def failures(self) -> list[Verdict]:
        """The cases that failed."""
        return [verdict for verdict in self.verdicts if verdict.outcome == FAILED]

    @property
    def conforms(self) -> bool:
        """Whether nothing failed."""
        return not self.failures and not self.problems

    def by_section(self) -> dict[str, dict[str, int]]:
        """Count outcomes by section."""
        return self._counts((verdict.section, verdict) for verdict in self.verdicts)

    def by_flag(self) -> dict[str, dict[str, int]]:
        """Count outcomes by flag, in alphabetical order."""
        pairs = ((flag, verdict) for verdict in self.verdicts for flag in verdict.flags)
        return dict(sorted(self._counts(pairs).items()))

    @staticmethod
    def _counts(pairs: Iterable[tuple[str, Verdict]]) -> dict[str, dict[str, int]]:
        counts: dict[str, dict[str, int]] = {}
        for key, verdict in pairs:
            counts.setdefault(key, dict.fromkeys(OUTCOMES, 0))[verdict.outcome] += 1
        return counts

    def totals(self) -> dict[str, int]:
        """Count outcomes."""
        return self._counts(("", verdict) for verdict in self.verdicts)[""]

    def as_json(self) -> dict[str, Any]:
        """Return the object of `pvq-ref conform --json`."""
        failures = [asdict(verdict) for verdict in self.failures]
        for failure in failures:
            del failure["outcome"]
        return {
            "conforms": self.conforms,
            **self.totals(),
            "sections": self.by_section(),
            "flags": self.by_flag(),
            "failures": failures,
            "problems": self.problems,
        }

    def lines(self) -> Iterator[str]:
        """Yield lines for people."""
        for verdict in self.failures:
            yield f"{verdict.id}  {verdict.difference}"
            if verdict.got and not verdict.difference.startswith("result: "):
                yield f"    expected {verdict.expected}"
                yield f"    got      {verdict.got}"
        meanings = vectors.flags()
        for title, counts in (("section", self.by_section()), ("flag", self.by_flag())):
            yield f"{title:15} " + " ".join(f"{outcome:>11}" for outcome in OUTCOMES)
            for key, row in counts.items():
                meaning = f"  {meanings[key]}" if key in meanings and row[FAILED] else ""
                yield f"{key:15} " + " ".join(f"{row[o] or '':>11}" for o in OUTCOMES) + meaning
        yield ", ".join(f"{number} {outcome}" for outcome, number in self.totals().items())


# Asking


def _section_number(case: Case) -> list[int]:
    return [int(part) for part in case["section"].split(".")]


def chosen(patterns: Sequence[str]) -> list[Case]:
    """Return the cases whose section or id matches a glob, all if there is none, by section."""
    cases = vectors.cases()
    for pattern in patterns:
        if not any(fnmatchcase(case[key], pattern) for case in cases for key in ("section", "id")):
            raise DomainError(f"only must be a section or a glob of ids, got {pattern!r}")
    wanted = [
        case
        for case in cases
        if not patterns
        or any(fnmatchcase(case[key], one) for one in patterns for key in ("section", "id"))
    ]
    return sorted(wanted, key=_section_number)


class _Session:
    """One run: the port of the moment, and the verdicts so far."""

    def __init__(self, command: Sequence[str], timeout: float) -> None:
        self.command, self.timeout = command, timeout
        self.report = Report()
        self.starts = 0
        self.port: Port | None = None
        self.asked: dict[str, Verdict] = {}

    def start(self) -> None:
        """Start the port, unless it runs or was started often enough."""
        if self.port is None and self.starts < STARTS:
            self.starts += 1
            self.port = Port(self.command)

    def judge(self, case: Case, outcome: str, why: str = "", got: object = "") -> None:
        """Record what became of a case."""
        if outcome == FAILED:
            expected = {key: case[key] for key in ("result", "error") if key in case}
            texts = shortened(expected), shortened(got) if got else ""
        else:
            texts = "", ""
        verdict = Verdict(case["id"], case["section"], case["flags"], outcome, why, *texts)
        self.report.verdicts.append(verdict)
        self.asked[case["id"]] = verdict

    def again(self, answer: object) -> bool:
        """Return whether a line answers an earlier request, which it mustn't; then blame that."""
        if not isinstance(answer, dict) or not isinstance(answer.get("id"), str):
            return False
        verdict = self.asked.get(answer["id"])
        if verdict is None:
            return False
        if verdict.outcome != FAILED:
            verdict.outcome, verdict.difference = FAILED, "answered twice"
        return True

    def ask(self, case: Case) -> None:
        """Ask one question and judge the answer."""
        if self.port is None:
            self.judge(case, FAILED, "no answer: the port hung or ended before")
            return
        self.port.send({key: case[key] for key in ("id", "op", "args")})
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                line = self.port.line(deadline)
            except NoAnswerError as error:
                self.judge(case, FAILED, str(error))
                self.drop()
                return
            answer = _parsed(line)
            if not self.again(answer):
                break
        outcome, why = _outcome(case, answer)
        self.judge(case, outcome, why, line.decode(errors="replace").strip())

    def drop(self) -> None:
        """Give the port up."""
        if self.port is not None:
            self.port.kill()
            self.port = None

    def finish(self) -> None:
        """End the port in an orderly way and look at what it still says."""
        if self.port is None:
            return
        rest, problem = self.port.finish(self.timeout)
        strange = [line for line in rest if not self.again(_parsed(line))]
        if strange:
            text = shortened(strange[0].decode(errors="replace").strip())
            self.report.problems.append(f"after the last answer must come nothing, got {text}")
        if problem is not None:
            self.report.problems.append(problem)
        self.drop()


def _parsed(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _outcome(case: Case, answer: object) -> tuple[str, str]:
    """Judge a line that came after a request."""
    if not isinstance(answer, dict):
        return FAILED, "an answer must be a JSON object in one line"
    if answer.get("id") != case["id"]:
        return FAILED, f"an answer must have the id of its request, got {answer.get('id')!r:.80}"
    kinds = [key for key in ("result", "error", "unsupported") if key in answer]
    if len(kinds) != 1:
        return FAILED, f"an answer must have a result, an error or unsupported, got {kinds}"
    if kinds == ["unsupported"]:
        right = answer["unsupported"] is True
        return (UNSUPPORTED, "") if right else (FAILED, "unsupported must be true")
    why = difference(case, answer)
    return (PASSED, "") if why is None else (FAILED, why)


def check(
    command: Sequence[str],
    timeout: float = 10.0,
    only: Sequence[str] = (),
    progress: Callable[[int], None] = lambda cases: None,
) -> Report:
    """Ask a port the questions of the vectors.

    Parameters: command, what starts the port; timeout, seconds that an answer may take; only,
    sections or globs of ids, all if empty; progress, called with the number of cases done. Returns
    a Report. Raises DomainError for a pattern without a match or a timeout that isn't above 0,
    OSError where the command can't be started.
    """
    if not 0 < timeout < threading.TIMEOUT_MAX:
        raise DomainError(f"timeout must be a number of seconds above 0, got {timeout}")
    session = _Session(command, timeout)
    try:
        for _, cases in groupby(chosen(only), key=_section_number):
            session.start()
            for case in cases:
                session.ask(case)
                progress(1)
        session.finish()
    finally:
        session.drop()
    return session.report
