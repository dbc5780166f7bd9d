"""Faults to put into the template one at a time, each with the rules that must report it.

Those of `LISTED` are known to pass every public rule set for templates; the rest prove the rules
that this template needs besides.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from tests.template.document import Document, Json

type Change = Callable[[Document], None]

ATTRIBUTES = {"DeletionPolicy", "DependsOn", "UpdateReplacePolicy"}


@dataclass(frozen=True)
class Fault:
    """A change of a variant and what it breaks; perhaps put in before SAM expands the template."""

    name: str
    rules: frozenset[str]
    changes: tuple[Change, ...]
    variant: str = "everything"
    is_for_sam: bool = False


class _Place(NamedTuple):
    parent: Json
    step: str | int


def _find(document: Document, path: str) -> _Place:
    """Follow a path such as `Table > SSESpecification`.

    It begins with a resource, whose properties are meant unless an attribute is named, or with
    Parameters or Outputs. `Sid=Log` picks an element of a list by one of its fields.
    """
    first, *steps = path.split(" > ")
    roots = {"Parameters": document.parameters, "Outputs": document.outputs}
    value: Json = roots.get(first) or document.resources[first]
    if first not in roots and steps[0] not in ATTRIBUTES:
        value = value["Properties"]
    place = _Place(value, "")
    for step in steps:
        place = _Place(value, _step(value, step))
        value = value[place.step] if _is_there(place) else None
    return place


def _step(value: Json, step: str) -> str | int:
    if not isinstance(value, list):
        return step
    field, equals, wanted = step.partition("=")
    if equals:
        return next(i for i, element in enumerate(value) if element.get(field) == wanted)
    return int(step)


def _is_there(place: _Place) -> bool:
    parent, step = place
    return step < len(parent) if isinstance(parent, list) else step in parent  # type: ignore[operator]


def put(path: str, value: Json) -> Change:
    """Change what is there to something else."""

    def change(document: Document) -> None:
        parent, step = _find(document, path)
        assert parent[step] != value, f"{path} is {value} already"
        parent[step] = value

    return change


def add(path: str, value: Json) -> Change:
    """Put something where nothing is; an element at the end of a list that is there."""

    def change(document: Document) -> None:
        place = _find(document, path)
        if _is_there(place):
            place.parent[place.step].append(value)
        else:
            place.parent[place.step] = value

    return change


def drop(path: str) -> Change:
    """Take away what is there."""

    def change(document: Document) -> None:
        parent, step = _find(document, path)
        del parent[step]

    return change


def resource(name: str, kind: str, properties: Json) -> Change:
    """Add a resource."""

    def change(document: Document) -> None:
        assert name not in document.resources
        document.resources[name] = {"Type": kind, "Properties": properties}

    return change


def _fault(
    name: str,
    rules: str,
    *changes: Change,
    variant: str = "everything",
    is_for_sam: bool = False,
) -> Fault:
    return Fault(name, frozenset(rules.split()), changes, variant, is_for_sam)


def _statement(policy: str, sid: str) -> str:
    return f"{policy} > PolicyDocument > Statement > Sid={sid}"


CALLER = "Api > Body > paths > /appointments/fetch > post"
RESPONSES = "Api > Body > x-amazon-apigateway-gateway-responses"
STAGE = "Apiv1Stage"
MATRIX = "role_may_do_what_the_matrix_says"
ALARM = "FailedEvents"

NO_COUNTERPART = {
    "api-no-request-model": (
        "There is no model at the gateway: its refusals could not have the documented texts. The code checks the body "
        "and its size before anything else, and tests/unit/test_fetch_appointments.py each of those checks."
    ),
}
"""Listed faults that cannot be put into this template, and what stands in for them."""

LISTED = (
    _fault(
        "alarm-metric-typo",
        "failures_raise_an_alarm",
        put(f"{ALARM} > MetricName", "ApproximateNumberOfMessageVisible"),
    ),
    _fault(
        "alarm-missing-for-dlq",
        "failures_raise_an_alarm",
        put(f"{ALARM} > Dimensions > 0 > Value", {"Fn::GetAtt": ["EventLog", "QueueName"]}),
    ),
    _fault(
        "api-before-account-role",
        "api_waits_for_the_role_of_its_logs",
        drop("Api > DependsOn"),
    ),
    _fault(
        "api-cors-star",
        "browsers_are_not_let_in every_route_is_known",
        add("Api > Cors", "'*'"),
        is_for_sam=True,
    ),
    # Every route is open to the gateway here: the counterparts are a route that nobody listed, and code that does not check.
    _fault(
        "api-no-authorizer", "every_route_is_known", add("Api > Body > paths > /jobs", {"get": {}})
    ),
    _fault(
        "api-fetch-auth-none",
        "every_route_leads_to_a_function_that_checks_its_caller",
        put("FetchAppointments > Code > S3Key", "functions/plan_fetches"),
    ),
    _fault(
        "api-no-access-mode",
        "access_mode_is_named_beside_a_tls_policy",
        drop("Api > EndpointAccessMode"),
    ),
    _fault("api-no-tls-policy", "connections_are_of_modern_tls", drop("Api > SecurityPolicy")),
    _fault(
        "api-tls10", "connections_are_of_modern_tls", put("ApiDomain > SecurityPolicy", "TLS_1_0")
    ),
    _fault(
        "bus-no-cmk",
        "everything_is_encrypted_with_the_one_key",
        drop("EventBus > KmsKeyIdentifier"),
    ),
    _fault(
        "bus-no-dlq", "bus_keeps_what_it_could_not_deliver", drop("EventBus > DeadLetterConfig")
    ),
    _fault(
        "ddb-gsi-projects-all",
        "indexes_hold_keys_alone",
        put(
            "Table > GlobalSecondaryIndexes > IndexName=by_connection > Projection > ProjectionType",
            "ALL",
        ),
    ),
    _fault(
        "ddb-no-deletion-protection",
        "table_cannot_be_deleted_in_passing",
        drop("Table > DeletionProtectionEnabled"),
    ),
    _fault(
        "ddb-no-ttl",
        "rows_end_by_the_attribute_that_the_code_writes",
        drop("Table > TimeToLiveSpecification"),
    ),
    _fault(
        "dlq-retention-shorter-than-source",
        "failures_are_kept_longer_than_anything_else",
        put("ScheduleFailures > MessageRetentionPeriod", 86400),
    ),
    _fault(
        "emr-url-http",
        "tokens_and_results_travel_by_https",
        put(
            "ReconcileJobs > Environment > Variables > COBALT_BASE_URL", "http://api.usecobalt.com"
        ),
    ),
    _fault("iam-missing-putevents", MATRIX, drop(_statement("ReceiveWebhookPolicy", "Announce"))),
    _fault(
        "iam-webhook-reads-emr-secret",
        MATRIX,
        put(
            _statement("ReceiveWebhookPolicy", "ReadWebhookSecret") + " > Resource",
            [{"Fn::GetAtt": ["WebhookSecret", "Id"]}, {"Fn::GetAtt": ["CobaltCredentials", "Id"]}],
        ),
    ),
    _fault(
        "lambda-debug-log-level",
        "function_never_logs_at_debug",
        put("ReadAppointments > LoggingConfig > ApplicationLogLevel", "DEBUG"),
    ),
    _fault(
        "lambda-implicit-log-group",
        "function_logs_into_a_group_of_its_own function_may_write_no_log_but_its_own",
        drop("ReconcileJobs > LoggingConfig > LogGroup"),
        is_for_sam=True,
    ),
    _fault(
        "lambda-reconcile-no-onfailure",
        "failed_run_is_kept_where_nobody_waits_for_it",
        drop("ReconcileJobsEventInvokeConfig > DestinationConfig"),
    ),
    _fault(
        "lambda-timeout-over-apigw-29s",
        "function_of_a_route_ends_before_the_gateway_gives_up",
        put("ReceiveWebhook > Timeout", 60),
    ),
    _fault(
        "phi-access-log-path-and-query",
        "access_log_holds_nothing_of_a_caller",
        put(
            f"{STAGE} > AccessLogSetting > Format",
            '{"requestId":"$context.requestId","path":"$context.path"}',
        ),
    ),
    _fault(
        "phi-api-data-trace",
        "no_body_is_traced",
        put(f"{STAGE} > MethodSettings > 1 > DataTraceEnabled", True),
    ),
    _fault(
        "phi-default-gateway-responses",
        "gateway_errors_are_opaque",
        drop(f"{RESPONSES} > DEFAULT_5XX"),
    ),
    _fault(
        "phi-powertools-log-event",
        "function_keeps_its_events_to_itself",
        put("FetchAppointments > Environment > Variables > POWERTOOLS_LOGGER_LOG_EVENT", "true"),
    ),
    _fault(
        "phi-powertools-trace-response",
        "function_keeps_its_events_to_itself",
        drop("FetchAppointments > Environment > Variables > POWERTOOLS_TRACER_CAPTURE_RESPONSE"),
    ),
    _fault(
        "phi-waf-log-unredacted",
        "firewall_logs_no_credential",
        drop("WebAclLogging > RedactedFields > 6"),
    ),
    _fault(
        "phi-waf-sampled-requests",
        "firewall_keeps_no_samples",
        put("WebAcl > Rules > Name=rate > VisibilityConfig > SampledRequestsEnabled", True),
    ),
    _fault(
        "rule-no-retry",
        "rule_tries_again_and_keeps_what_fails",
        put("EventLogRule > Targets > 0 > RetryPolicy > MaximumRetryAttempts", 0),
    ),
    _fault(
        "rule-pattern-wrong-source",
        "rule_listens_to_what_is_sent",
        put("EventLogRule > EventPattern > source", ["cobalt_relay"]),
    ),
    _fault(
        "rule-target-not-allowed",
        "events_may_be_sent_to_their_queues",
        put(
            _statement("EventLogPolicy", "EventsAreSent")
            + " > Condition > ArnEquals > aws:SourceArn",
            [{"Fn::GetAtt": ["EventBus", "Arn"]}],
        ),
    ),
    _fault(
        "s3-acl-enabled",
        "bucket_knows_no_access_lists",
        put("Results > OwnershipControls > Rules > 0 > ObjectOwnership", "ObjectWriter"),
    ),
    _fault(
        "s3-no-key-pin",
        "results_are_written_under_no_other_key",
        drop(_statement("ResultsPolicy", "RefuseOtherKeys")),
    ),
    _fault(
        "s3-no-old-tls-deny",
        "bucket_refuses_old_tls",
        drop(_statement("ResultsPolicy", "RefuseOldTls")),
    ),
    _fault(
        "schedule-default-retry",
        "schedule_gives_up_within_the_hour",
        drop("PlanFetchesSchedule > Target > RetryPolicy"),
    ),
    _fault("schedule-disabled", "schedule_runs", put("PlanFetchesSchedule > State", "DISABLED")),
    _fault(
        "schedule-name-collides",
        "schedule_is_named_after_the_stack",
        drop("PlanFetches > Events > Schedule > Properties > Name"),
        is_for_sam=True,
    ),
    _fault(
        "schedule-no-dlq",
        "schedule_keeps_what_it_could_not_start",
        drop("ReconcileJobsEveryMinute > Target > DeadLetterConfig"),
    ),
    _fault(
        "secret-as-parameter-no-NoEcho",
        "environment_holds_no_secret no_parameter_takes_a_secret",
        add(
            "Parameters > CobaltClientSecret",
            {"Type": "String", "Description": "x", "Default": "", "AllowedPattern": ".*"},
        ),
        add("FetchAppointments > Environment > Variables > CLIENT_SECRET", "sesame"),
    ),
    _fault(
        "secret-in-output",
        "no_secret_is_resolved_into_the_stack output_tells_no_secret",
        add(
            "Outputs > ClientSecret",
            {
                "Description": "x",
                "Value": "{{resolve:secretsmanager:x:SecretString:client_secret}}",
            },
        ),
    ),
    _fault(
        "secret-plaintext-in-template",
        "secret_has_no_value_in_the_template",
        add("CobaltCredentials > SecretString", '{"client_secret":"sesame"}'),
    ),
    _fault(
        "sqs-redrive-after-1",
        "queue_gives_up_on_no_message_at_once",
        put("FetchQueue > RedrivePolicy > maxReceiveCount", 1),
    ),
    _fault(
        "waf-8kb-body-block",
        "firewall_takes_bodies_over_8_kilobytes",
        drop(
            "WebAcl > Rules > Name=common > Statement > ManagedRuleGroupStatement > RuleActionOverrides"
        ),
    ),
)

OWN = (
    # the way in
    _fault(
        "api-any-method",
        "every_route_is_known",
        add("Api > Body > paths > /webhooks/cobalt > x-amazon-apigateway-any-method", {}),
    ),
    _fault(
        "api-route-without-code",
        "every_route_leads_to_a_function_that_checks_its_caller",
        put(f"{CALLER} > x-amazon-apigateway-integration > type", "mock"),
    ),
    _fault(
        "api-route-to-another-function",
        "every_route_leads_to_a_function_that_checks_its_caller",
        put(
            "Api > Body > paths > /webhooks/cobalt > post > x-amazon-apigateway-integration > uri",
            {"Fn::Sub": "${FetchAppointmentsAliaslive}/invocations"},
        ),
    ),
    _fault(
        "api-route-past-the-published-version",
        "every_route_leads_to_a_function_that_checks_its_caller",
        put(
            "Api > Body > paths > /webhooks/cobalt > post > x-amazon-apigateway-integration > uri",
            {"Fn::Sub": "${ReceiveWebhook.Arn}/invocations"},
        ),
    ),
    _fault(
        "api-key-of-the-webhook",
        "api_key_is_asked_of_callers_alone",
        put("Api > Body > paths > /webhooks/cobalt > post > security", [{"api_key": []}]),
    ),
    _fault(
        "api-key-forgotten", "api_key_is_asked_of_callers_alone", put(f"{CALLER} > security", [])
    ),
    _fault(
        "api-key-nobody-has",
        "api_key_is_asked_of_callers_alone",
        put(f"{CALLER} > security", [{"api_key": []}]),
        variant="defaults",
    ),
    _fault(
        "permission-for-anybody",
        "only_the_gateway_invokes_the_functions_of_routes",
        put("FetchAppointmentsFetchPermissionv1 > Principal", "*"),
    ),
    _fault(
        "permission-for-any-secret",
        "only_the_gateway_invokes_the_functions_of_routes",
        drop("RotateWebhookSecretPermission > SourceArn"),
    ),
    _fault(
        "cors-in-errors",
        "browsers_are_not_let_in",
        add(
            f"{RESPONSES} > THROTTLED > responseParameters > gatewayresponse.header.Access-Control-Allow-Origin",
            "'*'",
        ),
    ),
    _fault(
        "throttled-without-a-pause",
        "refusals_that_pass_say_when_to_try_again",
        drop(f"{RESPONSES} > THROTTLED > responseParameters > gatewayresponse.header.Retry-After"),
    ),
    _fault(
        "no-run-free-is-a-timeout",
        "refusals_that_pass_say_when_to_try_again",
        drop(f"{RESPONSES} > INTEGRATION_FAILURE"),
    ),
    _fault(
        "domain-no-access-mode",
        "access_mode_is_named_beside_a_tls_policy",
        drop("ApiDomain > EndpointAccessMode"),
    ),
    _fault(
        "throttling-of-the-webhook-gone",
        "every_route_has_a_limit_of_its_own",
        drop(f"{STAGE} > MethodSettings > 3"),
    ),
    _fault(
        "throttling-of-ranges-gone",
        "every_route_has_a_limit_of_its_own",
        drop(f"{STAGE} > MethodSettings > 2"),
    ),
    _fault(
        "throttling-without-a-burst",
        "every_route_has_a_limit_of_its_own",
        drop(f"{STAGE} > MethodSettings > 0 > ThrottlingBurstLimit"),
    ),
    _fault(
        "cache-on",
        "no_answer_is_cached",
        put(f"{STAGE} > MethodSettings > 0 > CachingEnabled", True),
    ),
    _fault(
        "log-of-error-text",
        "access_log_holds_nothing_of_a_caller",
        put(
            f"{STAGE} > AccessLogSetting > Format",
            '{"requestId":"$context.requestId","error":"$context.error.messageString"}',
        ),
    ),
    _fault(
        "log-of-nothing",
        "access_log_holds_nothing_of_a_caller gateway_and_firewall_log_into_groups_of_the_stack",
        drop(f"{STAGE} > AccessLogSetting"),
    ),
    _fault(
        "error-quotes-the-gateway",
        "gateway_errors_are_opaque",
        put(
            f"{RESPONSES} > DEFAULT_4XX > responseTemplates > application/json",
            '{"success": false, "message": "$context.error.message"}',
        ),
    ),
    _fault(
        "error-is-kept",
        "gateway_errors_carry_the_headers_of_every_answer",
        drop(
            f"{RESPONSES} > DEFAULT_4XX > responseParameters > gatewayresponse.header.Cache-Control"
        ),
    ),
    _fault(
        "waf-reads-webhooks",
        "firewall_lets_webhooks_pass",
        drop(
            "WebAcl > Rules > Name=known-bad-inputs > Statement > ManagedRuleGroupStatement > ScopeDownStatement"
        ),
    ),
    _fault(
        "waf-logs-a-token",
        "firewall_logs_no_credential",
        put("WebAclLogging > RedactedFields > 2 > SingleHeader > Name", "authorization"),
    ),
    _fault(
        "waf-log-gone",
        "firewall_logs_no_credential",
        put("WebAclLogging > ResourceArn > Fn::GetAtt > 0", "AnotherAcl"),
    ),
    _fault(
        "waf-before-nothing",
        "firewall_stands_before_the_stage",
        put("WebAclAssociation > WebACLArn > Fn::GetAtt > 0", "AnotherAcl"),
    ),
    _fault(
        "waf-without-limit", "firewall_stands_before_the_stage", drop("WebAcl > Rules > Name=rate")
    ),
    _fault(
        "waf-logs-elsewhere",
        "gateway_and_firewall_log_into_groups_of_the_stack",
        put("WebAclLogging > LogDestinationConfigs", ["arn:aws:s3:::aws-waf-logs-of-all"]),
    ),
    _fault(
        "api-logs-elsewhere",
        "gateway_and_firewall_log_into_groups_of_the_stack",
        put(
            f"{STAGE} > AccessLogSetting > DestinationArn",
            "arn:aws:firehose:us-east-1:123456789012:deliverystream/all",
        ),
    ),
    # functions
    _fault(
        "webhook-without-share",
        "function_has_its_share_where_runs_are_reserved",
        drop("ReceiveWebhook > ReservedConcurrentExecutions"),
    ),
    _fault(
        "share-unasked",
        "function_has_its_share_where_runs_are_reserved",
        add("PlanFetches > ReservedConcurrentExecutions", 1),
        variant="defaults",
    ),
    _fault(
        "role-shared",
        "function_has_a_role_of_its_own function_may_write_no_log_but_its_own role_is_taken_by_its_service_alone role_uses_the_key_for_what_it_does_and_nothing_else "
        + MATRIX,
        put("ReadAppointments > Role > Fn::GetAtt > 0", "FetchAppointmentsRole"),
    ),
    _fault(
        "log-group-shared",
        "function_logs_into_a_group_of_its_own function_may_write_no_log_but_its_own",
        put("ReadAppointments > LoggingConfig > LogGroup > Ref", "FetchAppointmentsLogs"),
    ),
    _fault(
        "log-group-made-by-lambda",
        "function_may_write_no_log_but_its_own",
        add(_statement("PlanFetchesPolicy", "Log") + " > Action", "logs:CreateLogGroup"),
    ),
    _fault(
        "powertools-at-debug",
        "function_never_logs_at_debug",
        put("ReconcileJobs > Environment > Variables > POWERTOOLS_LOG_LEVEL", "DEBUG"),
    ),
    _fault(
        "debug-allowed",
        "function_never_logs_at_debug",
        add("Parameters > LogLevel > AllowedValues", "DEBUG"),
    ),
    _fault(
        "powertools-traces-errors",
        "function_keeps_its_events_to_itself",
        put("ReceiveWebhook > Environment > Variables > POWERTOOLS_TRACER_CAPTURE_ERROR", "true"),
    ),
    _fault(
        "powertools-at-development",
        "function_keeps_its_events_to_itself",
        add("ReceiveWebhook > Environment > Variables > POWERTOOLS_DEV", "true"),
    ),
    _fault(
        "url-pattern-takes-http",
        "tokens_and_results_travel_by_https",
        put("Parameters > CobaltBaseUrl > AllowedPattern", "^https?://.+$"),
    ),
    _fault(
        "reconciler-repeated",
        "scheduled_run_is_repeated_where_that_mends_something",
        drop("ReconcileJobsEventInvokeConfig > MaximumRetryAttempts"),
    ),
    _fault(
        "plan-given-up-at-once",
        "scheduled_run_is_repeated_where_that_mends_something",
        put("PlanFetchesEventInvokeConfig > MaximumRetryAttempts", 0),
    ),
    _fault(
        "schedule-of-clinics-once-a-day",
        "schedule_fetches_when_and_what_the_parameters_say",
        put("PlanFetchesSchedule > ScheduleExpression", "cron(0 6 * * ? *)"),
        variant="numbers",
    ),
    _fault(
        "schedule-without-its-moment",
        "schedule_fetches_when_and_what_the_parameters_say",
        put(
            "PlanFetchesSchedule > Target > Input",
            '{"connections": "all", "from_day": 0, "days": 14, "spread_minutes": 10}',
        ),
    ),
    _fault(
        "schedule-input-no-json",
        "schedule_fetches_when_and_what_the_parameters_say",
        put("PlanFetchesSchedule > Target > Input > Fn::Sub", '{"connections": all}'),
    ),
    # the queue of fetches
    _fault(
        "batch-fails-as-a-whole",
        "queue_tries_each_message_alone",
        drop("RunFetchesQueue > FunctionResponseTypes"),
    ),
    _fault(
        "queue-without-pace",
        "queue_is_worked_off_at_the_pace_of_the_parameter",
        drop("RunFetchesQueue > ScalingConfig"),
    ),
    _fault(
        "pace-of-another-number",
        "queue_is_worked_off_at_the_pace_of_the_parameter",
        put("RunFetchesQueue > ScalingConfig > MaximumConcurrency", 5),
        variant="numbers",
    ),
    _fault(
        "share-of-fetches-of-another-number",
        "function_has_its_share_where_runs_are_reserved",
        put("RunFetches > ReservedConcurrentExecutions", 5),
        variant="numbers",
    ),
    _fault(
        "message-comes-while-it-is-worked-on",
        "message_stays_hidden_while_its_function_runs",
        drop("FetchQueue > VisibilityTimeout"),
    ),
    _fault(
        "batch-too-large-for-a-run",
        "batch_is_no_larger_than_a_run_can_work_off",
        put("RunFetchesQueue > BatchSize", 10),
    ),
    _fault(
        "fetches-tried-for-days",
        "queue_that_is_worked_off_keeps_what_fails failures_are_kept_longer_than_anything_else",
        drop("FetchQueue > RedrivePolicy"),
    ),
    _fault(
        "fetch-failures-no-older-than-their-queue",
        "failures_are_kept_longer_than_anything_else",
        put("FetchFailures > MessageRetentionPeriod", 345600),
    ),
    _fault(
        "fetch-failures-refused",
        "failures_queue_is_nobody_elses",
        add("FetchFailures > RedriveAllowPolicy", {"redrivePermission": "denyAll"}),
    ),
    _fault(
        "fetch-failures-unheard",
        "failures_raise_an_alarm",
        put("FailedFetches > Dimensions > 0 > Value", {"Fn::GetAtt": ["FetchQueue", "QueueName"]}),
    ),
    _fault(
        "queue-of-fetches-in-clear",
        "everything_is_encrypted_with_the_one_key",
        drop("FetchQueue > KmsMasterKeyId"),
    ),
    # identities
    _fault(
        "may-write-any-object",
        MATRIX,
        put(
            _statement("ReceiveWebhookPolicy", "WriteResults") + " > Resource",
            {"Fn::Sub": "${Results.Arn}/*"},
        ),
    ),
    _fault(
        "may-read-any-token",
        MATRIX,
        put(
            _statement("ReconcileJobsPolicy", "ReadTokens") + " > Resource",
            {
                "Fn::Sub": "arn:${AWS::Partition}:ssm:${AWS::Region}:${AWS::AccountId}:parameter/cobalt-relay/*"
            },
        ),
    ),
    _fault(
        "may-list-jobs-of-a-connection",
        MATRIX,
        put(
            _statement("PlanFetchesPolicy", "ListConnections") + " > Resource",
            {"Fn::Sub": "${Table.Arn}/index/by_connection"},
        ),
    ),
    _fault(
        "may-read-results",
        MATRIX,
        put(
            _statement("ReconcileJobsPolicy", "WriteResults") + " > Action",
            ["s3:PutObject", "s3:GetObject"],
        ),
    ),
    _fault(
        "may-delete-results",
        "nobody_may_look_around_or_delete " + MATRIX,
        put(
            _statement("ReconcileJobsPolicy", "WriteResults") + " > Action",
            ["s3:PutObject", "s3:DeleteObject"],
        ),
    ),
    _fault(
        "may-link-to-other-events",
        MATRIX,
        put(
            _statement("ReadAppointmentsPolicy", "LinkToResults") + " > Resource",
            {"Fn::Sub": "${Results.Arn}/*"},
        ),
    ),
    _fault(
        "may-list-every-connection",
        "bucket_is_listed_for_the_days_of_a_connection_alone",
        drop(_statement("ReadAppointmentsPolicy", "ListDays") + " > Condition"),
    ),
    _fault(
        "may-list-results",
        "bucket_is_listed_for_the_days_of_a_connection_alone",
        put(
            _statement("DetectChangesPolicy", "ListDays") + " > Condition > StringLike > s3:prefix",
            "*",
        ),
    ),
    _fault(
        "days-end-with-results",
        "objects_end_when_the_parameter_says",
        put(
            "Results > LifecycleConfiguration > Rules > Id=days-expire > ExpirationInDays",
            {"Ref": "ResultRetentionDays"},
        ),
        variant="numbers",
    ),
    _fault(
        "former-days-gone-before-the-event",
        "objects_end_when_the_parameter_says",
        put(
            "Results > LifecycleConfiguration > Rules > Id=days-expire > NoncurrentVersionExpiration > NoncurrentDays",
            1,
        ),
    ),
    _fault(
        "may-scan",
        "nobody_may_look_around_or_delete " + MATRIX,
        add(_statement("FetchAppointmentsPolicy", "Jobs") + " > Action", "dynamodb:Scan"),
    ),
    _fault(
        "statement-of-two-services",
        "statement_names_itself_and_one_kind_of_thing " + MATRIX,
        put(
            _statement("ReadAppointmentsPolicy", "FindWork") + " > Action",
            ["dynamodb:Query", "ssm:GetParameter"],
        ),
        put(
            _statement("ReadAppointmentsPolicy", "Decrypt")
            + " > Condition > StringEquals > kms:ViaService",
            [
                {"Fn::Sub": f"{service}.${{AWS::Region}}.amazonaws.com"}
                for service in ("lambda", "dynamodb", "secretsmanager", "ssm", "s3", "sqs")
            ],
        ),
    ),
    _fault(
        "statement-about-everything",
        "statement_names_itself_and_one_kind_of_thing " + MATRIX,
        put(_statement("ReadAppointmentsPolicy", "FindWork") + " > Resource", "*"),
    ),
    _fault(
        "statement-without-name",
        "statement_names_itself_and_one_kind_of_thing",
        drop(_statement("SchedulerPolicy", "Invoke") + " > Sid"),
    ),
    _fault(
        "statement-with-wildcard",
        "statement_names_itself_and_one_kind_of_thing " + MATRIX,
        put(_statement("ReadAppointmentsPolicy", "FindWork") + " > Action", "dynamodb:Quer*"),
    ),
    _fault(
        "policy-inline", "role_has_one_policy_of_ours", add("ReadAppointmentsRole > Policies", [])
    ),
    _fault(
        "policy-of-aws",
        "role_has_one_policy_of_ours",
        add(
            "ReadAppointmentsRole > ManagedPolicyArns",
            {"Fn::Sub": "arn:${AWS::Partition}:iam::aws:policy/ReadOnlyAccess"},
        ),
    ),
    _fault(
        "policy-for-a-user",
        "role_has_one_policy_of_ours",
        add("ReadAppointmentsPolicy > Users", ["someone"]),
    ),
    _fault(
        "role-for-another-service",
        "role_is_taken_by_its_service_alone",
        put(
            "ReadAppointmentsRole > AssumeRolePolicyDocument > Statement > 0 > Principal",
            {"AWS": "*"},
        ),
    ),
    _fault(
        "role-of-schedules-for-any-account",
        "role_is_taken_by_its_service_alone",
        drop("SchedulerRole > AssumeRolePolicyDocument > Statement > 0 > Condition"),
    ),
    _fault(
        "key-through-anything",
        "role_uses_the_key_for_what_it_does_and_nothing_else",
        drop(_statement("ReceiveWebhookPolicy", "Decrypt") + " > Condition"),
    ),
    _fault(
        "key-through-one-service-too-many",
        "role_uses_the_key_for_what_it_does_and_nothing_else",
        add(
            _statement("FetchAppointmentsPolicy", "Decrypt")
            + " > Condition > StringEquals > kms:ViaService",
            {"Fn::Sub": "ssm.${AWS::Region}.amazonaws.com"},
        ),
    ),
    _fault(
        "key-missing-for-failures",
        "role_uses_the_key_for_what_it_does_and_nothing_else",
        drop(_statement("PlanFetchesPolicy", "EncryptMessages")),
    ),
    _fault(
        "announces-in-any-name",
        "role_announces_in_our_name_only",
        drop(_statement("ReconcileJobsPolicy", "Announce") + " > Condition"),
    ),
    # the key
    _fault(
        "key-for-anybody",
        "key_serves_this_account_and_three_services_of_it",
        put("Key > KeyPolicy > Statement > Sid=AccountDelegatesToIam > Principal", {"AWS": "*"}),
    ),
    _fault(
        "key-for-events-of-any-account",
        "key_serves_this_account_and_three_services_of_it",
        drop("Key > KeyPolicy > Statement > Sid=EventsOnTheBusAndInQueues > Condition"),
    ),
    _fault(
        "key-for-one-service-more",
        "key_serves_this_account_and_three_services_of_it",
        add(
            "Key > KeyPolicy > Statement",
            {
                "Sid": "More",
                "Effect": "Allow",
                "Principal": {"Service": "sns.amazonaws.com"},
                "Action": "kms:Decrypt",
                "Resource": "*",
            },
        ),
    ),
    _fault(
        "key-not-for-alarms",
        "key_lets_services_do_what_they_need",
        put("Key > KeyPolicy > Statement > Sid=AlarmsToTheTopic > Action", ["kms:GenerateDataKey"]),
    ),
    _fault(
        "key-not-for-that-log",
        "key_knows_every_log_group",
        put("WebAclLogs > LogGroupName", {"Fn::Sub": "aws-waf-logs-cobalt-${AWS::StackName}"}),
    ),
    # data
    _fault(
        "access-logs-in-clear",
        "everything_is_encrypted_with_the_one_key",
        drop("AccessLogs > BucketEncryption"),
    ),
    _fault(
        "table-encryption-off",
        "everything_is_encrypted_with_the_one_key",
        drop("Table > SSESpecification > SSEEnabled"),
    ),
    _fault(
        "rotation-at-deployment",
        "rotation_waits_for_its_day",
        drop("WebhookSecretRotation > RotateImmediatelyOnUpdate"),
    ),
    _fault(
        "table-under-aws-key",
        "everything_is_encrypted_with_the_one_key",
        drop("Table > SSESpecification > KMSMasterKeyId"),
    ),
    _fault(
        "type-not-looked-at",
        "everything_is_encrypted_with_the_one_key",
        resource("Cache", "AWS::ElastiCache::ServerlessCache", {}),
    ),
    _fault(
        "results-deleted-with-the-stack",
        "what_must_outlive_the_stack_is_retained",
        put("Results > DeletionPolicy", "Delete"),
    ),
    _fault(
        "logs-for-ever",
        "logs_end_when_the_parameter_says",
        drop("PlanFetchesLogs > RetentionInDays"),
    ),
    _fault(
        "logs-as-long-as-results",
        "logs_end_when_the_parameter_says",
        put("ApiAccessLogs > RetentionInDays", 17),
    ),
    _fault(
        "results-for-ever",
        "objects_end_when_the_parameter_says",
        put("Results > LifecycleConfiguration > Rules > Id=results-expire > Status", "Disabled"),
    ),
    _fault(
        "results-by-a-number",
        "objects_end_when_the_parameter_says",
        put("Results > LifecycleConfiguration > Rules > Id=results-expire > ExpirationInDays", 30),
        variant="numbers",
    ),
    _fault(
        "versions-for-ever",
        "objects_end_when_the_parameter_says",
        drop(
            "AccessLogs > LifecycleConfiguration > Rules > Id=logs-expire > NoncurrentVersionExpiration"
        ),
    ),
    _fault(
        "rows-by-another-attribute",
        "rows_end_by_the_attribute_that_the_code_writes",
        put("Table > TimeToLiveSpecification > AttributeName", "expiresAt"),
    ),
    _fault(
        "table-without-recovery",
        "table_can_be_restored",
        put("Table > PointInTimeRecoverySpecification > PointInTimeRecoveryEnabled", False),
    ),
    _fault(
        "bucket-open",
        "bucket_is_closed_and_versioned",
        put("Results > PublicAccessBlockConfiguration > BlockPublicPolicy", False),
    ),
    _fault(
        "bucket-unversioned",
        "bucket_is_closed_and_versioned",
        drop("AccessLogs > VersioningConfiguration"),
    ),
    _fault(
        "bucket-access-unlogged",
        "access_to_results_is_logged",
        drop("Results > LoggingConfiguration"),
    ),
    _fault(
        "bucket-plain-http",
        "bucket_refuses_plain_http",
        drop(_statement("AccessLogsPolicy", "RefusePlainHttp")),
    ),
    _fault(
        "bucket-refuses-the-default-key",
        "results_are_written_under_no_other_key",
        drop(_statement("ResultsPolicy", "RefuseOtherKeys") + " > Condition > Null"),
    ),
    _fault(
        "bucket-takes-sse-s3",
        "results_are_written_under_no_other_key",
        drop(_statement("ResultsPolicy", "RefuseOtherEncryption")),
    ),
    _fault(
        "bucket-for-anybody",
        "nothing_outside_is_let_into_a_bucket",
        add(
            "ResultsPolicy > PolicyDocument > Statement",
            {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "*"},
        ),
    ),
    _fault(
        "secret-generated",
        "secret_has_no_value_in_the_template",
        add("WebhookSecret > GenerateSecretString", {}),
    ),
    _fault(
        "secret-resolved-into-environment",
        "no_secret_is_resolved_into_the_stack",
        put(
            "FetchAppointments > Environment > Variables > TABLE_NAME",
            "{{resolve:secretsmanager:x}}",
        ),
    ),
    _fault(
        "caller-key-in-output",
        "output_tells_no_secret",
        put("Outputs > ApiKeyId > Value", {"Fn::GetAtt": ["CallerKey", "Value"]}),
    ),
    _fault("output-unexplained", "output_tells_no_secret", drop("Outputs > ApiUrl > Description")),
    # parameters
    _fault(
        "plain-http-by-default",
        "no_default_weakens_the_stack",
        put("Parameters > RequireTls > Default", "false"),
    ),
    _fault(
        "unprotected-by-default",
        "no_default_weakens_the_stack",
        put("Parameters > DeletionProtection > Default", "false"),
    ),
    _fault(
        "parameter-unbounded",
        "parameter_is_described_bounded_and_defaulted",
        drop("Parameters > DomainName > AllowedPattern"),
    ),
    _fault(
        "parameter-without-default",
        "parameter_is_described_bounded_and_defaulted",
        drop("Parameters > JobDeadlineMinutes > Default"),
    ),
    # events, failures, alarms
    _fault(
        "queue-for-any-event",
        "queue_is_sent_to_by_our_events_alone events_may_be_sent_to_their_queues",
        drop(_statement("EventLogPolicy", "EventsAreSent") + " > Condition"),
    ),
    _fault(
        "queue-policy-of-two",
        "policy_of_a_queue_names_that_queue_alone",
        put(
            _statement("FetchQueuePolicy", "RefusePlainHttp") + " > Resource",
            [{"Fn::GetAtt": ["FetchQueue", "Arn"]}, {"Fn::GetAtt": ["FetchFailures", "Arn"]}],
        ),
    ),
    _fault(
        "queue-plain-http",
        "queue_refuses_plain_http",
        drop(_statement("ScheduleFailuresPolicy", "RefusePlainHttp")),
    ),
    _fault(
        "failures-queue-shared",
        "failures_queue_is_nobody_elses",
        drop("ScheduleFailures > RedriveAllowPolicy"),
    ),
    _fault("alarm-at-a-hundred", "failures_raise_an_alarm", put(f"{ALARM} > Threshold", 100)),
    _fault("alarm-unheard", "alarm_is_heard", drop("BadSignatures > AlarmActions")),
    _fault(
        "alarm-off",
        "alarm_is_heard",
        add("BadSignatures > ActionsEnabled", False),
    ),
    _fault(
        "alarm-about-nothing",
        "alarm_is_about_a_metric_that_the_code_counts alarms_are_those_that_a_person_wants_at_night",
        put("BadSignatures > MetricName", "BadSignatures"),
    ),
    _fault(
        "alarm-of-another-service",
        "alarm_is_about_a_metric_that_the_code_counts alarms_are_those_that_a_person_wants_at_night",
        put("BadSignatures > Dimensions > 0 > Value", "relay"),
    ),
    _fault(
        "alarm-that-takes-silence-for-health",
        "alarm_is_green_where_there_is_nothing_to_count",
        put("OldOpenJobs > TreatMissingData", "notBreaching"),
    ),
    _fault(
        "alarm-about-silence",
        "alarm_is_green_where_there_is_nothing_to_count",
        put(f"{ALARM} > TreatMissingData", "missing"),
    ),
    _fault(
        "topic-for-anybody",
        "topic_is_told_by_alarms_over_tls_alone",
        drop(_statement("AlarmsPolicy", "AlarmsAreSent") + " > Condition"),
    ),
    _fault(
        "topic-plain-http",
        "topic_is_told_by_alarms_over_tls_alone",
        drop(_statement("AlarmsPolicy", "RefusePlainHttp")),
    ),
    _fault(
        "topic-for-any-account-but-ours",
        "topic_is_told_by_alarms_over_tls_alone",
        put(
            _statement("AlarmsPolicy", "AlarmsAreSent") + " > Condition",
            {"StringNotEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}},
        ),
    ),
    _fault(
        "topic-for-any-action",
        "topic_is_told_by_alarms_over_tls_alone",
        put(_statement("AlarmsPolicy", "AlarmsAreSent") + " > Action", "sns:*"),
    ),
    _fault(
        "alarm-at-half-a-million-forgeries",
        "alarms_are_those_that_a_person_wants_at_night",
        put("BadSignatures > Threshold", 500_000),
    ),
    _fault(
        "alarm-the-other-way-round",
        "alarms_are_those_that_a_person_wants_at_night",
        put("ExpiredFetches > ComparisonOperator", "LessThanThreshold"),
    ),
    _fault(
        "alarm-about-another-function",
        "alarms_are_those_that_a_person_wants_at_night",
        put("ThrottledWebhooks > Dimensions > 0 > Value > Ref", "ReadAppointments"),
    ),
    # limits
    _fault(
        "fetches-limited-as-webhooks-are",
        "every_route_has_a_limit_of_its_own",
        put(f"{STAGE} > MethodSettings > 1 > ThrottlingRateLimit", 200),
    ),
    _fault(
        "execution-log-of-everything",
        "no_body_is_traced",
        put(f"{STAGE} > MethodSettings > 1 > LoggingLevel", "INFO"),
    ),
    _fault(
        "rotation-for-another-secret",
        "only_the_gateway_invokes_the_functions_of_routes",
        put("RotateWebhookSecretPermission > SourceArn > Fn::GetAtt > 0", "CobaltCredentials"),
    ),
    _fault(
        "waf-counts-addresses",
        "firewall_blocks_and_not_only_counts",
        put("WebAcl > Rules > Name=rate > Action", {"Count": {}}),
    ),
    _fault(
        "waf-counts-attacks",
        "firewall_blocks_and_not_only_counts",
        put("WebAcl > Rules > Name=common > OverrideAction", {"Count": {}}),
    ),
    _fault(
        "waf-limit-out-of-reach",
        "firewall_blocks_and_not_only_counts",
        put("WebAcl > Rules > Name=rate > Statement > RateBasedStatement > Limit", 2_000_000_000),
    ),
    _fault(
        "waf-log-quotes-bodies",
        "firewall_keeps_no_samples",
        drop("WebAcl > DataProtectionConfig"),
    ),
    _fault(
        "metrics-below-the-level",
        "function_never_logs_at_debug",
        put("ReconcileJobs > LoggingConfig > ApplicationLogLevel", "ERROR"),
    ),
    _fault(
        "tokens-under-the-key-of-aws",
        "function_is_told_the_key_and_the_days_of_the_stack",
        put("FetchAppointments > Environment > Variables > TOKEN_KEY_ARN", "alias/aws/ssm"),
    ),
    _fault(
        "rows-as-long-as-logs",
        "function_is_told_the_key_and_the_days_of_the_stack",
        put("FetchAppointments > Environment > Variables > RESULT_RETENTION_DAYS", 400),
        variant="numbers",
    ),
    _fault(
        "key-for-every-log",
        "key_serves_this_account_and_three_services_of_it key_knows_every_log_group",
        put(
            "Key > KeyPolicy > Statement > Sid=LogsOfThisStack > Condition > ArnLike > kms:EncryptionContext:aws:logs:arn",
            [{"Fn::Sub": "arn:${AWS::Partition}:logs:*:*:log-group:*"}],
        ),
    ),
    _fault(
        "key-for-alarms-of-others",
        "key_serves_this_account_and_three_services_of_it",
        put(
            "Key > KeyPolicy > Statement > Sid=AlarmsToTheTopic > Condition",
            {"StringNotEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}},
        ),
    ),
    _fault(
        "key-lent-to-anybody",
        "key_serves_this_account_and_three_services_of_it",
        put(
            "Key > KeyPolicy > Statement > Sid=GrantsOnlyForAwsServices > Condition > BoolIfExists > kms:GrantIsForAWSResource",
            "true",
        ),
    ),
    _fault(
        "key-does-more-for-events",
        "key_lets_services_do_what_they_need",
        add("Key > KeyPolicy > Statement > Sid=EventsOnTheBusAndInQueues > Action", "kms:*"),
    ),
    _fault(
        "key-never-renewed",
        "key_is_renewed_and_hard_to_lose",
        put("Key > EnableKeyRotation", False),
    ),
    _fault(
        "key-gone-in-a-week",
        "key_is_renewed_and_hard_to_lose",
        put("Key > PendingWindowInDays", 7),
    ),
    _fault(
        "versions-for-years",
        "objects_end_when_the_parameter_says",
        put(
            "Results > LifecycleConfiguration > Rules > Id=results-expire > NoncurrentVersionExpiration > NoncurrentDays",
            3000,
        ),
    ),
    _fault(
        "table-restored-to-yesterday",
        "table_can_be_restored",
        put("Table > PointInTimeRecoverySpecification > RecoveryPeriodInDays", 1),
    ),
    _fault(
        "access-logs-of-any-bucket",
        "nothing_outside_is_let_into_a_bucket",
        put(
            _statement("AccessLogsPolicy", "S3Logs") + " > Condition > ArnLike > aws:SourceArn", "*"
        ),
    ),
)
