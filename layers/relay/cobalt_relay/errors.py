"""Everything that can go wrong, named by situation.

    RelayError
    ├── CallerError                     the caller can mend it
    │   ├── MissingHeaders
    │   ├── WrongClientCredentials
    │   ├── UnusableAccessToken
    │   ├── BodyTooLarge
    │   ├── BodyTooComplex
    │   ├── UnsupportedContent
    │   ├── MalformedBody
    │   ├── InvalidIdempotencyKey
    │   ├── IdempotencyKeyReused
    │   ├── InvalidWait
    │   ├── NoSuchJob
    │   ├── NotAcceptable
    │   ├── InvalidReadRequest
    │   │   ├── InvalidParameter
    │   │   ├── RepeatedParameter
    │   │   └── InvalidCursor
    │   └── InvalidFetchRequest
    │       ├── MissingParameters
    │       ├── InvalidDateFormat
    │       ├── EndNotAfterStart
    │       ├── WindowTooLong
    │       ├── UnknownSearchBy
    │       ├── UnknownRangeSearchBy
    │       ├── TooManyPieces
    │       ├── InvalidMrn
    │       ├── InvalidProviderIds
    │       └── SeveralProvidersSeveralDays
    ├── DeliveryError                   a webhook that is not taken in
    │   ├── BadSignature
    │   ├── KeyNotYetKnown
    │   ├── StaleDelivery
    │   ├── MalformedDelivery
    │   └── DeliveryTooLarge
    ├── UpstreamRefusal                 Cobalt said no: nothing was started
    │   ├── RequestRefused
    │   ├── AccessTokenRefused
    │   ├── AccessForbidden
    │   └── RateLimited
    ├── UpstreamFault                   Cobalt failed
    │   ├── UpstreamUnreachable
    │   ├── UpstreamUnavailable
    │   ├── UpstreamBroken
    │   ├── UpstreamMalformed
    │   ├── UpstreamUnanswered
    │   └── DaysNotBrought
    ├── FetchUnderWay                   the same question is being asked at this moment
    ├── NotConfigured                   the operator has something left to do
    │   ├── CredentialsNotConfigured
    │   ├── WebhookSecretNotConfigured
    │   └── EnvironmentIncomplete
    ├── StorageFault                    an AWS service of ours failed; trying again helps
    │   ├── TableFault
    │   ├── ResultsFault
    │   ├── BusFault
    │   ├── SecretsFault
    │   ├── TokensFault
    │   └── QueueFault
    ├── ScheduleError                   a schedule asks for something that cannot be done
    │   ├── InvalidScheduleInput
    │   ├── UnknownConnection
    │   ├── ConnectionSuspended
    │   ├── MalformedWork
    │   ├── RobotBusy
    │   └── TriesSpent
    ├── ChangeError                     what a fetch changed cannot be told
    │   ├── MalformedNotice
    │   └── UnreadableResult
    ├── RegistryError                   an operator asks for what cannot be done with a connection
    │   ├── ConnectionUnregistered
    │   ├── SameToken
    │   ├── AnotherClinic
    │   ├── UnprovenClinic
    │   └── ConnectionMoved
    ├── RotationError                   the webhook secret cannot be rotated
    │   ├── InvalidRotationEvent
    │   ├── NotTheWebhookSecret
    │   ├── UnknownRotation
    │   ├── WebhookNotRegistered
    │   ├── RotationHeldUp
    │   ├── PendingSecretMissing
    │   ├── PendingSecretOutdated
    │   └── PendingSecretUnproven
    ├── OutOfTime                       work that was left because the run had to end
    └── UnexpectedFailure               nobody foresaw it

Messages are constants. They never quote what came in: a caller's input can hold patient data, and
every message may end in an answer or a log. The one text from outside is the refusal of Cobalt,
which is meant for the caller.
"""

from typing import ClassVar


class RelayError(Exception):
    """Base of every error of the relay. `code` is stable and unique; `message` is for people."""

    code: ClassVar[str] = "relay_error"
    message: str = "The relay failed."
    retry_after: str | None = None
    """When to try again, as the `Retry-After` header has it."""

    @property
    def reason(self) -> str:
        """The code for rows, events and logs: Cobalt's own where it sent one, else `code`."""
        return self.code

    def __init__(self, message: str | None = None) -> None:
        if message is not None:
            self.message = message
        super().__init__(self.message)


