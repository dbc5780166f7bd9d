"""Functions with the calls of the relay and no checks: `bench/throughput.py` deploys them."""
