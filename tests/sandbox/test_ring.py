from sandbox.ring import KeyedRing, Ring


def test_newest_entries_stay_when_a_log_is_full() -> None:
    ring: Ring[int] = Ring(3)

    ring.extend(range(10))

    assert list(ring) == [7, 8, 9]


def test_oldest_entries_go_when_there_are_too_many_or_they_weigh_too_much() -> None:
    ring = KeyedRing[str](3, len, 10)

    for text in ("a", "bb", "ccc", "dddd", "eeeee"):
        ring.put(text[0], text)

    assert list(ring) == ["dddd", "eeeee"]
    assert ring.get("a") is None
    ring.put("f", "f" * 50)
    assert list(ring) == ["f" * 50]
    ring.put("f", "f")
    ring.put("g", "g" * 9)
    assert list(ring) == ["f", "g" * 9]