class CallerError(RelayError):
    """The caller can mend it."""

    code = "caller_error"


class MissingHeaders(CallerError):
    """One of the three headers of the contract is absent or empty, or has two different values.

    The names of headers are no secret.
    """

    code = "missing_headers"

    def __init__(self, names: list[str]) -> None:
        super().__init__(f"Missing required headers: {', '.join(names)}.")


class WrongClientCredentials(CallerError):
    """`client_id` and `client_secret` are not the ones of this relay.

    It does not say which of the two.
    """

    code = "wrong_client_credentials"
    message = "Invalid client_id or client_secret."


class UnusableAccessToken(CallerError):
    """The token could not be an HTTP header value, so no such token can have been issued."""

    code = "unusable_access_token"
    message = "Invalid access_token."


class BodyTooLarge(CallerError):
    """Refused before it is parsed."""

    code = "body_too_large"
    message = "The request body is too large: a fetch request has at most 65536 bytes."


class BodyTooComplex(CallerError):
    """Refused before it is parsed."""

    code = "body_too_complex"
    message = (
        "The request body is too complex: a fetch request has at most 100 values and 8 levels."
    )


class UnsupportedContent(CallerError):
    """The headers say that the body is compressed, or text of another encoding than UTF-8."""

    code = "unsupported_content"
    message = "The request body must be JSON in UTF-8, not compressed."


class MalformedBody(CallerError):
    """Not JSON, or JSON that no two parsers read alike (duplicate keys, NaN), or not an object."""

    code = "malformed_body"
    message = "The request body must be a JSON object, in UTF-8, without duplicate keys."


class InvalidIdempotencyKey(CallerError):
    """The `Idempotency-Key` header is empty, too long, given twice, or not printable."""

    code = "invalid_idempotency_key"
    message = "Idempotency-Key must be one value of 1 to 255 printable characters."


class IdempotencyKeyReused(CallerError):
    """The key has come with another body within its 24 hours."""

    code = "idempotency_key_reused"
    message = (
        "This Idempotency-Key was used with another request body in the last 24 hours. "
        "Use a new key for a new request."
    )


class InvalidWait(CallerError):
    """`wait` is anything but a whole number of seconds within its bounds, or is given twice."""

    code = "invalid_wait"
    message = "wait must be one whole number of seconds, 0 to 20."


class NoSuchJob(CallerError):
    """There is no such job for this caller.

    Whether there is one for somebody else, or the caller is nobody's: the answer is the same.
    """

    code = "no_such_job"
    message = (
        "No such job. The id must be one that a fetch with this access_token was answered with, "
        "within the time for which jobs are kept."
    )


class NotAcceptable(CallerError):
    """The `Accept` header wants a form that there is not."""

    code = "not_acceptable"
    message = (
        "Appointments are told as application/json, application/x-ndjson or application/fhir+json."
        " Accept one of these."
    )


class InvalidReadRequest(CallerError):
    """Base of the checks of a read that Cobalt does not document."""

    code = "invalid_read_request"


class InvalidParameter(InvalidReadRequest):
    """A query parameter is not what it must be. Its name is no secret; its value may be."""

    code = "invalid_parameter"

    def __init__(self, name: str, must: str) -> None:
        super().__init__(f"{name} must be {must}.")


class RepeatedParameter(InvalidReadRequest):
    """A query parameter is given more often than it may be."""

    code = "repeated_parameter"

    def __init__(self, name: str, most: int) -> None:
        times = "once" if most == 1 else f"{most} times"
        super().__init__(f"{name} must not be given more than {times}.")


class InvalidCursor(InvalidReadRequest):
    """The cursor is none, or belongs to another query or connection."""

    code = "invalid_cursor"
    message = (
        "cursor must be the next_cursor of an answer to the same query. Begin again without it."
    )


class InvalidFetchRequest(CallerError):
    """Base of the documented checks of a fetch request (docs: Fetch appointments)."""

    code = "invalid_fetch_request"


