"""One module per use case, named like the function that serves it.

No AWS, no HTTP, no environment.
"""
