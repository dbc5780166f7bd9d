"""template.yaml as CloudFormation receives it: SAM expanded, parameters and conditions resolved.

The rule sets do not evaluate ``Ref`` and ``Fn::If``: Guard fails a retention that is a parameter,
checkov passes a property whatever the condition before it. So each variant is resolved first.
``python -m tools.audit.transform Name=value ...`` prints one. Nothing here needs AWS or a network.
"""

import json
import logging
import re
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import boto3
from samtranslator.yaml_helper import yaml_parse

from tools.local.aws import REGION
from tools.local.paths import ROOT

TEMPLATE = ROOT / "template.yaml"

VARIANTS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "defaults": {},
        "everything": {
            "DomainName": "relay.example.com",
            "DomainCertificateArn": "arn:aws:acm:us-east-1:123456789012:certificate/1-2",
            "EnableWaf": "true",
            "RequireApiKey": "true",
            "ReservedConcurrency": "50",
            "SnapStart": "true",
            "WebhookSecretRotationDays": "30",
        },
        "guest": {
            "AlarmTopicArn": "arn:aws:sns:us-east-1:123456789012:alarms",
            "ManageApiGatewayAccount": "false",
        },
    }
)
"""What is judged: the template as it comes; with every optional feature; with nothing of its own
that the account may have already."""

NO_VALUE = object()
PARAMETER = re.compile(r"\$\{(\w+)\}")


def parsed(text: str | None = None) -> dict[str, Any]:
    """Read a SAM template (template.yaml) with the short forms written out and no shared parts."""
    source = TEMPLATE.read_text(encoding="utf-8") if text is None else text
    # Through JSON, for a YAML anchor is one object in several places, and SAM writes into it.
    template: dict[str, Any] = json.loads(json.dumps(yaml_parse(source), default=str))
    return template


