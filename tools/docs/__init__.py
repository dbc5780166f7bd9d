"""The contracts in `docs/` as pages: one file each, that loads nothing.

``make docs`` runs it. Redocly makes both pages, with the packages that `make audit` has pinned.
"""
