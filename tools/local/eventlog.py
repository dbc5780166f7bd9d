"""The stack's queue with a copy of every event, read to its end and remembered."""

import json
from dataclasses import dataclass, field
from typing import Any

from tools.local.aws import Aws

type Event = dict[str, Any]
CHANGED = "Appointments Changed"


@dataclass
class EventLog:
    """Every event since the stack was deployed, oldest first.

    Reading takes the messages out of the queue, so there can be one reader only.
    """

    aws: Aws
    queue_url: str
    _seen: list[Event] = field(default_factory=list)

    def all(self) -> list[Event]:
        """Give every event that arrived so far, as EventBridge wrote it."""
        while messages := self.aws.sqs.receive_message(
            QueueUrl=self.queue_url, MaxNumberOfMessages=10
        ).get("Messages"):
            self._seen += [json.loads(message["Body"]) for message in messages]
            self.aws.sqs.delete_message_batch(
                QueueUrl=self.queue_url,
                Entries=[
                    {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
                    for number, message in enumerate(messages)
                ],
            )
        return list(self._seen)

    def of(self, job_execution_id: str) -> list[Event]:
        """Give the events about how a job ended."""
        return [each for each in self._about(job_execution_id) if each["detail-type"] != CHANGED]

    def changes_of(self, job_execution_id: str) -> list[Event]:
        """Give the events about what a job's fetch changed."""
        return [each for each in self._about(job_execution_id) if each["detail-type"] == CHANGED]

    def _about(self, job_execution_id: str) -> list[Event]:
        return [
            event
            for event in self.all()
            if event["detail"].get("job_execution_id") == job_execution_id
        ]
