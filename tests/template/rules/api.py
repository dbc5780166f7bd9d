"""The way in: routes, limits, and what the gateway and its firewall write down."""

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

from cobalt_relay import api
from tests.template.document import Document, Json, rule, target, text
from tools.local.paths import ROOT

API = "Api"


class Route(NamedTuple):
    """Which function answers, how its code begins to tell who calls, which parameter limits it."""

    function: str
    check: str
    limit: str


ROUTES = {
    ("post", "/appointments/fetch"): Route(
        "FetchAppointments", "api.fetch_headers(event)", "FetchesPerSecond"
    ),
    ("post", "/appointments/fetch/range"): Route(
        "FetchAppointments", "api.fetch_headers(event)", "FetchesPerSecond"
    ),
    ("get", "/appointments"): Route(
        "ReadAppointments", "api.fetch_headers(event)", "ReadsPerSecond"
    ),
    ("get", "/appointments/fetch/{job_execution_id}"): Route(
        "ReadAppointments", "api.fetch_headers(event)", "ReadsPerSecond"
    ),
    ("post", "/webhooks/cobalt"): Route(
        "ReceiveWebhook", "api.signature(event)", "WebhooksPerSecond"
    ),
}
"""Every route there is. All are open to the gateway: callers bring Cobalt's own headers, Cobalt its
signature, and the functions check both."""

WEBHOOK = "/webhooks/cobalt"
LIVE = "live"
"""The alias of the version that is called: SnapStart and provisioned concurrency are a version's."""

LOGGED = frozenset(
    {
        "error.responseType",
        "extendedRequestId",
        "xrayTraceId",
        "httpMethod",
        "identity.sourceIp",
        "integration.integrationStatus",
        "integrationLatency",
        "protocol",
        "requestId",
        "requestTime",
        "resourcePath",
        "responseLatency",
        "responseLength",
        "status",
        "waf.status",
    }
)
"""What an access log may hold of `$context`: ids, times, sizes, statuses, the route's pattern."""

GATEWAY_HEADERS = {
    "Cache-Control": "'no-store'",
    "Strict-Transport-Security": "'max-age=63072000'",
    "X-Content-Type-Options": "'nosniff'",
    "x-request-id": "context.requestId",
}

TELL_NOTHING = frozenset(
    {
        *("accept", "content-encoding", "content-type", "if-none-match"),
        *("webhook-id", "webhook-timestamp"),
    }
)
"""Headers that the code reads and the firewall may log: forms, a digest, an event's id, a time."""

MODULE = ROOT / "layers" / "relay" / "cobalt_relay" / "api.py"


def body(document: Document) -> dict[str, Json]:
    """Give the OpenAPI body of the API."""
    given: dict[str, Json] = document.resources[API]["Properties"]["Body"]
    return given


