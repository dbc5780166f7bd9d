"""Faults on demand: what may go wrong, for how many calls or jobs, and at whose expense."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sandbox.dice import dice

if TYPE_CHECKING:
    import random

FETCH_PATH = "/v1/appointments/fetch"
EVERY_PATH = "*"


class Group(StrEnum):
    """When a fault is drawn."""

    ANSWER = "answer"
    """Replaces the answer of a call."""
    ACCEPTANCE = "acceptance"
    """Bends the answer of a call that went well."""
    RESULT = "result"
    """Bends what a job reports."""
    DELIVERY = "delivery"
    """Bends how an event is delivered, be it a job's or another."""


CALL_GROUPS = frozenset({Group.ANSWER, Group.ACCEPTANCE})
EVENT_GROUPS = frozenset({Group.RESULT, Group.DELIVERY})
COMMON_OPTIONS = ("count", "rate", "clinic")


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault: its group, the options it knows and what it does."""

    group: Group
    summary: str
    options: tuple[str, ...] = ()

    @property
    def allowed(self) -> tuple[str, ...]:
        """Every option a fault of this kind may carry."""
        target = "path" if self.group in CALL_GROUPS else "job_id"
        return (*COMMON_OPTIONS, target, *self.options)


KINDS: dict[str, Kind] = {
    "rate_limited": Kind(
        Group.ANSWER, "429, with Retry-After if asked for", ("retry_after", "message")
    ),
    "server_error": Kind(Group.ANSWER, "500 with a JSON body", ("accepted", "message")),
    "unavailable": Kind(
        Group.ANSWER, "503 with a JSON body", ("retry_after", "accepted", "message")
    ),
    "html": Kind(
        Group.ANSWER, "an HTML error page, `status` (500)", ("status", "accepted", "message")
    ),
    "hang_up": Kind(Group.ANSWER, "closes the connection without an answer", ("accepted",)),
    "hang": Kind(Group.ANSWER, "never answers; waits until the client goes", ("accepted",)),
    "wrong_credentials": Kind(Group.ANSWER, "401 although the credentials are right", ("message",)),
    "slow": Kind(Group.ACCEPTANCE, "answers after `seconds` (3)", ("seconds",)),
    "accepted_as_200": Kind(Group.ACCEPTANCE, "accepts a fetch with 200 instead of 202"),
    "no_job_id": Kind(Group.ACCEPTANCE, "accepts a fetch without naming the job"),
    "numeric_job_id": Kind(Group.ACCEPTANCE, "names the job with a JSON number"),
    "silent": Kind(Group.RESULT, "the job never reports and is never recorded"),
    "failed": Kind(Group.RESULT, "`data.success` is false, with reasons that name a patient"),
    "empty": Kind(Group.RESULT, "no appointments at all"),
    "count_mismatch": Kind(Group.RESULT, "fewer appointments than `appointment_count` says"),
    "oversized": Kind(Group.RESULT, "a body of about `megabytes` (5)", ("megabytes",)),
    "early": Kind(Group.RESULT, "the result is delivered and answered before the 202 is sent"),
    "late": Kind(Group.DELIVERY, "recorded and delivered `seconds` (30) later", ("seconds",)),
    "lost": Kind(Group.DELIVERY, "recorded but never delivered"),
    "duplicated": Kind(Group.DELIVERY, "delivered twice, at once if `together`", ("together",)),
    "reordered": Kind(
        Group.DELIVERY, "held until the next event is through, at most `seconds` (5)", ("seconds",)
    ),
    "wrong_signature": Kind(Group.DELIVERY, "signed with a secret nobody has"),
    "missing_signature": Kind(Group.DELIVERY, "sent without cobalt-verification"),
    "uppercase_signature": Kind(Group.DELIVERY, "the hex digits are upper case"),
    "previous_secret": Kind(Group.DELIVERY, "signed with the secret before the last rotation"),
    "oldest_edition": Kind(Group.DELIVERY, "the 202 and the payload of the oldest edition"),
    "newest_edition": Kind(Group.DELIVERY, "the 202 and the payload of the newest edition"),
    "numeric_ids": Kind(Group.DELIVERY, "ids are JSON numbers"),
}


class FaultSpec(BaseModel):
    """What a test asks for; options that do not belong to the fault are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    fault: str
    count: Annotated[int, Field(ge=1)] | None = None
    rate: Annotated[float, Field(ge=0, le=1)] = 1.0
    clinic: str | None = None
    job_id: Annotated[str | int, Field(union_mode="left_to_right")] | None = None
    path: Annotated[str, Field(pattern=r"^(/.*|\*)$")] | None = None
    seconds: Annotated[float, Field(ge=0, le=86_400)] | None = None
    retry_after: Annotated[int, Field(ge=0)] | None = None
    megabytes: Annotated[float, Field(gt=0, le=64)] | None = None
    status: Annotated[int, Field(ge=400, le=599)] | None = None
    message: str | None = None
    together: bool = False
    accepted: bool | None = None


class BadFaultError(ValueError):
    """A fault that cannot be set; the text says why."""


