"""Leaves out of the installed packages what the functions can never use; see Makefile.

    python3 trim.py <folder of the packages>

What is left out is listed here, each with its reason, and nothing else is touched. Of the models of
AWS's services the operations stay that the relay calls; a test holds that list against the code,
and another what is left against the whole. Then the modules are compiled, without their docstrings,
and take the place of their sources: they are loaded faster, and two architectures fit into the
layer. Any Python 3 runs this; one that is not Lambda's own version cannot compile for it, and
leaves the sources.
"""

import ast
import gzip
import importlib.util
import json
import marshal
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Json = Any

RUNTIME = (3, 13)

OPERATIONS = {
    "dynamodb": ("BatchGetItem", "Query", "TransactWriteItems"),
    "events": ("PutEvents",),
    "s3": ("GetObject", "ListObjectsV2", "PutObject"),
    "secretsmanager": (
        "DescribeSecret",
        "GetSecretValue",
        "PutSecretValue",
        "UpdateSecretVersionStage",
    ),
    "sqs": ("ChangeMessageVisibility", "SendMessageBatch"),
    "ssm": ("DeleteParameter", "GetParameter", "PutParameter"),
}
"""What the adapters call. A client of another service fails with UnknownServiceError, one of these
has no method for another operation."""

LEFT_OUT = {
    "*.dist-info/RECORD": "what pip needs to uninstall",
    "*.dist-info/sboms": "what a wheel was built from",
    "**/*.pyi": "for type checkers",
    "annotated_types/test_cases.py": "tests",
    "aws_lambda_powertools/event_handler/graphql_appsync": "no such event comes",
    "aws_lambda_powertools/event_handler/middlewares/*_validation.py": "bodies are read by models",
    "aws_lambda_powertools/event_handler/openapi/[dps]*.py": "the contract is written by hand",
    "aws_lambda_powertools/event_handler/openapi/compat.py": "the contract is written by hand",
    "aws_lambda_powertools/event_handler/openapi/encoders.py": "the contract is written by hand",
    "aws_lambda_powertools/event_handler/openapi/models.py": "the contract is written by hand",
    "aws_lambda_powertools/event_handler/openapi/swagger_ui": "a page that no route shows",
    "aws_lambda_powertools/logging/formatters/datadog.py": "logs go to CloudWatch",
    "aws_lambda_powertools/metrics/provider/datadog": "metrics go to CloudWatch",
    "aws_lambda_powertools/utilities/auth_alpha": "not used",
    "aws_lambda_powertools/utilities/batch": "not used",
    "aws_lambda_powertools/utilities/circuit_breaker": "not used",
    "aws_lambda_powertools/utilities/data_classes/*_authorizer_event.py": "no such event comes",
    "aws_lambda_powertools/utilities/data_classes/*_mq_event.py": "no such event comes",
    "aws_lambda_powertools/utilities/data_classes/appsync": "no such event comes",
    "aws_lambda_powertools/utilities/data_classes/cognito_*.py": "no such event comes",
    "aws_lambda_powertools/utilities/data_classes/iot_*.py": "no such event comes",
    "aws_lambda_powertools/utilities/data_classes/s3_object_event.py": "no such event comes",
    "aws_lambda_powertools/utilities/data_masking": "not used",
    "aws_lambda_powertools/utilities/feature_flags": "not used",
    "aws_lambda_powertools/utilities/idempotency": "not used",
    "aws_lambda_powertools/utilities/kafka": "not used",
    "aws_lambda_powertools/utilities/parameters": "not used",
    "aws_lambda_powertools/utilities/parser": "not used",
    "aws_lambda_powertools/utilities/streaming": "not used",
    "aws_lambda_powertools/utilities/validation": "not used",
    "bin": "commands",
    "boto3/data": "resources: the functions make clients",
    "boto3/examples": "documentation",
    "botocore/cacert.pem": "certifi's certificates come first",
    "botocore/data/*/*/examples-1.json": "documentation",
    "botocore/data/*/*/paginators-1*.json": "pages are asked for by hand",
    "botocore/data/*/*/waiters-2.json": "nothing is waited for",
    "charset_normalizer/*.so": "as below",
    "charset_normalizer/[!_v]*.py": "as below",
    "charset_normalizer/__main__.py": "commands",
    "charset_normalizer/cli": "commands",
    "certifi/tests": "tests",
    "dateutil/rrule.py": "not used",
    "dateutil/tz/win.py": "for Windows",
    "dateutil/zoneinfo": "zones come from zoneinfo and tzdata",
    "idna/cli.py": "commands",
    "pydantic/color.py": "not used",
    "pydantic/experimental": "not used",
    "pydantic/mypy.py": "for type checkers",
    "pydantic/v1": "the former edition",
    "s3transfer/processpool.py": "not used",
    "tzdata/zoneinfo/*.tab": "lists for people; zones are read from the files named for them",
    "tzdata/zoneinfo/leapseconds": "not read",
    "tzdata/zoneinfo/tzdata.zi": "all zones once more, as text",
    "urllib3/contrib/emscripten": "for browsers",
    "urllib3/contrib/pyopenssl.py": "needs a package that is not there",
    "urllib3/contrib/socks.py": "needs a package that is not there",
}

