"""The gates: a tool each, what it looks at, and the planted fault that it must see every time."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tools.audit.findings import Allowance, Finding
from tools.audit.inputs import PLANTED, Inputs
from tools.audit.paths import HERE, NODE_MODULES, PROGRAMS, WORK
from tools.audit.policies import identity_policies
from tools.audit.transform import TEMPLATE
from tools.local.aws import REGION
from tools.local.paths import ROOT

PRODUCT = ("functions", "layers/relay")
PROGRAM = (*PRODUCT, "sandbox", "tools")
OPENAPI = ROOT / "docs" / "openapi.yaml"
PLANTED_OPENAPI = HERE / "planted" / "openapi.yaml"
ASYNCAPI = ROOT / "docs" / "asyncapi.yaml"
PLANTED_ASYNCAPI = HERE / "planted" / "asyncapi.yaml"
RULES = HERE / "semgrep.yml"
SAMPLES = HERE / "planted" / "samples.py"
GUARD = NODE_MODULES / "@cdklabs" / "cdk-validator-cfnguard"
SECONDS = 300
"""Patience with one tool."""

ENVIRONMENT = {
    "AWS_DEFAULT_REGION": REGION,
    "NODE_PATH": str(NODE_MODULES),
    "PYTHONWARNINGS": "ignore",
    "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true",
    "REDOCLY_TELEMETRY": "off",
    "SEMGREP_LOG_FILE": str(WORK / "semgrep.log"),
    "SEMGREP_SETTINGS_FILE": str(WORK / "semgrep-settings.yml"),
}
"""No tool sends anything, asks for a newer version of itself, or touches the user's settings."""


class GateBrokenError(Exception):
    """A tool did not do its work; the message is what it said."""


@dataclass
class Report:
    """What a gate found in the product and, apart from it, in what was planted."""

    looked_at: str
    findings: list[Finding] = field(default_factory=list)
    planted: list[Finding] = field(default_factory=list)
    allowances: list[Allowance] = field(default_factory=list)
    """What the template's metadata allows; the register's part is added to it."""

    def add(self, finding: Finding, *, planted: bool) -> None:
        """Put a finding where it belongs."""
        (self.planted if planted else self.findings).append(finding)


@dataclass(frozen=True)
class Gate:
    """A tool; ``must_see`` names the rules that find what was planted for it."""

    name: str
    examine: Callable[[Inputs], Report]
    must_see: frozenset[str]
    needs_node: bool = False


# ---------------------------------------------------------------------------- template and policies


def cfn_lint(inputs: Inputs) -> Report:
    """Lint the source and every variant; .cfnlintrc names the rules.

    Both, for cfn-lint checks neither patterns nor the names of IAM actions where SAM is to
    transform. A value that came from a parameter is a string, whatever CloudFormation makes of it:
    only the source, in `make check`, is held to the types to the letter.
    """
    said = _run(
        Path(sys.executable).parent / "cfn-lint",
        *("--format", "json", "--configure-rule", "E3012:strict=false"),
        *("--template", inputs.source_file, *inputs.files.values()),
    )
    report = Report(inputs.resources, allowances=inputs.allowed_to("cfn-lint"))
    for found in _json(said):
        path = found["Location"]["Path"] or []
        subject = path[1] if len(path) > 1 and path[0] == "Resources" else "/".join(map(str, path))
        finding = Finding(found["Rule"]["Id"], subject, found["Message"])
        report.add(finding, planted=Path(found["Filename"]) == inputs.files[PLANTED])
    return report


def checkov(inputs: Inputs) -> Report:
    """Check the source as it is and every variant."""
    files = [TEMPLATE, *inputs.files.values()]
    said = _run(
        PROGRAMS / "checkov",
        *(f"--file={file}" for file in files),
        *("--framework", "cloudformation", "--skip-download", "--compact", "--output", "json"),
    )
    answer = _json(said)
    results = answer["results"]
    if answer["summary"]["parsing_errors"]:
        raise GateBrokenError(f"unreadable: {results['parsing_errors']}")
    checks = {one["check_id"] for kind in ("passed", "failed") for one in results[f"{kind}_checks"]}
    report = Report(
        f"{len(checks)} rules, {inputs.resources}", allowances=inputs.allowed_to("checkov")
    )
    for found in results["failed_checks"]:
        subject = found["resource"].partition(".")[2] or found["resource"]
        finding = Finding(found["check_id"], subject, found["check_name"])
        report.add(finding, planted=found["file_path"].endswith(inputs.files[PLANTED].name))
    return report


