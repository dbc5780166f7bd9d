"""The audit's own parts: resolving a template, matching allowances, telling a gate that is blind."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tools.audit import __main__ as audit
from tools.audit import gates, inputs
from tools.audit.findings import Allowance, Finding, judge, registered
from tools.audit.gates import GATES, Gate, GateBrokenError, Report
from tools.audit.inputs import Inputs
from tools.audit.policies import identity_policies
from tools.audit.transform import VARIANTS, parsed, transformed
from tools.local.paths import ROOT

SOURCE = """
Transform: AWS::Serverless-2016-10-31
Parameters:
  Days: {Type: Number, Default: 30, AllowedValues: [30, 90]}
  Name: {Type: String, Default: "", AllowedPattern: "^[a-z]*$"}
  Zones: {Type: CommaDelimitedList, Default: "a, b"}
Conditions:
  IsNamed: !Not [!Equals [!Ref Name, ""]]
  IsLong: !And [!Condition IsNamed, !Or [!Equals [!Ref Days, 90], !Equals [!Ref Days, 91]]]
Resources:
  Topic:
    Type: AWS::SNS::Topic
    Condition: IsNamed
    Properties: {DisplayName: !Ref Name}
  Logs:
    Type: AWS::Logs::LogGroup
    DependsOn: Topic
    Properties:
      RetentionInDays: !Ref Days
      LogGroupName: !If [IsLong, !Sub "/x/${Name}", !Ref AWS::NoValue]
      KmsKeyId: !Sub "arn:${AWS::Partition}:kms:${Name}"
      Tags: [!If [IsNamed, {Key: zones, Value: !Join ["-", !Ref Zones]}, !Ref AWS::NoValue]]
"""


# ----------------------------------------------------------------------------------------- template


def test_a_condition_that_fails_takes_its_resource_along() -> None:
    resources = transformed(template=SOURCE)["Resources"]

    assert resources == {
        "Logs": {
            "Type": "AWS::Logs::LogGroup",
            "Properties": {
                "RetentionInDays": 30,
                "KmsKeyId": {"Fn::Sub": "arn:${AWS::Partition}:kms:"},
                "Tags": [],
            },
        }
    }


def test_parameters_and_conditions_are_resolved_when_values_are_given() -> None:
    resources = transformed({"Name": "n", "Days": "90"}, parsed(SOURCE))["Resources"]

    assert resources["Topic"]["Properties"] == {"DisplayName": "n"}
    assert resources["Logs"]["DependsOn"] == ["Topic"]
    assert resources["Logs"]["Properties"] == {
        "RetentionInDays": 90,
        "LogGroupName": "/x/n",
        "KmsKeyId": {"Fn::Sub": "arn:${AWS::Partition}:kms:n"},
        "Tags": [{"Key": "zones", "Value": "a-b"}],
    }


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"Nmae": "n"}, "no parameter Nmae"),
        ({"Days": "31"}, "Days does not allow"),
        ({"Name": "N"}, "Name does not allow"),
    ],
)
def test_a_variant_is_refused_when_the_template_would_not_take_it(
    values: dict[str, str], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        transformed(values, SOURCE)


def test_the_template_that_was_given_is_left_as_it_was() -> None:
    source = parsed()
    before = json.dumps(source)

    transformed(template=source)

    assert json.dumps(source) == before


@pytest.mark.parametrize("name", VARIANTS)
def test_nothing_is_left_to_decide_in_a_variant(name: str) -> None:
    text = json.dumps(transformed(VARIANTS[name]))

    assert "Fn::If" not in text
    assert "AWS::NoValue" not in text
    assert '"AWS::Serverless' not in text


def test_policies_name_what_they_are_for() -> None:
    template = {
        "Resources": {
            "Table": {"Type": "AWS::DynamoDB::Table"},
            "Secret": {"Type": "AWS::SecretsManager::Secret"},
            "Policy": {
                "Type": "AWS::IAM::ManagedPolicy",
                "Properties": {
                    "PolicyDocument": {
                        "Statement": [
                            {
                                "Resource": [
                                    {"Fn::Sub": "${Table.Arn}/index/due"},
                                    {"Ref": "Secret"},
                                ]
                            },
                            {
                                "Resource": {
                                    "Fn::Join": ["", [{"Fn::GetAtt": ["Table", "Arn"]}, "/*"]]
                                }
                            },
                            {
                                "Resource": {
                                    "Fn::Sub": "arn:${AWS::Partition}:ssm:${AWS::Region}::x"
                                }
                            },
                        ]
                    }
                },
            },
        }
    }

    statements = identity_policies(template)["Policy"]["Statement"]

    table = "arn:aws:dynamodb:us-east-1:123456789012:table/table"
    assert statements == [
        {
            "Resource": [
                f"{table}/index/due",
                "arn:aws:secretsmanager:us-east-1:123456789012:secret:secret-AbCdEf",
            ]
        },
        {"Resource": f"{table}/*"},
        {"Resource": "arn:aws:ssm:us-east-1::x"},
    ]


# --------------------------------------------------------------------------------------- allowances


def test_a_finding_is_open_when_nothing_allows_it() -> None:
    found = [Finding("R1", "Bucket", line="a = 1"), Finding("R1", "Queue"), Finding("R2", "Bucket")]

    verdict = judge(
        found, [Allowance("R1", "B*", "why", line="^a"), Allowance("R2", "Table", "why")]
    )

    assert verdict.open == (Finding("R1", "Queue"), Finding("R2", "Bucket"))
    assert verdict.unused == (Allowance("R2", "Table", "why"),)
    assert verdict.allowed == 1


def test_an_allowance_for_another_line_does_not_count() -> None:
    verdict = judge(
        [Finding("R", "file", line="b = 1")], [Allowance("R", "file", "why", line="^a")]
    )

    assert len(verdict.open) == len(verdict.unused) == 1


def test_every_entry_of_the_register_belongs_to_a_gate() -> None:
    gates_with_allowances = registered().keys()

    assert gates_with_allowances <= {gate.name for gate in GATES}


@pytest.mark.parametrize("entry", ["reason = ' '", "reason = 'why not'\nresources = ['x']"])
def test_the_register_is_refused_when_an_entry_has_no_reason_or_an_unknown_field(
    entry: str, tmp_path: Path
) -> None:
    register = tmp_path / "register.toml"
    register.write_text(f"[[bandit]]\nrules = ['B1']\nsubjects = ['x']\n{entry}\n")

    with pytest.raises(ValueError, match="bandit: an entry is malformed"):
        registered(register)


# -------------------------------------------------------------------------------------------- gates


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Let one gate of a test's making be all there is."""
    monkeypatch.setattr(inputs, "WORK", tmp_path / "work")

    def set_gate(report: Report | GateBrokenError, *, needs_node: bool = False) -> None:
        def examine(_: Inputs) -> Report:
            if isinstance(report, GateBrokenError):
                raise report
            return report

        monkeypatch.setattr(
            audit, "GATES", (Gate("mine", examine, frozenset({"R"}), needs_node=needs_node),)
        )

    return set_gate


