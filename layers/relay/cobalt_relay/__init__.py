"""Cobalt Relay.

Live appointments through the Cobalt API, landed in S3, announced on EventBridge, never lost.
"""

import gc

gc.set_threshold(100_000, 20, 100)
"""How many new objects there may be before garbage is looked for. To load what a function needs, or
to read a large result, makes hundreds of thousands, and all of them are in use: with Python's own
2,000 a tenth of each cold start went into looking at them again and again."""
