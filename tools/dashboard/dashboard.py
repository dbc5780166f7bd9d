"""The dashboard as the template has it: its widgets, and the metrics that they show."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tools.audit import transform

type Json = dict[str, Any]

STACK = "stack"
"""In the place of the stack's name."""
_VARIABLE = re.compile(r"\$\{([\w:.]+)\}")


@dataclass(frozen=True)
class Shown:
    """A metric that a widget shows, and how."""

    namespace: str
    name: str
    dimensions: Json
    options: Json

    @property
    def label(self) -> str:
        """What the legend calls it."""
        return str(self.options.get("label", self.name))


def widgets() -> list[Json]:
    """Give the widgets, with logical ids in the place of names."""
    properties = transform.parsed()["Resources"]["Dashboard"]["Properties"]
    text = properties["DashboardBody"]["Fn::Sub"]
    names = {"AWS::StackName": STACK, "AWS::Region": "us-east-1"}
    resolved = _VARIABLE.sub(lambda m: names.get(m[1], m[1].partition(".")[0]), text)
    found: list[Json] = json.loads(resolved)["widgets"]
    return found


def metrics_of(widget: Json) -> Iterator[Shown]:
    """Give the metrics of a widget; of an expression those that it is made of."""
    for entry in widget["properties"].get("metrics", ()):
        if isinstance(entry[0], dict):
            continue
        *path, options = entry if isinstance(entry[-1], dict) else [*entry, {}]
        namespace, name, *pairs = path
        yield Shown(namespace, name, dict(zip(pairs[::2], pairs[1::2], strict=True)), options)


def expressions_of(widget: Json) -> list[Json]:
    """Give the expressions of a widget."""
    entries = widget["properties"].get("metrics", ())
    return [entry[0] for entry in entries if isinstance(entry[0], dict)]