@dataclass(slots=True)
class Fault:
    """A fault that is waiting for its next victim."""

    id: str
    spec: FaultSpec
    left: int | None
    chance: "random.Random"
    applied: int = 0

    @property
    def name(self) -> str:
        """The kind of fault."""
        return self.spec.fault

    @property
    def accepted(self) -> bool:
        """Whether the call takes effect although it is not answered as it should be.

        Unless told, calls that go unanswered take effect and calls that are answered with an error
        do not.
        """
        told = self.spec.accepted
        return self.name in ("hang_up", "hang") if told is None else told

    def seconds(self, default: float) -> float:
        """Give the asked-for seconds, else ``default``."""
        return default if self.spec.seconds is None else self.spec.seconds

    def public(self) -> dict[str, object]:
        """Show the fault on the control interface."""
        given = self.spec.model_dump(exclude_unset=True)
        return {"id": self.id, **given, "left": self.left, "applied": self.applied}


@dataclass(slots=True)
class FaultBook:
    """The faults that are set, in the order in which they were."""

    seed: int
    _faults: dict[str, Fault] = field(default_factory=dict)
    _issued: int = 0

    def __iter__(self) -> Iterator[Fault]:
        return iter(list(self._faults.values()))

    def add(self, given: object, clinics: list[str]) -> Fault:
        """Set a fault; raise ``BadFaultError`` where it is unknown or carries a bad value."""
        try:
            spec = FaultSpec.model_validate(given)
        except ValidationError as error:
            raise BadFaultError(_explain(error)) from error
        kind = KINDS.get(spec.fault)
        if kind is None:
            raise BadFaultError("Unknown fault.")
        given_options = spec.model_dump(exclude_unset=True, exclude_none=True)
        foreign = sorted(given_options.keys() - {"fault", *kind.allowed})
        if foreign:
            raise BadFaultError(f"{spec.fault} knows no option {', '.join(foreign)}.")
        if spec.clinic is not None and spec.clinic not in clinics:
            raise BadFaultError(f"Unknown clinic. Known: {', '.join(clinics)}.")
        self._issued += 1
        fault_id = f"flt_{self._issued}"
        fault = Fault(fault_id, spec, spec.count, dice(self.seed, fault_id))
        self._faults[fault_id] = fault
        return fault

    def remove(self, fault_id: str) -> bool:
        """Take a fault back; tell whether it was set."""
        return self._faults.pop(fault_id, None) is not None

    def clear(self) -> None:
        """Take every fault back."""
        self._faults.clear()

    def reset(self) -> None:
        """Take every fault back and count from one again."""
        self.clear()
        self._issued = 0

    def for_call(self, path: str, clinic: str | None) -> tuple[Fault | None, dict[str, Fault]]:
        """Draw what befalls a call: at most one fault that replaces the answer, else the others.

        ``path`` is the documented path, with ``/v1``. A fault that names no path is meant for live
        fetches.
        """

        def meant(fault: Fault) -> bool:
            target = fault.spec.path or FETCH_PATH
            return target in (EVERY_PATH, path) and fault.spec.clinic in (None, clinic)

        replacing = self._draw({Group.ANSWER}, meant, most=1)
        if replacing:
            return next(iter(replacing.values())), {}
        return None, self._draw({Group.ACCEPTANCE}, meant)

    def for_job(self, clinic: str) -> dict[str, Fault]:
        """Draw what befalls a job that is being accepted, leaving faults that name a job alone."""
        return self._draw(
            EVENT_GROUPS,
            lambda fault: fault.spec.job_id is None and fault.spec.clinic in (None, clinic),
        )

    def for_running_job(self, job_id: str) -> dict[str, Fault]:
        """Draw the faults that name a job which is about to report."""
        return self._draw(EVENT_GROUPS, lambda fault: str(fault.spec.job_id) == job_id)

    def for_event(self, clinic: str | None) -> dict[str, Fault]:
        """Draw what befalls the delivery of an event that no job of the sandbox made."""
        return self._draw(
            {Group.DELIVERY},
            lambda fault: fault.spec.job_id is None and fault.spec.clinic in (None, clinic),
        )

    def _draw(
        self, groups: Iterable[Group], meant: Callable[[Fault], bool], most: int | None = None
    ) -> dict[str, Fault]:
        drawn: dict[str, Fault] = {}
        for fault in list(self._faults.values()):
            if len(drawn) == most:
                break
            wanted = KINDS[fault.name].group in groups and fault.name not in drawn and meant(fault)
            if not wanted or fault.chance.random() >= fault.spec.rate:
                continue
            drawn[fault.name] = fault
            fault.applied += 1
            if fault.left is not None:
                fault.left -= 1
                if fault.left == 0:
                    del self._faults[fault.id]
        return drawn


def allowed() -> dict[str, object]:
    """List every fault with what it does and the options it knows."""
    return {
        name: {"does": kind.summary, "options": list(kind.allowed)} for name, kind in KINDS.items()
    }


def _explain(error: ValidationError) -> str:
    problems = (
        f"{'.'.join(map(str, problem['loc'])) or 'body'}: {problem['msg']}"
        for problem in error.errors(include_url=False, include_input=False, include_context=False)
    )
    return f"Bad fault. {'; '.join(problems)}."
