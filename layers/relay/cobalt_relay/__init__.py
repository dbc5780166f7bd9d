"""Cobalt Relay.

Live appointments through the Cobalt API, landed in S3, announced on EventBridge, never lost.
"""