def cdk_nag(inputs: Inputs) -> Report:
    """Ask AwsSolutions, HIPAA Security and Serverless about every variant."""
    said = _run("node", HERE / "nag.js", *inputs.files.values())
    report = Report(f"3 packs, {inputs.resources}")
    for found in _each_json(said):
        finding = Finding(found["rule"], found["resource"], found["text"])
        report.add(finding, planted=found["template"] == inputs.files[PLANTED].name)
    return report


def control_tower(inputs: Inputs) -> Report:
    """Check the Control Tower rules with Guard on every variant."""
    program = GUARD / "bin" / _guard_platform() / "cfn-guard"
    rules = GUARD / "rules" / "control-tower" / "cfn-guard"
    said = _run(
        program,
        *("validate", "--structured", "--output-format", "json", "--show-summary", "none"),
        *("--rules", rules),
        *(part for file in inputs.files.values() for part in ("--data", file)),
    )
    answers = _json(said)
    if len(answers) != len(inputs.files):
        raise GateBrokenError(f"{len(answers)} answers about {len(inputs.files)} templates")
    applied = set()
    report = Report("")
    for answer in answers:
        applied |= {*answer["compliant"]}
        for rule in (found["Rule"] for found in answer["not_compliant"]):
            applied.add(rule["name"])
            for resource in sorted(set(_guarded(rule))):
                finding = Finding(rule["name"], resource)
                report.add(finding, planted=answer["name"] == str(inputs.files[PLANTED]))
    report.looked_at = f"{len(applied)} rules, {inputs.resources}"
    return report


def _guard_platform() -> str:
    system = "macos" if sys.platform == "darwin" else "ubuntu"
    is_arm = platform.machine().lower() in {"arm64", "aarch64"}
    return f"{system}/{'aarch64' if is_arm else 'x86_64'}"


def _guarded(node: Any) -> Iterator[str]:  # noqa: ANN401 any JSON
    """Give the resources that a broken rule names, however deep."""
    match node:
        case dict():
            path = node.get("path")
            if isinstance(path, str) and path.startswith("/Resources/"):
                yield path.split("/")[2]
            for child in node.values():
                yield from _guarded(child)
        case list():
            for child in node:
                yield from _guarded(child)


def parliament(inputs: Inputs) -> Report:
    """Look for unknown actions and conditions, wrong resources and ways to more privilege."""
    folder = WORK / "policies"
    count = 0
    for name, variant in inputs.variants.items():
        (folder / name).mkdir(parents=True)
        for resource, policy in identity_policies(variant).items():
            (folder / name / f"{resource}.json").write_text(json.dumps(policy, indent=1))
            count += name != PLANTED
    if not count:
        raise GateBrokenError("the template has no policy that it could read")
    said = _run(
        PROGRAMS / "parliament",
        *("--directory", folder, "--include-community-auditors", "--json"),
    )
    report = Report(f"{count} policies")
    for found in _each_json(said):
        path = Path(found["location"]["filepath"])
        finding = Finding(found["issue"], path.stem, str(found["detail"] or found["title"]))
        report.add(finding, planted=path.parent.name == PLANTED)
    return report


# --------------------------------------------------------------------------------------------- code


def bandit(_: Inputs) -> Report:
    """Look for what is known to be unsafe in Python, in everything but the tests."""
    said = _run(
        PROGRAMS / "bandit",
        *(
            "--quiet",
            "--format",
            "json",
            "--exclude",
            SAMPLES.relative_to(ROOT),
            "--recursive",
            *PROGRAM,
        ),
    )
    answer = _json(said)
    if answer["errors"]:
        raise GateBrokenError(f"unreadable: {answer['errors']}")
    report = Report(f"{answer['metrics']['_totals']['loc']} lines")
    for found in answer["results"]:
        path = found["filename"].removeprefix("./")
        text = f"line {found['line_number']}: {found['issue_text']}"
        finding = Finding(found["test_id"], path, text)
        report.add(finding, planted=(ROOT / path).parent == HERE / "planted")
    return report


