"""A stand-in for the Cobalt API and the clinics behind it, over real HTTP.

Run it with ``python -m sandbox``. Everything it holds is made up, lives in memory and follows from
a seed, so that a team can integrate with Cobalt, and test what goes wrong, without a clinic.
"""
