"""What the dependency layer leaves out: nothing that is used, and nothing that changes a call."""

import ast
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import botocore
import pytest
from botocore import xform_name
from botocore.loaders import Loader
from botocore.model import ListShape, MapShape, ServiceModel, Shape, StructureShape
from botocore.regions import EndpointResolver

from tools.local.paths import ROOT

LAYER = ROOT / "layers" / "dependencies"
ADAPTERS = ROOT / "layers" / "relay" / "cobalt_relay" / "adapters"
DATA = Path(botocore.__file__).parent / "data"
NOT_CALLS = {"generate_presigned_url"}
"""Methods of clients that call nothing; what they sign is named in a text."""


def _trim() -> ModuleType:
    spec = spec_from_file_location("trim", LAYER / "trim.py")
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


trim = _trim()


def called() -> set[str]:
    """Name the methods of clients that the adapters call, and the operations that they sign."""
    text = "".join(path.read_text(encoding="utf-8") for path in ADAPTERS.glob("*.py"))
    signed = re.findall(r"generate_presigned_url\(\s*\"(\w+)\"", text)
    methods = re.findall(r"\b_?(?:client|ssm)\.(\w+)\(", text)
    references = re.findall(r"\b_client\.(\w+),", text)  # handed on, to be called there
    return {*signed, *methods, *references} - NOT_CALLS


def whole(service: str) -> dict[str, Any]:
    model: dict[str, Any] = Loader().load_service_model(service, "service-2")
    return model


@pytest.fixture(params=sorted(trim.OPERATIONS))
def service(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_layer_knows_just_the_operations_that_adapters_call() -> None:
    """Name a new one in `OPERATIONS` of layers/dependencies/trim.py, or it fails when deployed."""
    kept = [name for names in trim.OPERATIONS.values() for name in names]

    assert called() == {xform_name(name) for name in kept}


def test_operations_are_those_of_the_whole_model(service: str) -> None:
    names = trim.OPERATIONS[service]
    full, trimmed = (
        ServiceModel(whole(service)),
        ServiceModel(trim.of_operations(whole(service), names)),
    )

    assert sorted(trimmed.operation_names) == sorted(names)
    assert dict(trimmed.metadata) == dict(full.metadata)
    assert trimmed.client_context_parameters == full.client_context_parameters
    for name in names:
        ours, theirs = trimmed.operation_model(name), full.operation_model(name)
        assert operation(ours) == operation(theirs)
        for part in ("input_shape", "output_shape"):
            assert list(drawn(getattr(ours, part))) == list(drawn(getattr(theirs, part)))
        errors = zip(ours.error_shapes, theirs.error_shapes, strict=True)
        assert all(list(drawn(one)) == list(drawn(other)) for one, other in errors)


def operation(model: Any) -> dict[str, Any]:
    """All that botocore asks of an operation, but for its documentation and its shapes."""
    names = (
        *("http", "auth", "auth_type", "unsigned_payload", "idempotent_members", "endpoint"),
        *("static_context_parameters", "context_parameters", "operation_context_parameters"),
        *("http_checksum", "http_checksum_required", "request_compression", "deprecated"),
        *("has_event_stream_input", "has_event_stream_output", "has_streaming_output", "wire_name"),
    )
    return {name: getattr(model, name, None) for name in names}


def drawn(shape: Shape | None, above: tuple[str, ...] = ()) -> Iterator[tuple[object, ...]]:
    """Draw a shape with all that it holds, down to where it holds itself."""
    if shape is None:
        return
    facts = {**shape.serialization, **shape.metadata}
    yield (*above, shape.name, shape.type_name, json.dumps(facts, sort_keys=True, default=str))
    if shape.name in above:
        return
    inside: dict[str, Shape] = {}
    match shape:
        case StructureShape():
            inside = shape.members
        case ListShape():
            inside = {"member": shape.member}
        case MapShape():
            inside = {"key": shape.key, "value": shape.value}
    for name, member in inside.items():
        yield from drawn(member, (*above, shape.name, name))


def test_endpoints_are_those_of_the_whole_list(service: str, tmp_path: Path) -> None:
    path = tmp_path / "endpoints.json"
    path.write_bytes((DATA / "endpoints.json").read_bytes())
    trim.trim_endpoints(path)
    full, trimmed = (
        EndpointResolver(json.loads(each.read_bytes())) for each in (DATA / "endpoints.json", path)
    )

    regions = [
        region
        for partition in full.get_available_partitions()
        for region in (*full.get_available_endpoints(service, partition), "xx-new-1")
    ]
    assert {"us-east-1", "us-gov-west-1", "cn-north-1"} <= set(regions)
    for region, dual, fips in itertools.product(regions, (False, True), (False, True)):
        options: dict[str, Any] = {"use_dualstack_endpoint": dual, "use_fips_endpoint": fips}
        assert answer(trimmed, service, region, options) == answer(full, service, region, options)


def answer(resolver: EndpointResolver, service: str, region: str, options: dict[str, Any]) -> Any:
    try:
        return resolver.construct_endpoint(service, region, **options)
    except Exception as error:  # noqa: BLE001 - some variants do not exist: then for both
        return type(error)


def test_everything_that_is_left_out_was_there() -> None:
    """What no package has any more is no reason to go on listing it."""
    packages = Path(botocore.__file__).parents[1]
    stale = [pattern for pattern in trim.LEFT_OUT if not any(packages.glob(pattern))]

    assert set(stale) <= {"bin"}  # pip puts commands elsewhere in an environment


def test_module_without_its_source_is_the_same_but_for_docstrings(tmp_path: Path) -> None:
    source = '"""Doc."""\nfrom __future__ import annotations\n\n\nclass A:\n    """Doc."""\n\n\ndef f(x: int) -> int:\n    """Doc."""\n    assert x > 0\n    return len("""kept""") + x\n'
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "example.py"
        path.write_text(source, encoding="utf-8")
        command = f"import trim, pathlib; trim.compile_in_place(pathlib.Path({str(path)!r}), '/opt/python/example.py')"
        subprocess.run([sys.executable, "-c", command], cwd=LAYER, check=True)

    one, other = ((tmp_path / each / "example.pyc").read_bytes() for each in ("one", "other"))
    assert one == other  # byte for byte, in another process
    said = "import example as e; print(e.__doc__, e.A.__doc__, e.f.__doc__, e.f(1), e.f.__code__.co_filename); e.f(0)"
    ran = subprocess.run(
        [sys.executable, "-c", said],
        cwd=tmp_path / "one",
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout.split() == ["None", "None", "None", "5", "/opt/python/example.py"]
    assert "AssertionError" in ran.stderr
    assert 'File "/opt/python/example.py", line 11' in ran.stderr
    assert not list((tmp_path / "one").glob("*.py"))


def test_layer_is_compiled_for_the_runtime_of_the_template() -> None:
    template = (ROOT / "template.yaml").read_text(encoding="utf-8")

    assert f"Runtime: python{'.'.join(map(str, trim.RUNTIME))}\n" in template
    assert ast.parse((LAYER / "trim.py").read_text(encoding="utf-8"), feature_version=(3, 9))
