"""What a gate found, what was allowed beforehand, and what is left over on either side."""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

REGISTER = Path(__file__).with_name("allowances.toml")


@dataclass(frozen=True)
class Finding:
    """One rule broken in one place.

    ``subject`` is a resource of the template, a file, or a place in a document; ``line`` is what
    the file says there, which is never shown: it may be a secret.
    """

    rule: str
    subject: str
    text: str = ""
    line: str = ""

    def __str__(self) -> str:
        return f"{self.rule}  {self.subject}  {self.text}".rstrip()


@dataclass(frozen=True)
class Allowance:
    """A rule that a subject may break, for a reason.

    ``subject`` is a shell pattern, or several with ``|`` between them. ``line`` is a regular
    expression: what a line must look like for the allowance to count.
    """

    rule: str
    subject: str
    reason: str
    line: str = ""

    def covers(self, finding: Finding) -> bool:
        """Whether this is what was allowed."""
        return (
            finding.rule == self.rule
            and any(fnmatchcase(finding.subject, one) for one in self.subject.split("|"))
            and re.search(self.line, finding.line) is not None
        )

    def __str__(self) -> str:
        return f"{self.rule}  {self.subject}  {self.line}".rstrip()


@dataclass(frozen=True)
class Verdict:
    """What is left when the allowances are taken off the findings."""

    open: tuple[Finding, ...]
    unused: tuple[Allowance, ...]
    allowed: int


def judge(findings: Iterable[Finding], allowances: Iterable[Allowance]) -> Verdict:
    """Match both; an allowance that nothing needs any longer is as bad as a finding."""
    found = set(findings)
    granted = set(allowances)
    covered = {finding for finding in found if any(one.covers(finding) for one in granted)}
    unused = {one for one in granted if not any(map(one.covers, found))}
    return Verdict(
        tuple(sorted(found - covered, key=str)),
        tuple(sorted(unused, key=str)),
        len(covered),
    )


def registered(path: Path = REGISTER) -> dict[str, list[Allowance]]:
    """Read the register: the allowances of each gate; an entry without a reason is an error."""
    allowances: dict[str, list[Allowance]] = {}
    for gate, entries in tomllib.loads(path.read_text(encoding="utf-8")).items():
        for entry in entries:
            unknown = entry.keys() - {"rules", "subjects", "reason", "line"}
            if unknown or not entry["reason"].strip():
                raise ValueError(f"{path.name}: {gate}: an entry is malformed: {entry}")
            allowances.setdefault(gate, []).extend(
                Allowance(rule, subject, entry["reason"], entry.get("line", ""))
                for rule in entry["rules"]
                for subject in entry["subjects"]
            )
    return allowances


def in_metadata(tool: str, resource: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Give the rules, and the reasons, that a resource's metadata allows checkov or cfn-lint."""
    metadata = resource.get("Metadata", {})
    if tool == "checkov":
        for skip in metadata.get("checkov", {}).get("skip", []):
            yield skip["id"], skip["comment"]
    else:
        for rule in metadata.get("cfn-lint", {}).get("config", {}).get("ignore_checks", []):
            yield rule, "the comment beside it"
