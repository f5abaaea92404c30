# SPDX-License-Identifier: Apache-2.0
"""What a run of the node tests says: a table, JSON, and docs/onnx-operators.md."""

import json
import re
from collections import Counter, defaultdict

OUTCOMES = ("pass", "load refused", "run refused", "no type", "rounding", "wrong", "crash", "hang")
# Order of the rows by data type.
TYPE_ORDER = "BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 BF16 FP32 FP64 BYTES".split()


def count(cases):
    """How many of each outcome; `plain X` counts the plain-tensor tests alone."""
    counts = Counter(case.outcome for case in cases)
    counts.update(f"plain {case.outcome}" for case in cases if case.plain)
    counts["plain"] = sum(case.plain for case in cases)
    counts["all"] = len(cases)
    return counts


def by_type(cases):
    """Rows of (type, tests with it, of these passing), a test counting for each of its types."""
    tests, passing = Counter(), Counter()
    for case in cases:
        for name in case.types:
            tests[name] += 1
            passing[name] += case.outcome == "pass"
    known = [name for name in TYPE_ORDER if name in tests]
    return [(name, tests[name], passing[name]) for name in known + sorted(set(tests) - set(known))]


def table(cases):
    counts = count(cases)
    lines = [f"{'outcome':<14} {'plain':>6} {'all':>6}"]
    lines += [f"{name:<14} {counts['plain ' + name]:>6} {counts[name]:>6}" for name in OUTCOMES]
    lines += [f"{'tests':<14} {counts['plain']:>6} {counts['all']:>6}", ""]
    lines += [f"{'type':<14} {'pass':>6} {'tests':>6}"]
    lines += [f"{name:<14} {passing:>6} {tests:>6}" for name, tests, passing in by_type(cases)]
    return "\n".join(lines)


def as_json(cases):
    fields = ("name", "operators", "types", "plain", "outcome", "reason", "seconds")
    return json.dumps([{name: getattr(case, name) for name in fields} for case in cases], indent=1) + "\n"


def general(reason):
    """A reason without the names, numbers and shapes of one test, so that like ones stand together."""
    reason = re.sub(r"^model \S+ version \d+: ", "", reason)
    reason = re.sub(r"^the model needs something the \w+ backend does not have: ", "", reason)
    reason = re.sub(r"`[^`]*`|\"[^\"]*\"", "…", reason.splitlines()[0] if reason else "")
    reason = re.sub(r" \(node …\) of operator set \d+", "", reason)
    reason = re.sub(r"run this model for inputs of shapes \[\[.*?\]\]: ", "", reason)
    reason = re.sub(r"\[[^\]]*\]", "[…]", reason)
    reason = re.sub(r"\btest_\w+", "…", reason)
    reason = re.sub(r"#?\b\d+\b", "N", reason)
    return reason if len(reason) <= 200 else reason[:199] + "…"


def document(cases):
    counts = count(cases)
    lines = [
        "<!-- SPDX-License-Identifier: Apache-2.0 -->",
        "<!-- Made by `cargo xtask onnx-nodes --write`; change tests/onnx_nodes/report.py instead. -->",
        "# ONNX operators",
        "",
        f"All {counts['all']} backend node tests of `onnx` 1.22.0 went through the server in one run: each model was",
        "loaded and each data set sent over REST as binary tensors. Values are compared with rtol 1e-3 and atol",
        "1e-7, integers exactly, types and shapes always. *Plain-tensor* tests have only numeric and boolean tensors.",
        "What the embedded runtime can't do is refused with a reason, at load where that can be known.",
        "",
        "| Outcome | Plain-tensor | All |",
        "|---|--:|--:|",
    ]
    names = {"pass": "right values", "rounding": "right but for rounding", "wrong": "**wrong values**", "no type": "not a type of the protocol"}
    for name in OUTCOMES:
        lines.append(f"| {names.get(name, name)} | {counts['plain ' + name]} | {counts[name]} |")
    lines += [f"| tests | {counts['plain']} | {counts['all']} |", ""]
    lines += ["## By data type", "", "A test counts for each type among its inputs and outputs.", ""]
    lines += ["| Type | Right | Tests |", "|---|--:|--:|"]
    lines += [f"| {name} | {passing} | {tests} |" for name, tests, passing in by_type(cases)]
    lines += ["", "## Wrong values, crashes, hangs", ""]
    bad = [case for case in cases if case.outcome in ("wrong", "crash", "hang")]
    lines += [f"- `{case.name}`: {case.outcome}: {cell(case.reason.splitlines()[0])}" for case in bad] or ["None."]
    lines += ["", "## Right but for rounding", ""]
    lines += ["Outside of the tolerances above, by no more than 32 steps between neighbouring numbers of the type"]
    lines += ["at the size of the tensor's largest value: what another order of the same sums, or an activation"]
    lines += ["function that is good to 1e-6, makes. Not counted as right.", ""]
    rounded = [case for case in cases if case.outcome == "rounding"]
    lines += [f"- `{case.name}`: {cell(case.reason)}" for case in rounded] or ["None."]
    lines += ["", "## By operator", ""]
    lines += ["Operators that their tests name; a test counts for the operator of its (first) node.", ""]
    lines += ["| Operator | Right | Tests |", "|---|--:|--:|"]
    operators = defaultdict(list)
    for case in cases:
        operators[main_operator(case)].append(case.outcome == "pass")
    lines += [f"| {name} | {sum(passing)} | {len(passing)} |" for name, passing in sorted(operators.items())]
    for outcome, title in (
        ("load refused", "Refused at load"),
        ("run refused", "Refused at the request"),
        ("no type", "Not a type of the protocol"),
    ):
        lines += ["", f"## {title}", ""]
        lines += groups([case for case in cases if case.outcome == outcome])
    return "\n".join(lines) + "\n"


def main_operator(case):
    ordinary = [name for name in case.operators if name not in ("Constant", "Identity")]
    return (ordinary or case.operators or ["(none)"])[0]


def groups(cases):
    """Each reason with its tests, the most frequent first."""
    reasons = defaultdict(list)
    for case in cases:
        reasons[general(case.reason)].append(case.name)
    if not reasons:
        return ["None."]
    lines = []
    for reason, names in sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0])):
        lines += [f"- {len(names)}: {cell(reason)}", f"  {', '.join(f'`{name}`' for name in names)}"]
    return lines


def cell(text):
    """Text that Markdown shows as it is."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "\\<").replace("*", "\\*")