SEEN = Finding("R", "planted")


def test_the_audit_passes_when_a_gate_sees_its_fault_and_no_other(
    only: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    only(Report("a thing", planted=[SEEN]))

    assert audit.main([]) == 0
    assert "1 gates passed, 0 failed, 0 not run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (Report("a thing", [Finding("X", "Bucket", "is open")], [SEEN]), "X  Bucket  is open"),
        (Report("a thing"), "blind: R does not find what was planted for it"),
        (
            Report("a thing", planted=[SEEN], allowances=[Allowance("X", "Bucket", "why")]),
            "nothing needs it: X  Bucket",
        ),
        (GateBrokenError("no JSON: Traceback"), "no JSON: Traceback"),
    ],
)
def test_the_audit_fails_when_a_gate_is_not_clean(
    report: Report | GateBrokenError,
    said: str,
    only: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    only(report)

    assert audit.main([]) == 1
    assert said in capsys.readouterr().out


def test_the_audit_fails_and_names_the_gates_when_node_is_missing(
    only: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    only(Report("a thing", planted=[SEEN]), needs_node=True)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert audit.main([]) == 1
    assert "1 not run" in (said := capsys.readouterr().out)
    assert "Node.js 20 or newer" in said
    assert "mine" in said


def test_the_audit_refuses_when_a_gate_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main(["checkof"]) == 2
    assert "No such gate: checkof." in capsys.readouterr().err


def test_the_contract_is_not_passed_over_when_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gates, "ROOT", tmp_path)
    monkeypatch.setattr(gates, "OPENAPI", tmp_path / "docs" / "openapi.yaml")

    with pytest.raises(GateBrokenError, match=r"docs/openapi\.yaml is missing"):
        gates.redocly(None)  # type: ignore[arg-type]


def test_semgrep_is_broken_when_it_passes_a_file_over(monkeypatch: pytest.MonkeyPatch) -> None:
    scanned = [str(gates.SAMPLES.relative_to(ROOT))]
    answer = {"errors": [], "results": [], "paths": {"scanned": scanned}}
    monkeypatch.setattr(gates, "_run", lambda *_: json.dumps(answer))

    with pytest.raises(GateBrokenError, match=r"passed over: .*models\.py"):
        gates.semgrep(None)  # type: ignore[arg-type]


def test_redocly_is_broken_when_it_speaks_of_one_document_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gates, "_run", lambda *_: json.dumps({"problems": []}))

    with pytest.raises(GateBrokenError, match="1 answers about 2 documents"):
        gates.redocly(None)  # type: ignore[arg-type]


def test_parliament_is_broken_when_the_template_has_no_policy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gates, "WORK", tmp_path)
    monkeypatch.setattr(inputs, "WORK", tmp_path / "work")
    given = Inputs()
    given.variants = {name: {"Resources": {}} for name in given.variants}

    with pytest.raises(GateBrokenError, match="no policy"):
        gates.parliament(given)


def test_ruff_judges_security_errors_prints_logs_and_times(pyproject: dict[str, Any]) -> None:
    lint = pyproject["tool"]["ruff"]["lint"]

    assert {"S", "B", "BLE", "TRY", "T20", "G", "DTZ", "LOG"} <= set(lint["select"])
    assert not {rule for rule in lint["ignore"] if rule.startswith(("S", "BLE", "T20", "G", "DTZ"))}


@pytest.fixture
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