IMPORTS_KEPT = {
    "aws_lambda_powertools/event_handler": ("api_gateway", "depends", "request"),
    "aws_lambda_powertools/utilities/data_classes": (
        "alb_event",
        "api_gateway_proxy_event",
        "bedrock_agent_event",
        "event_bridge_event",
        "event_source",
        "lambda_function_url_event",
        "s3_event",
        "sns_event",
        "sqs_event",
        "vpc_lattice",
    ),
    "charset_normalizer": ("version",),
}
"""Packages that load more than is used: what of that these functions need, or what they need
imports. Powertools loads a module for every kind of event there is. Requests wants to see that
there is something to guess encodings with, and Cobalt's answers are read as bytes. The other
modules are left out, and with them the lines that load them."""

_WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def main() -> None:
    """Trim a folder of installed packages."""
    packages = Path(sys.argv[1])
    for package, kept in IMPORTS_KEPT.items():
        trim_imports(packages / package, kept)
    for pattern in LEFT_OUT:
        for path in list(packages.glob(pattern)):
            _remove(path)
    for path in packages.glob("*.dist-info/METADATA"):
        leave_out_description(path)
    data = packages / "botocore" / "data"
    for folder in [each for each in data.iterdir() if each.is_dir()]:
        if folder.name in OPERATIONS:
            trim_service(folder)
        else:
            shutil.rmtree(folder)
    trim_endpoints(data / "endpoints.json")
    if sys.version_info[:2] == RUNTIME:
        for path in sorted(packages.rglob("*.py")):
            compile_in_place(path, f"/opt/python/{path.relative_to(packages)}")


def leave_out_description(path: Path) -> None:
    """Keep the head of a package's metadata, which tools read; its readme follows a blank line."""
    head, _, _ = path.read_bytes().partition(b"\n\n")
    path.write_bytes(head + b"\n")


def trim_imports(package: Path, kept: tuple[str, ...]) -> None:
    """Leave out what a package imports of its own modules, but for some; and those modules."""
    path = package / "__init__.py"
    tree, names = ast.parse(path.read_bytes()), set[str]()
    for line in [each for each in tree.body if isinstance(each, ast.ImportFrom)]:
        inside = (line.module or "").rpartition(f"{package.name}.")[2].partition(".")[0]
        module = next((each for each in package.glob(f"{inside}*") if each.stem == inside), None)
        if module is None or inside in kept:
            continue
        tree.body.remove(line)
        names |= {alias.asname or alias.name for alias in line.names}
        _remove(module)
    for each in tree.body:
        if isinstance(each, ast.Assign) and isinstance(
            each.value, ast.List | ast.Tuple
        ):  # it is __all__
            told = [name for name in each.value.elts if isinstance(name, ast.Constant)]
            each.value.elts = [name for name in told if name.value not in names]
    path.write_text(ast.unparse(tree), encoding="utf-8")


def trim_service(folder: Path) -> None:
    """Keep the newest version of a service's model, and of that what its operations need."""
    *former, newest = sorted(folder.iterdir())
    for version in former:
        shutil.rmtree(version)
    for packed in list(newest.glob("*.json.gz")):
        document = json.loads(gzip.decompress(packed.read_bytes()))
        if packed.name == "service-2.json.gz":
            document = of_operations(document, OPERATIONS[folder.name])
        _write(packed.with_suffix(""), document)  # unpacking takes longer than reading
        packed.unlink()


def of_operations(model: Json, names: tuple[str, ...]) -> Json:
    """Give a service's model with these operations, and the shapes that they reach."""
    operations = {name: model["operations"][name] for name in names}
    wanted, reached = list(_shapes_in(operations)), set[str]()
    while wanted:
        name = wanted.pop()
        if name not in reached:
            reached.add(name)
            wanted += _shapes_in(model["shapes"][name])
    shapes = {name: shape for name, shape in model["shapes"].items() if name in reached}
    return _undocumented({**model, "operations": operations, "shapes": shapes})


def trim_endpoints(path: Path) -> None:
    """Keep of the list of endpoints those services, in every partition and region."""
    document = json.loads(path.read_bytes())
    for partition in document["partitions"]:
        services = partition["services"]
        partition["services"] = {name: services[name] for name in services if name in OPERATIONS}
    _write(path, document)


def compile_in_place(path: Path, name: str) -> None:
    """Put bytecode in the place of a module: not checked against its source, for there is none."""
    source = path.read_bytes()
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, _WITH_DOCSTRING) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.copy_location(ast.Pass(), node.body[0])]
    code = compile(tree, name, "exec", dont_inherit=True)
    header = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little")  # by hash, and unchecked
    content = header + importlib.util.source_hash(source) + marshal.dumps(code)
    path.with_suffix(".pyc").write_bytes(content)
    path.unlink()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _shapes_in(value: object) -> Iterator[str]:
    """Name the shapes to which a part of a model refers."""
    if isinstance(value, list):
        for each in value:
            yield from _shapes_in(each)
    elif isinstance(value, dict):
        if isinstance(value.get("shape"), str):
            yield value["shape"]
        for each in value.values():
            yield from _shapes_in(each)


def _undocumented(value: Json, *, names_are_keys: bool = False) -> Json:
    """Leave the documentation out; where names are keys, one of them may be called just so.

    botocore wants that of the parameters of a client.
    """
    if isinstance(value, list):
        return [_undocumented(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        key: each
        if key == "clientContextParams"
        else _undocumented(each, names_are_keys=key in {"members", "shapes", "operations"})
        for key, each in value.items()
        if names_are_keys or key not in {"documentation", "documentationUrl"}
    }


def _write(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, separators=(",", ":")), encoding="utf-8")


if __name__ == "__main__":
    main()
