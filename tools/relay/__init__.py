"""`relay`, the operator's command line: one module per group of commands, loaded when it is used.

app         the commands and their options; what goes wrong becomes an exit code
session     which stack is meant, and the ways to reach it
output      tables for people, one JSON document for programs
faults      the exit codes
"""
