"""template.yaml as rules look at it: each variant expanded and resolved once, and how to read it."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any

from tools.audit import transform

type Json = Any
type Rule = Callable[["Document"], Iterable[str]]

VARIANTS: Mapping[str, Mapping[str, str]] = {
    **transform.VARIANTS,
    "numbers": {
        "FetchConcurrency": "7",
        "LogRetentionDays": "400",
        "ReservedConcurrency": "3",
        "ResultRetentionDays": "17",
        "ScheduleClinicTime": "05:45",
        "ScheduleDays": "21",
        "ScheduleFromDay": "-7",
        "ScheduleSpreadMinutes": "30",
        "SnapshotRetentionDays": "99",
        "WebhookProvisionedConcurrency": "4",
    },
}
"""Those that are audited, and one in which nothing has its default's value by chance."""


@dataclass(frozen=True)
class Document:
    """One variant: its parameters' values, and what CloudFormation would be given."""

    values: Mapping[str, Json]
    parameters: dict[str, Json]
    resources: dict[str, Json]
    outputs: dict[str, Json]

    def of_type(self, *kinds: str) -> dict[str, Json]:
        """Give the properties of every resource of these types, by name."""
        return {
            name: resource.get("Properties", {})
            for name, resource in self.resources.items()
            if resource["Type"] in kinds
        }

    def policies(self) -> Iterator[tuple[str, dict[str, Json]]]:
        """Give each statement of what identities may do, with the name of its policy."""
        for name, policy in self.of_type("AWS::IAM::ManagedPolicy").items():
            for statement in policy["PolicyDocument"]["Statement"]:
                yield name, statement

    def role_of(self, function: str) -> str:
        """Name the role of a function."""
        return str(target(self.resources[function]["Properties"]["Role"]))

    def statements_of(self, role: str) -> list[dict[str, Json]]:
        """Give what a role may do by the policies of this stack."""
        attached = self.resources[role]["Properties"].get("ManagedPolicyArns", [])
        own = {target(policy) for policy in attached} & self.resources.keys()
        return [statement for name, statement in self.policies() if name in own]

    def copy(self) -> "Document":
        """Give one that may be spoilt."""
        return deepcopy(self)


@cache
def source() -> dict[str, Json]:
    """Read template.yaml as it is written, with the short forms written out."""
    return transform.parsed()


@cache
def document(variant: str) -> Document:
    """Give a variant; it is shared, so change only a `copy` of it."""
    overrides = VARIANTS[variant]
    resolved = transform.transformed(overrides, source())
    parameters = source()["Parameters"]
    defaults = {name: each["Default"] for name, each in parameters.items()}
    return Document(
        values={**defaults, **overrides},
        parameters=parameters,
        resources=resolved["Resources"],
        outputs=resolved["Outputs"],
    )


def listed(value: Json) -> list[Json]:
    """Give what may be one or several, as policies have it, as several."""
    return value if isinstance(value, list) else [value]


def target(value: Json) -> str | None:
    """Name the resource that a `Ref` or `Fn::GetAtt` leads to; None for anything else."""
    match value:
        case {"Ref": str(name)}:
            return name
        case {"Fn::GetAtt": [str(name), *_]}:
            return name
    return None


def dig(value: Json, *path: str | int) -> Json:
    """Follow a path; None where it ends early."""
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def text(value: Json) -> str:
    """Write a value out, to look for words in it."""
    return json.dumps(value, sort_keys=True)


RULES: dict[str, Rule] = {}
"""Every rule by its name: it gives the subjects that break it, which are resources or parts."""


def rule(function: Rule) -> Rule:
    """Make a function a rule."""
    assert function.__name__ not in RULES
    RULES[function.__name__] = function
    return function


def broken(of: Document) -> set[tuple[str, str]]:
    """Judge a document: each broken rule with its subject."""
    return {(name, subject) for name, judge in RULES.items() for subject in judge(of)}
