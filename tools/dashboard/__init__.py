"""The dashboard of the template, drawn from what a local run measured."""