class MissingParameters(InvalidFetchRequest):
    """A parameter that the mode of search needs is absent, null or empty.

    Names the needed ones, in documented order.
    """

    code = "missing_parameters"

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__(f"Missing required parameters: {', '.join(names)}.")


class InvalidDateFormat(InvalidFetchRequest):
    """A date is not `YYYY-MM-DD`, or no day of the calendar."""

    code = "invalid_date_format"
    message = "Invalid date format. Use ISO format (YYYY-MM-DD)."


class EndNotAfterStart(InvalidFetchRequest):
    """The window ends before it begins, or on the same day where the contract wants a later one."""

    code = "end_not_after_start"
    message = "end_date must be after start_date."


class WindowTooLong(InvalidFetchRequest):
    """The window is longer than Cobalt allows for the mode of search."""

    code = "window_too_long"

    def __init__(self, days: int) -> None:
        super().__init__(f"Date range cannot exceed {days} days.")


class UnknownSearchBy(InvalidFetchRequest):
    """`search_by` is none of the documented modes."""

    code = "unknown_search_by"
    message = "search_by must be one of: date_range, mrn, provider."


class UnknownRangeSearchBy(InvalidFetchRequest):
    """`search_by` is none of the modes that have days to be split."""

    code = "unknown_range_search_by"
    message = "search_by must be one of: date_range, provider."


class TooManyPieces(InvalidFetchRequest):
    """More days times providers than a clinic's robot can get through."""

    code = "too_many_pieces"
    message = "The range has too many pieces: at most 400 fetches of one day or more each."


class InvalidMrn(InvalidFetchRequest):
    """`mrn` is not a usable string."""

    code = "invalid_mrn"
    message = "mrn must be a string of 1 to 128 printable characters."


class InvalidProviderIds(InvalidFetchRequest):
    """`provider_ids` is not a list of as many ids as the route takes."""

    code = "invalid_provider_ids"

    def __init__(self, most: int) -> None:
        super().__init__(f"provider_ids must be a list of 1 to {most} provider ids.")


class SeveralProvidersSeveralDays(InvalidFetchRequest):
    """Several providers can be searched on one day only (docs: Fetch appointments, `search_by`)."""

    code = "several_providers_several_days"
    message = "With 2 to 10 provider_ids, start_date and end_date must be the same day."


class DeliveryError(RelayError):
    """A webhook that is not taken in."""

    code = "delivery_error"


class BadSignature(DeliveryError):
    """The signature is absent, malformed, or fits none of the live keys.

    The answer is the same whatever the reason, so that it teaches a forger nothing.
    """

    code = "bad_signature"
    message = "Invalid signature."


class KeyNotYetKnown(DeliveryError):
    """The signature fits no key, but Cobalt may sign with one that the relay has not got yet.

    While a rotation is on. Cobalt repeats a delivery a second after this, and never after a 401.
    """

    code = "key_not_yet_known"
    message = "The signature cannot be verified at the moment. Try again."
    retry_after = "1"


class StaleDelivery(DeliveryError):
    """Signed by Cobalt, but at another time than now, and nobody waits for it: a replay."""

    code = "stale_delivery"
    message = "The webhook was signed too long ago, or in the future."


class MalformedDelivery(DeliveryError):
    """Signed by Cobalt, but not JSON, nested too deep, or without `id` or `type`."""

    code = "malformed_delivery"
    message = "The webhook body must be a JSON object with an id and a type."


class DeliveryTooLarge(DeliveryError):
    """More than a Lambda invocation can carry; refused before it is hashed."""

    code = "delivery_too_large"
    message = "The webhook body is too large."


class UpstreamRefusal(RelayError):
    """Cobalt answered, and refused. Nothing was started.

    `message` is the text of Cobalt, `error` its short code where it sent one (`login_required`),
    and `retry_after` its `Retry-After` header, in the form it had.
    """

    code = "upstream_refusal"
    message = "Cobalt refused the request."

    def __init__(
        self,
        message: str | None = None,
        *,
        error: str | None = None,
        retry_after: str | None = None,
        emr_name: str | None = None,
    ) -> None:
        super().__init__(message)
        self.error = error
        self.retry_after = retry_after
        self.emr_name = emr_name
        """The clinic's EMR, where Cobalt refused because of it."""

    @property
    def reason(self) -> str:
        """Cobalt's own code, but none with a digit: that could be a patient's number."""
        is_plain = self.error is not None and self.error.replace("_", "").isalpha()
        return self.error if self.error and is_plain else self.code


