"""Sets over the API what MiniStack 1.5.33 drops from the template. AWS needs none of it.

Works from the processed template, so that the template stays the one place where things are said.
Every step may be repeated.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from tools.local.aws import ACCOUNT, REGION, Aws

type Properties = dict[str, Any]

ARNS = {
    "AWS::KMS::Key": f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{{}}",
    "AWS::S3::Bucket": "arn:aws:s3:::{}",
}


@dataclass(frozen=True)
class DeployedStack:
    """A stack's processed resources, with their physical ids and the values of its parameters."""

    resources: Mapping[str, Properties]
    ids: Mapping[str, str]
    parameters: Mapping[str, str]

    @classmethod
    def read(cls, aws: Aws, stack_name: str) -> "DeployedStack":
        """Ask CloudFormation."""
        cloudformation = aws.cloudformation
        body: Any = cloudformation.get_template(StackName=stack_name, TemplateStage="Processed")[
            "TemplateBody"
        ]
        resources = cloudformation.describe_stack_resources(StackName=stack_name)["StackResources"]
        stack = cloudformation.describe_stacks(StackName=stack_name)["Stacks"][0]
        return cls(
            resources=(body if isinstance(body, dict) else json.loads(body))["Resources"],
            ids={each["LogicalResourceId"]: each["PhysicalResourceId"] for each in resources},
            parameters={
                each["ParameterKey"]: each["ParameterValue"] for each in stack.get("Parameters", [])
            },
        )

    def of_type(self, resource_type: str) -> list[tuple[str, Properties]]:
        """Give the physical id and the properties of every deployed resource of a type."""
        return [
            (self.ids[name], resource.get("Properties", {}))
            for name, resource in self.resources.items()
            if resource["Type"] == resource_type and name in self.ids
        ]

    def value(self, value: Any) -> Any:  # noqa: ANN401 - anything a template can say
        """Resolve a `Ref`, and the ARN of a key or a bucket; anything else stays as it is."""
        match value:
            case {"Ref": name}:
                return self.parameters.get(name) or self.ids.get(name, value)
            case {"Fn::GetAtt": [name, "Arn"]} if self.resources[name]["Type"] in ARNS:
                return ARNS[self.resources[name]["Type"]].format(self.ids[name])
        return value


def apply(aws: Aws, stack_name: str) -> None:
    """Set everything that was dropped."""
    stack = DeployedStack.read(aws, stack_name)
    for table, properties in stack.of_type("AWS::DynamoDB::Table"):
        _table(aws, table, properties, stack)
    for bucket, properties in stack.of_type("AWS::S3::Bucket"):
        _bucket(aws, bucket, properties, stack)
    for topic, properties in stack.of_type("AWS::SNS::Topic"):
        aws.client("sns").set_topic_attributes(
            TopicArn=topic,
            AttributeName="KmsMasterKeyId",
            AttributeValue=stack.value(properties["KmsMasterKeyId"]),
        )
    for function, properties in stack.of_type("AWS::Lambda::Function"):
        aws.functions.update_function_configuration(
            FunctionName=function, KMSKeyArn=stack.value(properties["KmsKeyArn"])
        )
    for _, properties in stack.of_type("AWS::Lambda::Alias"):
        # Not dropped; but here the functions are told where Cobalt is after the deployment, and no
        # version learns of that.
        aws.functions.update_alias(
            FunctionName=stack.value(properties["FunctionName"]),
            Name=properties["Name"],
            FunctionVersion="$LATEST",
        )
    for api, properties in stack.of_type("AWS::ApiGateway::RestApi"):
        _gateway_responses(aws, api, properties)


