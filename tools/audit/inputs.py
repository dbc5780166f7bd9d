"""The template in every form that a gate reads."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.audit.findings import Allowance, in_metadata
from tools.audit.paths import HERE, WORK
from tools.audit.transform import VARIANTS, parsed, transformed

PLANTED = "planted"


class Inputs:
    """The source, its resolved variants, and beside them a template of faults, below `WORK`.

    The files carry no metadata: the gates report everything, and what the metadata allows is
    matched here. So an allowance that nothing needs any longer does not go unseen.
    """

    def __init__(self) -> None:
        shutil.rmtree(WORK, ignore_errors=True)
        WORK.mkdir(parents=True)
        self.source = parsed()
        planted = (HERE / "planted" / "template.yaml").read_text(encoding="utf-8")
        self.variants = {name: transformed(values) for name, values in VARIANTS.items()}
        self.variants[PLANTED] = transformed(template=planted)
        self.files = {name: WORK / f"{name}.json" for name in self.variants}
        for name, variant in self.variants.items():
            _write(self.files[name], variant)
        self.source_file = WORK / "source.json"
        _write(self.source_file, self.source)

    @property
    def resources(self) -> str:
        """How many resources there are to look at, by variant."""
        return ", ".join(
            f"{len(variant['Resources'])} resources ({name})"
            for name, variant in self.variants.items()
            if name != PLANTED
        )

    def allowed_to(self, tool: str) -> list[Allowance]:
        """Collect what the template's metadata allows checkov or cfn-lint."""
        return [
            Allowance(rule, self._subjects(name, resource), reason)
            for name, resource in self.source["Resources"].items()
            for rule, reason in in_metadata(tool, resource)
        ]

    def _subjects(self, name: str, resource: Mapping[str, Any]) -> str:
        """Name a resource, or what SAM makes of an API, which has no metadata of its own."""
        if resource["Type"] != "AWS::Serverless::Api":
            return name
        return f"{name}|{name}{resource['Properties']['StageName']}Stage"


def _write(path: Path, template: Mapping[str, Any]) -> None:
    bare = {
        name: {key: part for key, part in resource.items() if key != "Metadata"}
        for name, resource in template["Resources"].items()
    }
    path.write_text(json.dumps({**template, "Resources": bare}, indent=1), encoding="utf-8")