class RequestRefused(UpstreamRefusal):
    """400: Cobalt does not take this request; an EMR that it cannot fetch live from, for one."""

    code = "request_refused"


class AccessTokenRefused(UpstreamRefusal):
    """401: Cobalt does not know the token, or no longer takes the client credentials."""

    code = "access_token_refused"
    message = "Cobalt refused the access token or the client credentials."


class AccessForbidden(UpstreamRefusal):
    """403: the link to the clinic is broken (`login_required`), or the token may not do this."""

    code = "access_forbidden"
    message = "Cobalt forbids this with the given access token."


class RateLimited(UpstreamRefusal):
    """429: too many requests."""

    code = "rate_limited"
    message = "Cobalt takes no more requests at the moment. Try again later."


class UpstreamFault(RelayError):
    """Cobalt failed.

    `may_have_started` tells whether the fetch may run nevertheless: then it is never sent again.
    """

    code = "upstream_fault"
    may_have_started: ClassVar[bool] = True


class UpstreamUnreachable(UpstreamFault):
    """No connection.

    Refused, no such host, TLS failed, no answer to the connection attempt. Nothing was sent.
    """

    code = "upstream_unreachable"
    message = "Cobalt cannot be reached. Nothing was started; try again later."
    may_have_started = False


class UpstreamUnavailable(UpstreamFault):
    """A refusal that the contract does not know: nothing was started.

    A 503 with `Retry-After`, an undocumented 4xx, a redirect.
    """

    code = "upstream_unavailable"
    message = (
        "Cobalt does not take the request at the moment. Nothing was started; try again later."
    )
    may_have_started = False

    def __init__(self, *, retry_after: str | None = None) -> None:
        super().__init__()
        self.retry_after = retry_after


class UpstreamBroken(UpstreamFault):
    """A 5xx, from Cobalt or from something in front of it: what happened behind it is unknown."""

    code = "upstream_broken"
    message = (
        "Cobalt answered with an error of its own. The fetch may or may not have been started."
    )


class UpstreamMalformed(UpstreamFault):
    """A success that is none: no JSON, or no job id."""

    code = "upstream_malformed"
    message = "Cobalt's answer could not be understood. The fetch may or may not have been started."


class UpstreamUnanswered(UpstreamFault):
    """Sent, and no answer came: time ran out or the connection ended."""

    code = "upstream_unanswered"
    message = (
        "Cobalt did not answer, so it is unknown whether the fetch was started. The relay does not "
        "send it again; quote the x-request-id header to follow it up."
    )


class DaysNotBrought(UpstreamFault):
    """The last fetch of some days failed, or did not bring the whole of them.

    Nothing was started: a reader who asks on is not to keep the clinic's robot at it.
    """

    code = "days_not_brought"
    message = (
        "The last fetch of these days failed or did not bring all of them. Nothing was started; "
        "try again later, or take older days with allow_stale=true."
    )
    may_have_started = False

    def __init__(self, rest_seconds: int) -> None:
        super().__init__()
        self.retry_after = str(rest_seconds)


class FetchUnderWay(RelayError):
    """An equal request is being put to Cobalt at this moment, and its answer takes too long.

    Nothing was started for this one; it can be sent again and joins the other one then.
    """

    code = "fetch_under_way"
    message = "An identical request is still under way. Send this one again in a few seconds."
    retry_after = "5"


class NotConfigured(RelayError):
    """The operator has something left to do; the message says what."""

    code = "not_configured"
    retry_after = "60"


class CredentialsNotConfigured(NotConfigured):
    """The secret with the client credentials is empty or unusable."""

    code = "credentials_not_configured"
    message = (
        "The relay has no Cobalt client credentials yet. Operator: put client_id and client_secret "
        "into the secret that the stack output CobaltCredentialsArn names."
    )


