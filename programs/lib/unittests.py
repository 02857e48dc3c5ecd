"""Run files of Python's own test suite and print one line per test: its name and how it ended.

regrtest's output holds times and addresses; this prints only what two runs of the same tests must agree
on, in sorted order. The exit status says whether any test failed. Arguments: names of modules or classes
below the package `test`.
"""

import contextlib
import io
import os
import sys
import unittest


class Results(unittest.TestResult):
    """Collects `name: outcome`; subtests count through their test."""

    def __init__(self):
        super().__init__()
        self.outcomes = {}

    def note(self, test, outcome):
        name = test.id()
        if self.outcomes.get(name) not in ("FAIL", "ERROR"):
            self.outcomes[name] = outcome

    def addSuccess(self, test):
        super().addSuccess(test)
        self.note(test, "ok")

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.note(test, "skipped")

    def addExpectedFailure(self, test, err):
        super().addExpectedFailure(test, err)
        self.note(test, "expected failure")

    def addUnexpectedSuccess(self, test):
        super().addUnexpectedSuccess(test)
        self.note(test, "ERROR")

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.note(test, "FAIL")

    def addError(self, test, err):
        super().addError(test, err)
        self.note(test, "ERROR")

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.note(test, "FAIL")


def main(names):
    os.environ["PYTHONHASHSEED"] = "0"
    results = Results()
    # One suite for all: class fixtures are torn down once only within one run.
    suite = unittest.defaultTestLoader.loadTestsFromNames(["test." + name for name in names])
    # What the tests print is theirs (and differs from run to run): only the outcomes are compared.
    with contextlib.redirect_stdout(io.StringIO()):
        suite.run(results)
    for name in sorted(results.outcomes):
        print(f"{results.outcomes[name]:18} {name}")
    print(f"{len(results.outcomes)} tests")
    for test, trace in results.failures + results.errors:
        print(f"{test.id()}\n{trace}", file=sys.stderr)
    return 0 if results.wasSuccessful() and results.outcomes else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
