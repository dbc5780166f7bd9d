"""What `make bench` tells: one value, its rival of the same run, and the goal."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Figure:
    """One line of the table: a value, its rival of the same run, and the goal."""

    name: str
    unit: str
    value: float
    rival: str
    rival_value: float
    goal: str
    limit: float
    kind: Literal["ratio_at_most", "ratio_at_least", "difference_at_most", "exactly", "lowest"]
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def is_met(self) -> bool:
        """Whether the value is what it is to be, beside its rival."""
        match self.kind:
            case "ratio_at_most":
                return self.value <= self.limit * self.rival_value
            case "ratio_at_least":
                return self.value >= self.limit * self.rival_value
            case "difference_at_most":
                return self.value - self.rival_value <= self.limit
            case "exactly":
                return self.value == self.rival_value
            case "lowest":
                return self.value < self.rival_value

    @property
    def beside(self) -> str:
        """The value beside that of the rival: a ratio, or how much more it is."""
        if self.kind == "difference_at_most":
            return f"{self.value - self.rival_value:+.2f}"
        return f"{self.value / self.rival_value:.3f}" if self.rival_value else "-"
