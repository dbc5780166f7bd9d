"""What the relay is measured against: the same done without it, written for the bench."""
