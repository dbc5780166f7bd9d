"""Everything that talks to something else.

AWS services and Cobalt. Faults come out as `cobalt_relay.errors`.
"""
