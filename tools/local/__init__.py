"""The stack on this machine: a local AWS, the sandbox, and what deploys and shows them.

Run as ``python -m tools.local <verb>``; the Makefile names the verbs. State lives under
``.local/``, every server binds to 127.0.0.1, and nothing is left running that a command does not
say it leaves.
"""