def detect_secrets(_: Inputs) -> Report:
    """Look for secrets in every file that is, or could be, committed."""
    listed = _run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    files = [name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    planted = WORK / "planted.txt"
    planted.write_text(f"aws_access_key_id = AKIA{'QWERTYUIOPASDFGH'}\n")  # not whole in here
    said = _run(
        PROGRAMS / "detect-secrets", "scan", "--no-verify", *files, planted.relative_to(ROOT)
    )
    report = Report(f"{len(files)} files")
    for path, found in _json(said)["results"].items():
        lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
        for one in found:
            number = one["line_number"]
            finding = Finding(one["type"], path, f"line {number}", lines[number - 1])
            report.add(finding, planted=ROOT / path == planted)
    return report


def semgrep(_: Inputs) -> Report:
    """Search the product for the faults of semgrep.yml, and samples.py for all that they must find.

    A rule that misses its sample, finds one that it must let pass, or has none of either kind is a
    finding itself.
    """
    said = _run(
        PROGRAMS / "semgrep",
        *("scan", "--metrics=off", "--disable-version-check", "--quiet", "--json"),
        *("--config", RULES, *PRODUCT, SAMPLES.relative_to(ROOT)),
    )
    answer = _json(said)
    if answer["errors"]:
        raise GateBrokenError(f"unreadable: {answer['errors']}")
    scanned = {ROOT / path for path in answer["paths"]["scanned"]}
    unseen = {path for part in PRODUCT for path in (ROOT / part).rglob("*.py")} - scanned
    if unseen:
        raise GateBrokenError(f"passed over: {', '.join(sorted(path.name for path in unseen))}")
    files = len(scanned) - 1
    report = Report("")
    in_samples = set()
    for found in answer["results"]:
        rule, line = found["check_id"].rpartition(".")[2], found["start"]["line"]
        text = f"line {line}: {found['extra']['message']}"
        is_sample = ROOT / found["path"] == SAMPLES
        report.add(Finding(rule, found["path"], text), planted=is_sample)
        if is_sample:
            in_samples.add((rule, line))
    lines = SAMPLES.read_text(encoding="utf-8").splitlines()
    wanted, spared = set(_marked("ruleid", lines)), set(_marked("ok", lines))
    rules = {rule["id"] for rule in yaml.safe_load(RULES.read_text(encoding="utf-8"))["rules"]}
    name = str(SAMPLES.relative_to(ROOT))
    for complaint, places in (
        ("does not find", wanted - in_samples),
        ("finds what it must not", in_samples - wanted),
        ("has no sample to find", {(rule, 0) for rule in rules - {rule for rule, _ in wanted}}),
        ("has no sample to let pass", {(rule, 0) for rule in rules - {rule for rule, _ in spared}}),
    ):
        report.findings += [
            Finding(rule, name, f"line {line}: {complaint}") for rule, line in places
        ]
    report.looked_at = f"{len(rules)} rules of our own, {len(wanted)} planted, {files} files"
    return report


def _marked(mark: str, lines: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Give the rules and the lines that `# ruleid: a, b` or `# ok: a` stand above."""
    for number, line in enumerate(lines, start=1):
        if found := re.fullmatch(rf"\s*# {mark}: (.+)", line):
            yield from ((rule.strip(), number + 1) for rule in found[1].split(","))


# ----------------------------------------------------------------------------------------- contract


def spectral(_: Inputs) -> Report:
    """Lint the OpenAPI document by OWASP's rules, and AsyncAPI's by its official schema."""
    documents = _documents(OPENAPI, PLANTED_OPENAPI, ASYNCAPI, PLANTED_ASYNCAPI)
    ruleset = WORK / "spectral.yaml"  # where it finds what it extends
    shutil.copy(HERE / "spectral.yaml", ruleset)
    said = _run(
        NODE_MODULES / ".bin" / "spectral",
        *("lint", "--quiet", "--format", "json", "--ruleset", ruleset, *documents),
    )
    report = Report(" and ".join(each.relative_to(ROOT).as_posix() for each in (OPENAPI, ASYNCAPI)))
    for found in _json(said):
        subject = "/".join(map(str, found["path"]))
        finding = Finding(str(found["code"]), subject, found["message"])
        report.add(finding, planted=Path(found["source"]).parent == PLANTED_OPENAPI.parent)
    return report


def redocly(_: Inputs) -> Report:
    """Lint the OpenAPI document as strictly as Redocly recommends.

    Not AsyncAPI's: the events' schemas are of JSON Schema 2020-12, whose `$defs` it does not know.
    """
    documents = _documents(OPENAPI, PLANTED_OPENAPI)
    said = _run(
        NODE_MODULES / ".bin" / "redocly",
        *("lint", "--extends", "recommended-strict", "--format", "json"),
        *("--max-problems", "1000", *documents),
    )
    report = Report(OPENAPI.relative_to(ROOT).as_posix())
    answers = _each_json(said)
    if len(answers) != len(documents):
        raise GateBrokenError(f"{len(answers)} answers about {len(documents)} documents")
    for answer in answers:
        for found in answer["problems"]:
            place = found["location"][0]
            finding = Finding(found["ruleId"], place["pointer"], found["message"])
            report.add(finding, planted=(ROOT / place["source"]["ref"]) == PLANTED_OPENAPI)
    return report


def _documents(*files: Path) -> tuple[Path, ...]:
    for file in files:
        if not file.is_file():
            raise GateBrokenError(f"{file.relative_to(ROOT)} is missing")
    return files


# -------------------------------------------------------------------------------------------- tools


def _run(*command: object) -> str:
    """Run a tool from the project's root; findings are no failure, whatever its exit code."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env=os.environ | ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if done.returncode and not done.stdout.strip():
        raise GateBrokenError(done.stderr.strip() or f"exit code {done.returncode}")
    return done.stdout


def _json(said: str) -> Any:  # noqa: ANN401 any JSON
    answers = _each_json(said)
    if len(answers) != 1:
        raise GateBrokenError(f"{len(answers)} answers instead of one")
    return answers[0]


def _each_json(said: str) -> list[Any]:
    """Read JSON values that follow each other, on lines of their own or not."""
    answers = []
    rest = said.strip()
    while rest:
        try:
            answer, end = json.JSONDecoder().raw_decode(rest)
        except ValueError:
            raise GateBrokenError(f"no JSON: {rest[:2000]}") from None
        answers.append(answer)
        rest = rest[end:].lstrip()
    return answers


GATES = (
    Gate("checkov", checkov, frozenset({"CKV_AWS_21", "CKV_AWS_173"})),
    Gate("cfn-lint", cfn_lint, frozenset({"WS1000", "W3037"})),
    Gate(
        "cdk-nag",
        cdk_nag,
        frozenset(
            {
                "AwsSolutions-S1",
                "HIPAA.Security-S3BucketVersioningEnabled",
                "Serverless-LambdaTracing",
            }
        ),
        needs_node=True,
    ),
    Gate(
        "control-tower",
        control_tower,
        frozenset({"s3_bucket_versioning_enabled_check"}),
        needs_node=True,
    ),
    Gate("parliament", parliament, frozenset({"UNKNOWN_ACTION", "RESOURCE_STAR"})),
    Gate("semgrep", semgrep, frozenset({"mac-compared-with-equals"})),
    Gate("bandit", bandit, frozenset({"B301", "B602"})),
    Gate("detect-secrets", detect_secrets, frozenset({"AWS Access Key"})),
    Gate(
        "spectral",
        spectral,
        frozenset(
            {
                "owasp:api8:2023-no-server-http",
                "asyncapi-3-document-resolved",
            }
        ),
        needs_node=True,
    ),
    Gate("redocly", redocly, frozenset({"operation-operationId"}), needs_node=True),
)
