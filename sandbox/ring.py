"""A log with an end: the newest entries stay, the oldest go."""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator


class Ring[T](deque[T]):
    """A list that keeps its newest ``size`` entries."""

    def __init__(self, size: int) -> None:
        super().__init__(maxlen=size)


class KeyedRing[T]:
    """A dictionary that keeps its newest entries, by number and by weight.

    ``weigh`` tells what an entry weighs; the newest one stays whatever it weighs.
    """

    def __init__(
        self, size: int, weigh: Callable[[T], int] = lambda _: 0, most_weight: int = 0
    ) -> None:
        self._entries: OrderedDict[str, T] = OrderedDict()
        self._size = size
        self._weigh = weigh
        self._most_weight = most_weight
        self._weight = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._entries.values()))

    def get(self, key: str) -> T | None:
        """Find an entry that has not gone yet."""
        return self._entries.get(key)

    def put(self, key: str, entry: T) -> None:
        """Add an entry, in place of an earlier one with its key."""
        earlier = self._entries.pop(key, None)
        if earlier is not None:
            self._weight -= self._weigh(earlier)
        self._entries[key] = entry
        self._weight += self._weigh(entry)
        while len(self._entries) > 1 and (
            len(self._entries) > self._size or self._weight > self._most_weight
        ):
            _, oldest = self._entries.popitem(last=False)
            self._weight -= self._weigh(oldest)

    def clear(self) -> None:
        """Drop every entry."""
        self._entries.clear()
        self._weight = 0