class WebhookSecretNotConfigured(NotConfigured):
    """The secret with Cobalt's webhook key is empty or unusable."""

    code = "webhook_secret_not_configured"
    message = (
        "The relay has no webhook secret yet. Operator: register the webhook with Cobalt and put "
        "webhook_secret_key into the secret that the stack output WebhookSecretArn names."
    )


class EnvironmentIncomplete(NotConfigured):
    """A function runs without a variable that the template sets.

    Names of variables are no secret.
    """

    code = "environment_incomplete"

    def __init__(self, names: list[str]) -> None:
        super().__init__(
            f"Missing or invalid environment variables: {', '.join(names)}. "
            "Deploy the template again."
        )


class StorageFault(RelayError):
    """An AWS service of ours failed or refused."""

    code = "storage_fault"
    message = "The relay cannot store at the moment. Try again."
    retry_after = "1"


class TableFault(StorageFault):
    """DynamoDB."""

    code = "table_fault"


class ResultsFault(StorageFault):
    """S3."""

    code = "results_fault"


class BusFault(StorageFault):
    """EventBridge: the call failed, or an entry of it did."""

    code = "bus_fault"


class SecretsFault(StorageFault):
    """Secrets Manager failed; that is never taken for an empty secret, and never opens a door."""

    code = "secrets_fault"


class TokensFault(StorageFault):
    """SSM Parameter Store."""

    code = "tokens_fault"


class QueueFault(StorageFault):
    """SQS: the call failed, or an entry of it did. What was sent is known when it comes again."""

    code = "queue_fault"


class ScheduleError(RelayError):
    """A schedule asks for something that cannot be done."""

    code = "schedule_error"


class InvalidScheduleInput(ScheduleError):
    """The input of a schedule is not of its form."""

    code = "invalid_schedule_input"
    message = (
        'The input of a schedule must be {"connections": "all" or a list of connection ids, '
        '"from_day": -365 to 365, "days": 2 to 366}; optional are "search_by" with "provider_ids" '
        '(then also 1 day), "spread_minutes": 0 to 720, "at": "HH:MM" in quarters of an hour, '
        '"schedule" and "scheduled_at".'
    )


class UnknownConnection(ScheduleError):
    """A schedule names a connection that never registered itself, or whose token is gone."""

    code = "unknown_connection"
    message = (
        "No token is kept for this connection. "
        "Its first accepted fetch through the relay registers it."
    )


class ConnectionSuspended(ScheduleError):
    """The clinic has to link its account again; until then nothing fetches it by itself."""

    code = "login_required"
    message = "The clinic has to link its account again. Its next successful fetch resumes it."


class MalformedWork(ScheduleError):
    """A message of the queue that the relay has not written, or another version of it has."""

    code = "malformed_work"
    message = "This message of the queue is no fetch that the relay knows of."


class RobotBusy(ScheduleError):
    """As many fetches of the connection are under way as its clinic's robot is asked to do at once.

    Nothing was started.
    """

    code = "robot_busy"
    message = "The clinic's robot is at another fetch. Try again in a minute."


class TriesSpent(ScheduleError):
    """Cobalt took a piece at none of the tries; an operator may put it back."""

    code = "tries_spent"
    message = "Cobalt did not take this fetch, however often it was asked. Put it back later."


class ChangeError(RelayError):
    """What a fetch changed cannot be told; its result is kept."""

    code = "change_error"


class MalformedNotice(ChangeError):
    """The event is none that tells of appointments which were fetched."""

    code = "malformed_notice"
    message = "This is no event of the type Appointments Fetched with a job_execution_id."


class UnreadableResult(ChangeError):
    """The bytes of a result that was taken in as one are none."""

    code = "unreadable_result"
    message = "The result of this job holds no list of appointments."


class RegistryError(RelayError):
    """An operator asks for something that cannot be done with a connection."""

    code = "registry_error"


class ConnectionUnregistered(RegistryError):
    """There is no such connection."""

    code = "connection_unregistered"
    message = "There is no such connection."


class SameToken(RegistryError):
    """The new token is the old one: nothing has to be replaced."""

    code = "same_token"
    message = "This is the token that the connection has already."