def _table(aws: Aws, table: str, properties: Properties, stack: DeployedStack) -> None:
    lifetime = properties.get("TimeToLiveSpecification")
    if lifetime:
        try:
            aws.dynamodb.update_time_to_live(
                TableName=table,
                TimeToLiveSpecification={
                    "AttributeName": lifetime["AttributeName"],
                    "Enabled": bool(lifetime["Enabled"]),
                },
            )
        except ClientError as error:
            if error.response["Error"]["Code"] != "ValidationException":  # it is on already
                raise
    recovery = properties.get("PointInTimeRecoverySpecification")
    if recovery:
        aws.dynamodb.update_continuous_backups(
            TableName=table,
            PointInTimeRecoverySpecification={
                "PointInTimeRecoveryEnabled": bool(recovery["PointInTimeRecoveryEnabled"])
            },
        )
    encryption = properties.get("SSESpecification")
    if encryption:
        aws.dynamodb.update_table(
            TableName=table,
            SSESpecification={
                "Enabled": bool(encryption["SSEEnabled"]),
                "SSEType": encryption["SSEType"],
                "KMSMasterKeyId": stack.value(encryption["KMSMasterKeyId"]),
            },
        )


def _bucket(aws: Aws, bucket: str, properties: Properties, stack: DeployedStack) -> None:
    encryption = properties.get("BucketEncryption")
    if encryption:
        rules: list[Any] = [
            {
                "ApplyServerSideEncryptionByDefault": {
                    name: stack.value(value)
                    for name, value in rule["ServerSideEncryptionByDefault"].items()
                },
                "BucketKeyEnabled": bool(rule.get("BucketKeyEnabled")),
            }
            for rule in encryption["ServerSideEncryptionConfiguration"]
        ]
        aws.s3.put_bucket_encryption(
            Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": rules}
        )
    logging = properties.get("LoggingConfiguration")
    if logging:
        aws.s3.put_bucket_logging(
            Bucket=bucket,
            BucketLoggingStatus={
                "LoggingEnabled": {
                    "TargetBucket": stack.value(logging["DestinationBucketName"]),
                    "TargetPrefix": logging["LogFilePrefix"],
                }
            },
        )
    lifecycle = properties.get("LifecycleConfiguration")
    if lifecycle:
        lifecycle_rules: list[Any] = [lifecycle_rule(rule, stack) for rule in lifecycle["Rules"]]
        aws.s3.put_bucket_lifecycle_configuration(
            Bucket=bucket, LifecycleConfiguration={"Rules": lifecycle_rules}
        )


def lifecycle_rule(rule: Properties, stack: DeployedStack) -> Properties:
    """Turn CloudFormation's words for a lifecycle rule into those of S3's API."""
    turned: Properties = {
        "ID": rule["Id"],
        "Status": rule["Status"],
        "Filter": {"Prefix": rule.get("Prefix", "")},
    }
    if "ExpirationInDays" in rule:
        turned["Expiration"] = {"Days": int(stack.value(rule["ExpirationInDays"]))}
    if rule.get("ExpiredObjectDeleteMarker"):
        turned["Expiration"] = {"ExpiredObjectDeleteMarker": True}
    if "NoncurrentVersionExpiration" in rule:
        days = stack.value(rule["NoncurrentVersionExpiration"]["NoncurrentDays"])
        turned["NoncurrentVersionExpiration"] = {"NoncurrentDays": int(days)}
    if "AbortIncompleteMultipartUpload" in rule:
        days = stack.value(rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"])
        turned["AbortIncompleteMultipartUpload"] = {"DaysAfterInitiation": int(days)}
    return turned


def _gateway_responses(aws: Aws, api: str, properties: Properties) -> None:
    said = (properties.get("Body") or {}).get("x-amazon-apigateway-gateway-responses") or {}
    for response_type, response in said.items():
        options: dict[str, Any] = {
            "responseParameters": response.get("responseParameters") or {},
            "responseTemplates": response.get("responseTemplates") or {},
        }
        if response.get("statusCode"):
            options["statusCode"] = str(response["statusCode"])
        aws.apigateway.put_gateway_response(restApiId=api, responseType=response_type, **options)
    for stage in aws.apigateway.get_stages(restApiId=api)["item"]:
        aws.apigateway.create_deployment(restApiId=api, stageName=stage["stageName"])
