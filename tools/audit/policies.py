"""The policies of a resolved template with literal ARNs, as linters of policies want them."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

PSEUDO = {
    "AWS::Partition": "aws",
    "AWS::Region": "us-east-1",
    "AWS::AccountId": "123456789012",
    "AWS::StackName": "relay",
    "AWS::URLSuffix": "amazonaws.com",
}
HERE = "us-east-1:123456789012"
ARNS = {
    "AWS::CloudWatch::Alarm": f"arn:aws:cloudwatch:{HERE}:alarm:{{}}",
    "AWS::DynamoDB::Table": f"arn:aws:dynamodb:{HERE}:table/{{}}",
    "AWS::Events::EventBus": f"arn:aws:events:{HERE}:event-bus/{{}}",
    "AWS::Events::Rule": f"arn:aws:events:{HERE}:rule/{{}}",
    "AWS::IAM::ManagedPolicy": "arn:aws:iam::123456789012:policy/{}",
    "AWS::IAM::Role": "arn:aws:iam::123456789012:role/{}",
    "AWS::KMS::Key": f"arn:aws:kms:{HERE}:key/11111111-2222-3333-4444-555555555555",
    "AWS::Lambda::Alias": f"arn:aws:lambda:{HERE}:function:{{}}:live",
    "AWS::Lambda::Function": f"arn:aws:lambda:{HERE}:function:{{}}",
    "AWS::Logs::LogGroup": f"arn:aws:logs:{HERE}:log-group:{{}}:*",
    "AWS::S3::Bucket": "arn:aws:s3:::{}",
    "AWS::SNS::Topic": f"arn:aws:sns:{HERE}:{{}}",
    "AWS::SQS::Queue": f"arn:aws:sqs:{HERE}:{{}}",
    "AWS::SecretsManager::Secret": f"arn:aws:secretsmanager:{HERE}:secret:{{}}-AbCdEf",
}
REF_IS_AN_ARN = frozenset(
    {
        "AWS::IAM::ManagedPolicy",
        "AWS::Lambda::Alias",
        "AWS::SNS::Topic",
        "AWS::SecretsManager::Secret",
    }
)
VARIABLE = re.compile(r"\$\{([^}]+)\}")


def identity_policies(template: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Give what identities may do, by resource: managed policies, and a role's own ones."""
    literal = _Literal(template["Resources"])
    return {name: literal.of(policy) for name, policy in _policies(template["Resources"])}


def _policies(resources: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, resource in resources.items():
        properties = resource.get("Properties", {})
        if resource["Type"] in {"AWS::IAM::ManagedPolicy", "AWS::IAM::Policy"}:
            yield name, properties["PolicyDocument"]
        if resource["Type"] == "AWS::IAM::Role":
            for index, policy in enumerate(properties.get("Policies", [])):
                yield f"{name}-{index}", policy["PolicyDocument"]


class _Literal:
    """Writes a plausible value for everything that only a deployment would know."""

    def __init__(self, resources: Mapping[str, Any]) -> None:
        self.resources = resources

    def of(self, value: Any) -> Any:  # noqa: ANN401 any JSON
        match value:
            case {"Ref": name}:
                is_arn = self._type(name) in REF_IS_AN_ARN
                result: Any = PSEUDO.get(name) or (self._arn(name) if is_arn else name.lower())
            case {"Fn::GetAtt": [name, *_]}:
                result = self._arn(name)
            case {"Fn::Sub": [text, variables]}:
                result = self._substituted(text, variables)
            case {"Fn::Sub": text}:
                result = self._substituted(text, {})
            case {"Fn::Join": [separator, parts]}:
                result = separator.join(str(self.of(part)) for part in parts)
            case dict():
                result = {key: self.of(child) for key, child in value.items()}
            case list():
                result = [self.of(child) for child in value]
            case _:
                result = value
        return result

    def _type(self, name: str) -> str:
        return str(self.resources.get(name, {}).get("Type", ""))

    def _arn(self, name: str) -> str:
        return ARNS.get(self._type(name), "{}").format(name.lower())

    def _substituted(self, text: str, variables: Mapping[str, Any]) -> str:
        def literal(found: re.Match[str]) -> str:
            name = found[1]
            if name in variables:
                return str(self.of(variables[name]))
            if "." in name:
                return self._arn(name.partition(".")[0])
            return str(self.of({"Ref": name}))

        return VARIABLE.sub(literal, text)