def transformed(
    parameters: Mapping[str, str] = MappingProxyType({}),
    template: str | Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Expand and resolve a template, given as text or as `parsed` gives it; template.yaml if none.

    A parameter that the template does not have, that lacks a value, or whose value the template
    does not allow is a ValueError: a variant must not judge something else than it says.
    """
    if template is None or isinstance(template, str):
        source = parsed(template)
    else:
        source = json.loads(json.dumps(template))
    values = _parameters(source.get("Parameters", {}), parameters)
    expanded = _expanded(source, parameters)
    resolve = _Resolver(values, expanded.get("Conditions", {}))
    resources = _present(expanded["Resources"], resolve)
    outputs = _present(expanded.get("Outputs", {}), resolve)
    for resource in resources.values():
        _drop_absent_dependencies(resource, resources)
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Resources": resources,
        **({"Outputs": outputs} if outputs else {}),
    }


def _expanded(source: dict[str, Any], parameters: Mapping[str, str]) -> dict[str, Any]:
    """Run SAM's own translator, which carries the list of AWS's managed policies with it.

    It is imported here: it needs all of pydantic, and who only parses may have the trimmed one.
    """
    # ruff: noqa: PLC0415
    from samtranslator.internal.managed_policies import get_bundled_managed_policy_map
    from samtranslator.parser.parser import Parser
    from samtranslator.translator.translator import Translator

    for resource in source["Resources"].values():
        for name in ("CodeUri", "ContentUri"):
            uri = resource.get("Properties", {}).get(name)
            if isinstance(uri, str) and not uri.startswith("s3://"):
                resource["Properties"][name] = f"s3://bucket/{uri}"  # what `sam package` writes
    apis = {
        name: resource["Metadata"]
        for name, resource in source["Resources"].items()
        if resource["Type"] == "AWS::Serverless::Api" and "Metadata" in resource
    }
    logging.getLogger("samtranslator").setLevel(logging.ERROR)
    translator = Translator(None, Parser(), boto_session=boto3.Session(region_name=REGION))
    expanded: dict[str, Any] = translator.translate(
        source,
        parameter_values=dict(parameters),
        get_managed_policy_map=lambda: get_bundled_managed_policy_map("aws") or {},
    )
    for resource in expanded["Resources"].values():
        if resource["Type"] == "AWS::ApiGateway::Stage":
            # SAM leaves an API's metadata, our suppressions among it, on the RestApi alone.
            api = resource["Properties"]["RestApiId"].get("Ref")
            if api in apis:
                resource["Metadata"] = apis[api]
    return json.loads(json.dumps(expanded))  # type: ignore[no-any-return]


def _parameters(declared: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, Any]:
    unknown = given.keys() - declared.keys()
    if unknown:
        raise ValueError(f"the template has no parameter {', '.join(sorted(unknown))}")
    values: dict[str, Any] = {}
    for name, declaration in declared.items():
        text = given.get(name, declaration.get("Default"))
        if text is None:
            raise ValueError(f"parameter {name} has no default and no value")
        allowed = [str(value) for value in declaration.get("AllowedValues", [text])]
        pattern = declaration.get("AllowedPattern", "(?s:.*)")
        if str(text) not in allowed or not re.fullmatch(pattern, str(text)):
            raise ValueError(f"parameter {name} does not allow {text}")
        match declaration["Type"]:
            case "Number":
                values[name] = float(text) if "." in str(text) else int(text)
            case "CommaDelimitedList":
                values[name] = [part.strip() for part in str(text).split(",")]
            case kind if kind.startswith("List<"):
                values[name] = [part.strip() for part in str(text).split(",")]
            case _:
                values[name] = str(text)
    return values


class _Resolver:
    """Puts values for what is known before a deployment; the rest stays as it was written."""

    def __init__(self, parameters: Mapping[str, Any], conditions: Mapping[str, Any]) -> None:
        self.parameters = parameters
        self.conditions = conditions

    def holds(self, condition: str | Mapping[str, Any]) -> bool:
        """Evaluate a condition, or its name."""
        if isinstance(condition, str):
            return self.holds(self.conditions[condition])
        ((function, of),) = condition.items()
        match function:
            case "Condition":
                return self.holds(of)
            case "Fn::Equals":
                return str(self.value(of[0])) == str(self.value(of[1]))
            case "Fn::Not":
                return not self.holds(of[0])
            case "Fn::And":
                return all(map(self.holds, of))
            case "Fn::Or":
                return any(map(self.holds, of))
            case _:
                raise ValueError(f"{function} in a condition")

    def value(self, of: Any) -> Any:  # noqa: ANN401 any JSON
        """Resolve a value; NO_VALUE where the template says that there is none."""
        if isinstance(of, list):
            return [child for child in map(self.value, of) if child is not NO_VALUE]
        if not isinstance(of, dict):
            return of
        return self._intrinsic(of) if len(of) == 1 else self._mapping(of)

    def _intrinsic(self, of: dict[str, Any]) -> Any:  # noqa: ANN401 any JSON
        match of:
            case {"Ref": "AWS::NoValue"}:
                result: Any = NO_VALUE
            case {"Ref": name} if name in self.parameters:
                result = self.parameters[name]
            case {"Fn::If": [condition, yes, no]}:
                result = self.value(yes if self.holds(condition) else no)
            case {"Fn::Join": [separator, parts]}:
                result = self._joined(separator, self.value(parts))
            case {"Fn::Sub": text}:
                result = self._substituted(text)
            case _:
                result = self._mapping(of)
        return result

    def _mapping(self, of: dict[str, Any]) -> dict[str, Any]:
        found = ((key, self.value(child)) for key, child in of.items())
        return {key: child for key, child in found if child is not NO_VALUE}

    def _joined(self, separator: str, parts: Any) -> Any:  # noqa: ANN401 any JSON
        if isinstance(parts, list) and all(isinstance(part, str | int) for part in parts):
            return separator.join(map(str, parts))
        return {"Fn::Join": [separator, parts]}

    def _substituted(self, text: str | list[Any]) -> Any:  # noqa: ANN401 any JSON
        if isinstance(text, list):
            return {"Fn::Sub": [text[0], self.value(text[1])]}
        result = PARAMETER.sub(
            lambda found: str(self.parameters.get(found[1], found[0])),
            text,
        )
        return {"Fn::Sub": result} if "${" in result else result


def _present(items: Mapping[str, Any], resolve: _Resolver) -> dict[str, Any]:
    """Resolve the resources or outputs whose condition holds."""
    return {
        name: {
            key: part if key == "Metadata" else resolve.value(part)
            for key, part in item.items()
            if key != "Condition"
        }
        for name, item in items.items()
        if "Condition" not in item or resolve.holds(item["Condition"])
    }


def _drop_absent_dependencies(resource: dict[str, Any], present: Mapping[str, Any]) -> None:
    """Do as CloudFormation does with DependsOn a resource whose condition does not hold."""
    named = resource.pop("DependsOn", [])
    kept = [name for name in ([named] if isinstance(named, str) else named) if name in present]
    if kept:
        resource["DependsOn"] = kept


if __name__ == "__main__":
    arguments = dict(argument.split("=", 1) for argument in sys.argv[1:])
    print(json.dumps(transformed(arguments), indent=1))