class AnotherClinic(RegistryError):
    """The new token is labelled as another clinic's: the one's jobs would be shown to the other."""

    code = "another_clinic"
    message = (
        "This token is another clinic's: its access_token_reference_id is not that of the"
        " connection. Nothing was changed. Where it is the same clinic, give the token that label"
        " first (POST /v1/settings)."
    )


class UnprovenClinic(RegistryError):
    """Nothing says that the new token is the same clinic's: one of the two has no label."""

    code = "unproven_clinic"
    message = (
        "Nothing tells whether the token is the same clinic's, for one of the two has no"
        " access_token_reference_id. Nothing was changed. Give it one (POST /v1/settings), or"
        " confirm that it is."
    )


class ConnectionMoved(RegistryError):
    """The connection has been replaced already, by another one."""

    code = "connection_moved"
    message = "This connection was replaced by another one already."


class RotationError(RelayError):
    """The webhook secret cannot be rotated.

    Secrets Manager shows the message to the operator. Each step may be repeated at any time.
    """

    code = "rotation_error"


class InvalidRotationEvent(RotationError):
    """Not what Secrets Manager sends to a rotation function."""

    code = "invalid_rotation_event"
    message = (
        "A rotation step must name Step (createSecret, setSecret, testSecret or finishSecret), "
        "SecretId and ClientRequestToken. Only Secrets Manager invokes this function."
    )


class NotTheWebhookSecret(RotationError):
    """The function is asked to rotate another secret."""

    code = "not_the_webhook_secret"
    message = (
        "This function rotates the webhook secret alone, which the stack output WebhookSecretArn "
        "names. Operator: take it away from the rotation of the other secret."
    )


class UnknownRotation(RotationError):
    """The token names no version of the secret that is staged for rotation."""

    code = "unknown_rotation"
    message = (
        "No version of the webhook secret is staged for rotation under this token. Operator: start "
        "a rotation with `aws secretsmanager rotate-secret`."
    )


class WebhookNotRegistered(RotationError):
    """Cobalt does not deliver to this relay, so there is nothing to rotate."""

    code = "webhook_not_registered"
    message = (
        "Cobalt does not know this relay's webhook URL. Nothing was rotated. Operator: register "
        "the URL that the stack output WebhookUrl names with Cobalt, exactly as it stands there."
    )


class RotationHeldUp(RotationError):
    """Cobalt refused or failed; the log line `rotation_failed` says how."""

    code = "rotation_held_up"
    message = (
        "Cobalt refused or did not answer. Operator: let the rotation run again when Cobalt does; "
        "it goes on where it stopped and never rotates twice. Leave the label AWSPENDING alone."
    )


class PendingSecretMissing(RotationError):
    """The version under the token has no value: createSecret has not succeeded."""

    code = "pending_secret_missing"
    message = "The new webhook secret is not there yet. Operator: let the rotation run again."


class PendingSecretOutdated(RotationError):
    """Cobalt signs with yet another key: somebody has rotated it in the meantime."""

    code = "pending_secret_outdated"
    message = (
        "Cobalt uses another webhook secret than the pending one: it was rotated elsewhere in the "
        "meantime. Operator: take the label AWSPENDING off its version (`aws secretsmanager "
        "update-secret-version-stage --version-stage AWSPENDING --remove-from-version-id ...`) and "
        "start the rotation again; it takes over the secret that Cobalt uses."
    )


class PendingSecretUnproven(RotationError):
    """The relay's front door does not do with the pending key what it must.

    Either it refused a delivery signed with it, or it took one that is signed with no key at all.
    """

    code = "pending_secret_unproven"
    message = (
        "The relay did not take a delivery that is signed with the new secret, or did not refuse a "
        "forged one. Both secrets stay in use. Operator: see what ReceiveWebhook logs and whether "
        "the webhook URL answers, then let the rotation run again."
    )


class OutOfTime(RelayError):
    """Work that was left because the run had to end."""

    code = "out_of_time"
    message = "The run had to end before this was begun."


class UnexpectedFailure(RelayError):
    """Stands for an exception that nobody foresaw, whose own text could quote a patient."""

    code = "unexpected_failure"
    message = "The run failed unexpectedly. Its log has the type and the place of the error."
