"""What the relay is measured against: the same work as one would do it first, or otherwise."""