def operations(document: Document) -> Iterator[tuple[str, str, dict[str, Json]]]:
    """Give each method of each path."""
    for path, methods in body(document)["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def stages(document: Document) -> dict[str, Json]:
    return document.of_type("AWS::ApiGateway::Stage")


def gateway_responses(document: Document) -> dict[str, Json]:
    given: dict[str, Json] = body(document).get("x-amazon-apigateway-gateway-responses", {})
    return given


# --------------------------------------------------------------------------------------------- routes


@rule
def every_route_is_known(document: Document) -> Iterator[str]:
    """A route that nobody listed is a way in that nobody looked at: OPTIONS and ANY, too."""
    found = {(method, path) for method, path, _ in operations(document)}
    yield from (f"{method} {path}" for method, path in found ^ ROUTES.keys())


@rule
def every_route_leads_to_a_function_that_checks_its_caller(document: Document) -> Iterator[str]:
    """The gateway lets everybody in, so a route may lead nowhere but to code that does not."""
    for method, path, operation in operations(document):
        route = ROUTES.get((method, path))
        if route is None:
            continue
        integration = operation.get("x-amazon-apigateway-integration", {})
        code = document.resources[route.function]["Properties"]["Code"]["S3Key"]
        handler = (ROOT / code / "handler.py").read_text(encoding="utf-8")
        leads_there = f"${{{route.function}Alias{LIVE}}}/invocations" in text(
            integration.get("uri")
        )
        if integration.get("type") != "aws_proxy" or not leads_there or route.check not in handler:
            yield f"{method} {path}"


@rule
def api_key_is_asked_of_callers_alone(document: Document) -> Iterator[str]:
    """Where the stack has a key, no caller's route does without; Cobalt can never bring one."""
    asked: Json = [{"api_key": []}] if document.of_type("AWS::ApiGateway::ApiKey") else []
    for method, path, operation in operations(document):
        wanted = [] if path == WEBHOOK else asked
        given = operation.get("security", body(document).get("security"))
        if (method, path) in ROUTES and given != wanted:
            yield f"{method} {path}"


@rule
def only_the_gateway_invokes_the_functions_of_routes(document: Document) -> Iterator[str]:
    """A permission without its source lets any API, or any secret, of anybody in."""
    sources = {
        "apigateway.amazonaws.com": ":${__ApiId__}/",
        "secretsmanager.amazonaws.com": '{"Fn::GetAtt": ["WebhookSecret", "Id"]}',
        "events.amazonaws.com": '{"Fn::GetAtt": ["DetectChangesFetched", "Arn"]}',
    }
    for name, permission in document.of_type("AWS::Lambda::Permission").items():
        source = sources.get(permission["Principal"])
        if source is None or source not in text(permission.get("SourceArn")):
            yield name
    yield from document.of_type("AWS::Lambda::Url")


@rule
def browsers_are_not_let_in(document: Document) -> Iterator[str]:
    """A server calls this API; a CORS header would let pages use what a browser knows."""
    for name, part in (*gateway_responses(document).items(), *body(document)["paths"].items()):
        if "access-control-" in text(part).lower():
            yield name


@rule
def connections_are_of_modern_tls(document: Document) -> Iterator[str]:
    """API Gateway's own default still speaks TLS 1.0 in places."""
    for name, endpoint in _endpoints(document).items():
        if not str(endpoint.get("SecurityPolicy")).startswith("SecurityPolicy_TLS13"):
            yield name


@rule
def access_mode_is_named_beside_a_tls_policy(document: Document) -> Iterator[str]:
    """API Gateway refuses such a policy without it, at the deployment; no linter says so."""
    for name, endpoint in _endpoints(document).items():
        if endpoint.get("EndpointAccessMode") != "STRICT":
            yield name


@rule
def api_waits_for_the_role_of_its_logs(document: Document) -> Iterator[str]:
    """A stage with logs is refused in an account that has no role for them yet."""
    dependencies = document.resources[API].get("DependsOn", [])
    for account in document.of_type("AWS::ApiGateway::Account"):
        if account not in dependencies:
            yield API


def _endpoints(document: Document) -> dict[str, Json]:
    return document.of_type("AWS::ApiGateway::RestApi", "AWS::ApiGateway::DomainName")


# --------------------------------------------------------------------------------------------- limits


@rule
def every_route_has_a_limit_of_its_own(document: Document) -> Iterator[str]:
    """Webhooks must get through while callers knock, so no route takes another one's share."""
    for name, stage in stages(document).items():
        limits = {
            (setting["HttpMethod"], setting["ResourcePath"]): setting
            for setting in stage.get("MethodSettings", [])
        }
        for (method, path), route in ROUTES.items():
            own = limits.get((method.upper(), "/" + path.replace("/", "~1")))
            setting = own or limits.get(("*", "/*"), {})
            given = {setting.get("ThrottlingRateLimit"), setting.get("ThrottlingBurstLimit")}
            if set(map(str, given)) != {str(document.values[route.limit])}:
                yield f"{name} {method} {path}"


@rule
def no_answer_is_cached(document: Document) -> Iterator[str]:
    """A cache would keep one caller's job for another, and tell of it what is past."""
    for name, stage in stages(document).items():
        settings = stage.get("MethodSettings", [])
        if stage.get("CacheClusterEnabled") or any(s.get("CachingEnabled") for s in settings):
            yield name


# ---------------------------------------------------------------------------------------------- leaks


@rule
def no_body_is_traced(document: Document) -> Iterator[str]:
    """Data tracing writes requests and answers whole into a log without key and without end.

    Above ERROR that log has the path of every call.
    """
    for name, stage in stages(document).items():
        settings = stage.get("MethodSettings", [])
        if not settings or any(
            (s.get("DataTraceEnabled"), s.get("LoggingLevel")) != (False, "ERROR") for s in settings
        ):
            yield name


@rule
def access_log_holds_nothing_of_a_caller(document: Document) -> Iterator[str]:
    """Paths, queries, headers and texts of errors can each hold a token or a patient."""
    for name, stage in stages(document).items():
        log = stage.get("AccessLogSetting", {}).get("Format", "")
        variables = re.findall(r"\$([\w.]+)", log)
        strange = [v for v in variables if v.removeprefix("context.") not in LOGGED]
        if not log or strange or "requestId" not in json.loads(log):
            yield name


@rule
def gateway_and_firewall_log_into_groups_of_the_stack(document: Document) -> Iterator[str]:
    """Those have the key and an end; a name of somebody else's making has neither."""
    destinations = {
        **{n: [s.get("AccessLogSetting")] for n, s in stages(document).items()},
        **{n: log.get("LogDestinationConfigs") for n, log in _firewall_logs(document).items()},
    }
    groups = document.of_type("AWS::Logs::LogGroup")
    for name, destination in destinations.items():
        if not any(f':log-group:${{{group}}}"' in text(destination) for group in groups):
            yield name


@rule
def gateway_errors_are_opaque(document: Document) -> Iterator[str]:
    """The gateway's own texts quote what it was sent; ours are constants in the form of the rest."""
    responses = gateway_responses(document)
    yield from {"DEFAULT_4XX", "DEFAULT_5XX"} - responses.keys()
    for name, response in responses.items():
        templates = response.get("responseTemplates", {})
        template = templates.get("application/json", "{}")
        is_ours = json.loads(template).get("success") is False
        if templates.keys() != {"application/json"} or "$" in template or not is_ours:
            yield name


@rule
def gateway_errors_carry_the_headers_of_every_answer(document: Document) -> Iterator[str]:
    """What the gateway answers by itself is no more to be kept or guessed at than what we do."""
    wanted = {f"gatewayresponse.header.{name}": value for name, value in GATEWAY_HEADERS.items()}
    for name, response in gateway_responses(document).items():
        if not wanted.items() <= response.get("responseParameters", {}).items():
            yield name


@rule
def refusals_that_pass_say_when_to_try_again(document: Document) -> Iterator[str]:
    """Too many calls, or too many at once: a client that is not told comes back at once."""
    responses = gateway_responses(document)
    for name, status in {"THROTTLED": "429", "INTEGRATION_FAILURE": "503"}.items():
        if str(responses.get(name, {}).get("statusCode")) != status:
            yield name
    for name in {"THROTTLED", "INTEGRATION_FAILURE", "DEFAULT_5XX"} & responses.keys():
        if "gatewayresponse.header.Retry-After" not in responses[name]["responseParameters"]:
            yield name


# ------------------------------------------------------------------------------------------- firewall


@rule
def firewall_stands_before_the_stage(document: Document) -> Iterator[str]:
    """With AWS's two sets of rules and a limit for each address."""
    guarded = {
        target(association["WebACLArn"]): text(association["ResourceArn"])
        for association in document.of_type("AWS::WAFv2::WebACLAssociation").values()
    }
    for name, acl in document.of_type("AWS::WAFv2::WebACL").items():
        rules = {each["Name"] for each in acl["Rules"]}
        is_before = any(f"${{{stage}}}" in guarded.get(name, "") for stage in stages(document))
        if not is_before or rules != {"known-bad-inputs", "common", "rate"}:
            yield name


@rule
def firewall_blocks_and_not_only_counts(document: Document) -> Iterator[str]:
    """An address at the limit of the parameter; the two sets as AWS has them."""
    limit = str(document.values["WafRequestsPerFiveMinutes"])
    for name, acl in document.of_type("AWS::WAFv2::WebACL").items():
        for each in acl["Rules"]:
            rate = each["Statement"].get("RateBasedStatement")
            acts = each.get("Action") if rate else each.get("OverrideAction")
            if acts != ({"Block": {}} if rate else {"None": {}}) or (
                rate and (str(rate["Limit"]), rate["AggregateKeyType"]) != (limit, "IP")
            ):
                yield f"{name} {each['Name']}"


@rule
def firewall_keeps_no_samples(document: Document) -> Iterator[str]:
    """Samples are whole requests, headers and all, that anybody with the console can look at.

    Nor does its log quote of a body what a rule matched.
    """
    no_body = [{"Field": {"FieldType": "BODY"}, "Action": "SUBSTITUTION"}]
    for name, acl in document.of_type("AWS::WAFv2::WebACL").items():
        views = [acl["VisibilityConfig"], *(each["VisibilityConfig"] for each in acl["Rules"])]
        quotes = acl.get("DataProtectionConfig", {}).get("DataProtections") != no_body
        if quotes or any(view.get("SampledRequestsEnabled") is not False for view in views):
            yield name


@rule
def firewall_lets_webhooks_pass(document: Document) -> Iterator[str]:
    """Their signature proves them, and a clinic's notes look like any attack; so no rule sees them."""
    for name, acl in document.of_type("AWS::WAFv2::WebACL").items():
        for each in acl["Rules"]:
            (statement,) = each["Statement"].values()
            scope = statement.get("ScopeDownStatement", {}).get("NotStatement", {})
            match = scope.get("Statement", {}).get("ByteMatchStatement", {})
            if (match.get("PositionalConstraint"), match.get("SearchString")) != (
                "STARTS_WITH",
                "/v1/webhooks/",
            ):
                yield f"{name} {each['Name']}"


@rule
def firewall_takes_bodies_over_8_kilobytes(document: Document) -> Iterator[str]:
    """The rule for sizes of AWS's common set blocks them, unseen by any function; ours count."""
    for name, acl in document.of_type("AWS::WAFv2::WebACL").items():
        for each in acl["Rules"]:
            group = each["Statement"].get("ManagedRuleGroupStatement", {})
            overrides = {
                override["Name"]: override["ActionToUse"]
                for override in group.get("RuleActionOverrides", [])
            }
            is_common = group.get("Name") == "AWSManagedRulesCommonRuleSet"
            if is_common and overrides.get("SizeRestrictions_BODY") != {"Count": {}}:
                yield f"{name} {each['Name']}"


@rule
def firewall_logs_no_credential(document: Document) -> Iterator[str]:
    """Its log has every header of a request; whatever our code reads there may be a secret."""
    logged = {
        target(log["ResourceArn"]): log.get("RedactedFields", [])
        for log in _firewall_logs(document).values()
    }
    for name in document.of_type("AWS::WAFv2::WebACL"):
        redacted = logged.get(name, [])
        headers = {field["SingleHeader"]["Name"] for field in redacted if "SingleHeader" in field}
        hides_the_rest = {"QueryString": {}} in redacted and {"UriPath": {}} in redacted
        if not secret_headers() <= headers or not hides_the_rest:
            yield name


def _firewall_logs(document: Document) -> dict[str, Json]:
    return document.of_type("AWS::WAFv2::LoggingConfiguration")


def secret_headers() -> set[str]:
    """Give the names of the headers that the code reads, and that could hold a secret."""
    named = re.findall(r'_values_of\(event, "([^"]+)"\)', MODULE.read_text(encoding="utf-8"))
    assert {"cobalt-verification", "idempotency-key"} <= set(named), "read in another way now"
    return {*api.FETCH_HEADERS, *named, "x-api-key"} - TELL_NOTHING
