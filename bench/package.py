"""What is deployed: the bytes of both layers, unzipped, as Lambda counts and loads them."""

from bench.figures import Figure
from bench.setting import naive_packages, packages_of, size_of
from tools.local import deploy

LIMIT = 0.35
MEGA = 1_000_000


def measure(*, quick: bool = False) -> list[Figure]:  # noqa: ARG001 - it is quick as it is
    """Measure the layers as they were built, for both architectures at once."""
    deploy.build()
    layers = packages_of()
    parts = {name: size_of(layers[name]) for name in ("dependencies", "relay")}
    naive = size_of(naive_packages())
    return [
        Figure("both layers, unzipped", "MB", sum(parts.values()) / MEGA,
               "pip install --target, one architecture", naive / MEGA,
               f"at most {LIMIT} times", LIMIT, "ratio_at_most",
               {"bytes": parts, "naive_bytes": naive})
    ]  # fmt: skip
